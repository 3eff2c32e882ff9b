"""`kansformer evaluate`: loss and perplexity of a language model, with and without its curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kansformer.cli.loading import (
    BlockOption,
    DeviceOption,
    ModelArgument,
    TextOption,
    load_model_and_blocks,
    load_text,
)
from kansformer.errors import ConfigError, ConversionStateError
from kansformer.progress import progress_bar
from kansformer.wording import counted

if TYPE_CHECKING:
    from kansformer.training.evaluate import Evaluation


def evaluate_command(
    model: ModelArgument,
    text: TextOption = None,
    dataset: Annotated[str | None, typer.Option(help="A dataset: a Hub id or a folder.")] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of the dataset.")] = None,
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "test",
    column: Annotated[
        str, typer.Option(help="Column of the dataset, or of a CSV or JSON lines file, with the text.")
    ] = "text",
    block: BlockOption = 256,
    batch_size: Annotated[int, typer.Option(help="Blocks in one forward pass.")] = 8,
    max_tokens: Annotated[int | None, typer.Option(help="The most tokens to read.", show_default="all")] = None,
    device: DeviceOption = None,
    compare: Annotated[
        bool, typer.Option("--compare", "--without-swap", help="Also evaluate with all curves taken out.")
    ] = False,
    record: Annotated[
        bool, typer.Option(help="Write the results into the model's folder and, unless somebody edited it, its card.")
    ] = False,
) -> None:
    """Print a language model's loss and perplexity on a text."""
    if text is not None and dataset is not None:
        raise ConfigError(f"Both --text {text} and --dataset {dataset} were given. Choose one.")
    from kansformer.conversion import is_converted, revert
    from kansformer.hub.model_folder import ModelFolder
    from kansformer.training.data.load import dataset_text
    from kansformer.training.evaluate import mean_loss

    if record:
        ModelFolder.read(Path(model))  # refuses what has no card before the work
    if dataset is None:
        documents, source = load_text(text, max_tokens, column)
    else:
        documents = dataset_text(dataset, config=config, split=split, column=column, max_tokens=max_tokens)
        source = ", ".join(filter(None, (dataset, config, split)))
    language_model, blocks_NT = load_model_and_blocks(model, documents, block, max_tokens, device)
    if compare and not is_converted(language_model):
        raise ConversionStateError(f"{model!r} is not converted, so there is nothing to compare. Leave out --compare.")

    typer.echo(f"model  {model} ({type(language_model).__name__})")
    typer.echo(f"text   {source}: {counted(len(blocks_NT), 'block')} of {counted(block, 'token')}\n")
    typer.echo(f"{'':14}  {'loss':>9}  {'perplexity':>10}  {'tokens':>10}  {'seconds':>7}")

    def evaluate(name: str) -> Evaluation:
        with progress_bar(name) as progress:
            result = mean_loss(language_model, blocks_NT, batch_size, progress=progress)
        figures = f"{result.loss:>9.4f}  {result.perplexity:>10.3f}  {result.tokens:>10,}  {result.seconds:>7.1f}"
        typer.echo(f"{name:14}  {figures}")
        return result

    first, second = evaluate("with curves" if is_converted(language_model) else "as it is"), None
    if compare:
        revert(language_model)
        second = evaluate("without curves")
        loss, perplexity = first.loss - second.loss, first.perplexity - second.perplexity
        typer.echo(f"{'difference':14}  {loss:>+9.4f}  {perplexity:>+10.3f}")
    if record:
        limit = "" if max_tokens is None else f"the first {max_tokens:,} tokens in "
        _record(Path(model), f"{source}, {limit}blocks of {block} tokens", first, second)
        typer.echo(f"\nWritten into {model}.")


def _record(folder: Path, dataset: str, first: Evaluation, second: Evaluation | None) -> None:
    from kansformer.conversion.measured import WEIGHTS, digest_of_weights
    from kansformer.hub.card import write_card
    from kansformer.hub.card_metadata import add_results

    source = {"dataset": dataset, WEIGHTS: digest_of_weights(folder)}
    rows = [
        {**source, "metric": "loss", "value": round(first.loss, 4)},
        {**source, "metric": "perplexity", "value": round(first.perplexity, 3)},
    ]
    if second is not None:  # not the original: its other weights may have been trained as well
        rows[0]["without_curves"], rows[1]["without_curves"] = round(second.loss, 4), round(second.perplexity, 3)
    add_results(folder, rows)
    write_card(folder)
