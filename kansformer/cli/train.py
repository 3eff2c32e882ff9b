"""`kansformer train`: run a recipe; `kansformer recipes`: what there is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kansformer.cli.loading import prepare_transformers
from kansformer.errors import ConfigError
from kansformer.progress import progress_bar

if TYPE_CHECKING:
    from kansformer.training.recipe import Recipe

RUNS = Path("kansformer-runs")


def train_command(
    recipe: Annotated[
        str | None, typer.Argument(help="A .yaml file, or the name of a recipe that comes with kansformer.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Argument(help="field=value, such as training.max_steps=100.", show_default="none")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="The recipe, as an option.", show_default="the first argument")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The folder to write.", show_default=f"{RUNS}/NAME")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last checkpoint, if any.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe with its changes, and stop.")] = False,
) -> None:
    """Train a model by a recipe. Several processes: accelerate launch -m kansformer train RECIPE."""
    from kansformer.training.recipe_file import dump_recipe, read_recipe

    changes = changes or []
    if config is not None:  # then the first argument is a change already
        recipe, changes = config, [*([recipe] if recipe else []), *changes]
    if recipe is None:
        raise ConfigError("No recipe was given. `kansformer recipes` lists those that come with kansformer.")
    settings = read_recipe(recipe, changes)
    if show:
        typer.echo(dump_recipe(settings).rstrip())
        return
    name = Path(recipe).stem
    folder = output or RUNS / name
    if settings.transcoder is not None:
        _train_transcoders(settings, folder, resume)
        return
    from kansformer.training.processes import end_processes, is_main_process
    from kansformer.training.resume import RESULT_FILE
    from kansformer.training.run import train

    prepare_transformers()
    finished = resume and (folder / RESULT_FILE).exists()
    with progress_bar(name) as progress:
        result = train(settings, folder, resume=resume, progress=progress)
    end_processes()
    if not is_main_process():
        return
    files = "recipe.yaml, losses.csv and training.json"
    if result.curve_parameters:
        from kansformer.hub import write_card

        write_card(folder, origin=_origin(settings), datasets=_datasets(settings))
        files = f"README.md, {files}"
    if finished:
        typer.echo(
            f"{result}\nThe run in {folder} was finished already, and nothing was trained. To go on training its "
            f"model, start a recipe with model.path={folder} in another folder."
        )
        return
    typer.echo(f"{result}\nWritten: {folder}, with {files}")


def _train_transcoders(recipe: "Recipe", folder: Path, resume: bool) -> None:
    from kansformer.cli.transcoder import train_transcoders

    if resume:
        raise ConfigError("A transcoder run keeps no checkpoints to resume from. Leave out --resume.")
    prepare_transformers()
    for place, figures in train_transcoders(recipe, folder):
        typer.echo(f"{figures}\nWritten: {place}, with config.json, transcoder.safetensors and figures.json")


def _origin(recipe: "Recipe") -> str | None:
    """The Hub id or folder that a run began from, if any."""
    return None if recipe.model.path == "embedded" else recipe.model.path


def _datasets(recipe: "Recipe") -> list[str]:
    """The dataset of a run, if it is one of the Hub."""
    name = recipe.data.dataset
    return [] if name is None or Path(name).exists() else [name]


def recipes_command() -> None:
    """List the recipes that come with kansformer, with what their first line says."""
    from kansformer.training.recipe_file import recipe_names, recipe_title

    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        typer.echo(f"{name:{width}}  {recipe_title(name)}")
