"""`kansformer evaluate`: loss and perplexity of a language model, with and without its curves."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kansformer.cli.loading import load_language_model, quiet_transformers
from kansformer.cli.progress import progress_bar
from kansformer.errors import ConfigError, ConversionStateError

if TYPE_CHECKING:
    from kansformer.training.evaluate import Evaluation


def evaluate_command(
    model: Annotated[str, typer.Argument(help="A Hub id, the folder of a language model, or a GGUF file.")],
    text: Annotated[
        Path | None, typer.Option(help="A text file.", show_default="the standard library's held-out files")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="A dataset: a Hub id or a folder.")] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of the dataset.")] = None,
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "test",
    column: Annotated[str, typer.Option(help="Column of the dataset with the text.")] = "text",
    block: Annotated[int, typer.Option(help="Tokens in a block; each block is read on its own.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Blocks in one forward pass.")] = 8,
    max_tokens: Annotated[int | None, typer.Option(help="Read at most so many tokens.", show_default="all")] = None,
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
    if max_tokens is not None and max_tokens < block:
        raise ConfigError(f"--max-tokens {max_tokens} is less than one block of {block} tokens.")
    from kansformer.conversion import is_converted, revert
    from kansformer.hub.model_folder import ModelFolder
    from kansformer.training.corpus import standard_library_documents, tokenize_blocks
    from kansformer.training.evaluate import mean_loss
    from kansformer.training.text import dataset_text, file_text

    quiet_transformers()
    if record:
        ModelFolder.read(Path(model))  # refuses what has no card before the work
    documents: str | list[str]
    if text is not None:
        documents, source = file_text(text, max_tokens=max_tokens), text.name
    elif dataset is not None:
        documents = dataset_text(dataset, config=config, split=split, column=column, max_tokens=max_tokens)
        source = f"{dataset}, {split}"
    else:
        documents, source = standard_library_documents("held_out"), "the standard library's held-out files"

    language_model, tokenizer = load_language_model(model)
    if compare and not is_converted(language_model):
        raise ConversionStateError(f"{model!r} is not converted, so there is nothing to compare. Leave out --compare.")
    _check_block(block, language_model)
    blocks_NT = tokenize_blocks(documents, tokenizer, block)
    if max_tokens is not None:
        blocks_NT = blocks_NT[: max_tokens // block]

    typer.echo(f"model  {model} ({type(language_model).__name__})")
    typer.echo(f"text   {source}: {blocks_NT.shape[0]:,} blocks of {block} tokens\n")
    typer.echo(f"{'':14}  {'loss':>9}  {'perplexity':>10}  {'tokens':>10}  {'seconds':>7}")
    name = "with curves" if is_converted(language_model) else "as it is"
    with progress_bar(name) as progress:
        first = mean_loss(language_model, blocks_NT, batch_size, progress=progress)
    typer.echo(_row(name, first))
    second = None
    if compare:
        revert(language_model)
        with progress_bar("without curves") as progress:
            second = mean_loss(language_model, blocks_NT, batch_size, progress=progress)
        typer.echo(_row("without curves", second))
        loss, perplexity = first.loss - second.loss, first.perplexity - second.perplexity
        typer.echo(f"{'difference':14}  {loss:>+9.4f}  {perplexity:>+10.3f}")
    if record:
        _record(Path(model), f"{source}, blocks of {block} tokens", first, second)
        typer.echo(f"\nWritten into {model}.")


def _row(name: str, result: "Evaluation") -> str:
    return f"{name:14}  {result.loss:>9.4f}  {result.perplexity:>10.3f}  {result.tokens:>10,}  {result.seconds:>7.1f}"


def _record(folder: Path, dataset: str, first: "Evaluation", second: "Evaluation | None") -> None:
    from kansformer.hub.card import write_card
    from kansformer.hub.card_metadata import add_results

    results = []
    for metric, digits in (("loss", 4), ("perplexity", 3)):
        row = {"dataset": dataset, "metric": metric, "value": round(getattr(first, metric), digits)}
        # Not the original: its other weights may have been trained as well.
        results += [row if second is None else row | {"without_curves": round(getattr(second, metric), digits)}]
    add_results(folder, results)
    write_card(folder)


def _check_block(block: int, model) -> None:
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and block > longest:
        raise ConfigError(f"--block {block} is longer than the {longest} positions of this model.")
