"""`kansformer convert`: swap a model's feed-forward networks and save it."""

import time
from pathlib import Path
from typing import Annotated

import typer

from kansformer.checks import check_choice
from kansformer.cli.loading import load_model, split_names
from kansformer.errors import ConversionStateError
from kansformer.files import atomic_folder, check_free_space, check_unused, check_writable, folder_bytes
from kansformer.progress import progress_lines
from kansformer.wording import counted

DTYPES = ("auto", "float32", "float16", "bfloat16")


def convert_command(
    source: Annotated[str, typer.Argument(help="A Hub id, the folder of a model, or a GGUF file.")],
    output: Annotated[Path, typer.Argument(help="The folder to write; it must be new or empty.")],
    basis: Annotated[str, typer.Option(help="bspline, chebyshev, rbf, fourier or rational.")] = "bspline",
    grid_size: Annotated[int, typer.Option(help="Grid intervals in the domain.")] = 5,
    order: Annotated[int, typer.Option(help="Polynomial degree.")] = 3,
    domain: Annotated[tuple[float, float], typer.Option(help="Lower and upper end of the grid.")] = (-4.0, 4.0),
    edges: Annotated[str, typer.Option(help="channel, group, low_rank or full.")] = "channel",
    rank: Annotated[int, typer.Option(help="Rank of low_rank edges.")] = 16,
    groups: Annotated[int, typer.Option(help="Groups of group curves.")] = 8,
    slots: Annotated[str, typer.Option(help="With commas, any of input, up, gate, act, down.")] = "act",
    layers: Annotated[
        str | None, typer.Option(help="Numbers with commas, a slice such as 8:, or last-third.", show_default="all")
    ] = None,
    share: Annotated[str, typer.Option(help="slot for curves in every layer, model for one set for all.")] = "slot",
    curves: Annotated[
        str | None,
        typer.Option(help="A file of freeze_curves, whose settings rule.", show_default="straight curves"),
    ] = None,
    trainable: Annotated[
        bool, typer.Option("--trainable/--fixed", help="Whether these curves are trained on, or a fixed function.")
    ] = True,
    dtype: Annotated[str, typer.Option(help=f"Of the weights: {', '.join(DTYPES)}.")] = "auto",
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Prove every site before it is swapped.")] = True,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Print what would change, and stop.")] = False,
) -> None:
    """Give a model's feed-forward networks learned curves, and save it. Only --curves changes the outputs."""
    from transformers import PreTrainedTokenizerBase

    from kansformer.config import KANConfig
    from kansformer.conversion import convert, is_converted, plan_conversion
    from kansformer.conversion.sources import has_curves, read_preprocessor
    from kansformer.hub import write_card

    config = KANConfig(
        basis=basis,
        grid_size=grid_size,
        order=order,
        domain=domain,
        edges=edges,
        rank=rank,
        groups=groups,
        slots=split_names(slots),
        layers=_parse_layers(layers),
        share=share,
        curves=curves,
        trainable=trainable,
    )
    check_choice("dtype", dtype, DTYPES)
    if not plan_only:
        check_unused(output)
        check_writable(output)

    twice = f"{source!r} has curves already. Convert the model that it was made from instead."
    if has_curves(source):
        raise ConversionStateError(twice)
    begin = time.perf_counter()
    model = load_model(source, dtype)
    if is_converted(model):  # a part of it, whose config says so
        raise ConversionStateError(twice)
    typer.echo(f"Loaded {source} ({type(model).__name__}) in {time.perf_counter() - begin:.1f} s.\n")
    plan = plan_conversion(model, config)
    typer.echo(f"{plan}\n")
    if plan_only:
        return
    check_free_space(output, plan.bytes_after, "the model")
    preprocessor = read_preprocessor(source)

    begin = time.perf_counter()
    with progress_lines("proving and converting"):
        convert(model, config, verify=verify)
    proof = "each proved equal to the bit" if verify else "not proved"
    if plan.curves is not None:
        proof += f", with the curves {plan.curves.label}"
    typer.echo(f"Converted {counted(len(plan.sites), 'site')}, {proof}, in {time.perf_counter() - begin:.1f} s.")

    begin = time.perf_counter()
    with progress_lines("saving"), atomic_folder(output) as folder:
        model.save_pretrained(folder)
        if preprocessor is not None:
            preprocessor.save_pretrained(folder)
        write_card(folder, name=output.resolve().name, origin=source)
    kind = "tokenizer" if isinstance(preprocessor, PreTrainedTokenizerBase) else "processor"
    saved = "the model (its source has no tokenizer)" if preprocessor is None else f"model and {kind}"
    typer.echo(f"Saved {saved}: {folder_bytes(output):,} bytes in {time.perf_counter() - begin:.1f} s, in {output}")


def _parse_layers(text: str | None) -> tuple[int, ...] | str | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        return text  # a slice or a name, which KANConfig checks
