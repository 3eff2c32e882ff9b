"""`kansformer explain`: audit every curve of a model and write the report."""

import json
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from kansformer.cli.loading import (
    BlockOption,
    DeviceOption,
    ModelArgument,
    TextOption,
    load_model_and_blocks,
    load_text,
)
from kansformer.errors import CheckpointError, ConfigError
from kansformer.files import check_folder, check_free_space, check_writable, updated_folder
from kansformer.progress import progress_bar
from kansformer.safe_io import read_json
from kansformer.wording import counted

FIT_CACHE = ".fits"
CACHE_ENTRY = re.compile(r"\.?\w+-\d+-\d+\.parquet(\.partial-\d+-\d+)?|kansformer-audit-\w+")
"""Names in it: files of fits, or a part of one where a process was killed, and the folder of `TableFolder`."""

REPORT, MARKDOWN, FIGURES, EDGES = "report.html", "summary.md", "summary.json", "edges.parquet"
OWN_FIGURES = {"conclusion", "tokens", "edges", "slots"}
"""Entries of our summary.json that tell it from another program's."""

FIXED_BYTES, BYTES_PER_EDGE = 8_000_000, 500
"""A bound of what is written: the report brings 4.8 MB of drawing code, a row of the table has up to 350 bytes."""


def explain_command(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="The folder for report.html, summary.md, summary.json and edges.parquet.")],
    text: TextOption = None,
    column: Annotated[str, typer.Option(help="Column of a CSV or JSON lines file with the text.")] = "text",
    block: BlockOption = 256,
    batch_size: Annotated[int, typer.Option(help="Blocks in one forward pass.", min=1)] = 4,
    max_tokens: Annotated[int, typer.Option(help="The most tokens to read.", min=2)] = 16_384,
    device: DeviceOption = None,
    part: Annotated[
        str, typer.Option(help="What to name: the whole edge, or what was learned on top of its base (learned).")
    ] = "edge",
    sites: Annotated[str | None, typer.Option(help="Only sites whose path has this in it.", show_default="all")] = None,
) -> None:
    """Say of every edge of a model what goes into it, how much it matters, and which function it is."""
    check_folder(out)
    check_writable(out)
    _check_own(out)
    from kansformer.conversion.measured import WEIGHTS, digest_of_weights
    from kansformer.conversion.slots import find_curve_slots
    from kansformer.interp import summarize
    from kansformer.interp.wording import GOOD, faithful_sentence, loss_text
    from kansformer.views import write_report
    from kansformer.views.report import check_plotly

    check_plotly()
    documents, _ = load_text(text, max_tokens, column)
    language_model, blocks_NT = load_model_and_blocks(model, documents, block, max_tokens, device)
    slots = find_curve_slots(language_model)
    chosen = [(slot.site, slot.name) for slot in slots if sites is None or sites in slot.site]
    if not chosen:
        raise ConfigError(f"No site of this model has {sites!r} in its path, such as {slots[0].site}.")
    edges = sum(slot.num_edges for slot in slots if (slot.site, slot.name) in chosen)
    check_free_space(out, FIXED_BYTES + edges * BYTES_PER_EDGE, "the report")
    batches = [{"input_ids": part, "labels": part} for part in blocks_NT.split(batch_size)]
    typer.echo(f"Reading {counted(blocks_NT.numel(), 'token')} with {model} ({type(language_model).__name__}).")

    begin = time.perf_counter()
    out.resolve().mkdir(parents=True, exist_ok=True)  # a link may lead to a folder that is still to be made
    cache = out / FIT_CACHE
    try:
        with progress_bar() as progress:
            summary = summarize(language_model, batches, part=part, slots=chosen, kept=cache, progress=progress)
    except KeyboardInterrupt:
        typer.echo(f"Stopped. The fits so far are in {cache}; the same command goes on from there.", err=True)
        raise
    figures = json.loads(summary.to_json())
    if Path(model).is_dir():
        figures[WEIGHTS] = digest_of_weights(Path(model))
    with updated_folder(out, lambda name: False) as folder:
        summary.write_parquet(folder / EDGES)
        (folder / FIGURES).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        (folder / MARKDOWN).write_text(summary.to_markdown(), encoding="utf-8", newline="")
        write_report(summary, folder / REPORT, title=f"The curves of {Path(model).name}")
    typer.echo(f"{summary.conclusion}\n")
    seconds, read = time.perf_counter() - begin, counted(summary.num_edges, "edge")
    typer.echo(f"{read} in {seconds:.0f} s, {summary.num_trained:,} of them trained. A function of the library is:")
    for measure, share, control in summary.coverage_table():
        typer.echo(f"  {share} with R² ≥ {GOOD} {measure}; of random curves {control}.")
    if summary.loss is not None and summary.replaced:
        share, _, loss = summary.loss_table()[-1]
        typer.echo(f"Loss {loss_text(summary.loss)}; with {share} of the edges computed by their formulas {loss}.")
    if summary.faithfulness is not None:
        typer.echo(faithful_sentence(summary.faithfulness))
    typer.echo(f"Written: {REPORT}, {MARKDOWN}, {FIGURES} and {EDGES}, in {out}")
    with suppress(OSError):  # it stays where others have put files into it meanwhile
        for entry in _fits(cache):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        cache.rmdir()


def _check_own(out: Path) -> None:
    """Check that an audit replaces files of an earlier one only; other files of the folder stay.

    Raises:
        CheckpointError: a file that it would replace or remove is not known to be from one.
    """
    cache = out / FIT_CACHE
    if os.path.lexists(cache) and (not cache.is_dir() or set(cache.iterdir()) != set(_fits(cache))):
        raise CheckpointError(f"{str(cache)!r} holds more than the fits of an earlier audit. Choose another --out.")
    present = [name for name in (REPORT, MARKDOWN, FIGURES, EDGES) if os.path.lexists(out / name)]
    if present and not _is_audit(out / FIGURES):
        raise CheckpointError(
            f"{str(out / present[0])!r} would be replaced, and is not known to be from an earlier audit. Choose "
            "another --out."
        )


def _is_audit(file: Path) -> bool:
    try:
        figures = read_json(file)
    except (CheckpointError, OSError):
        return False
    return isinstance(figures, dict) and figures.keys() >= OWN_FIGURES


def _fits(cache: Path) -> list[Path]:
    """What `summarize` keeps in a folder."""
    return [entry for entry in cache.iterdir() if CACHE_ENTRY.fullmatch(entry.name)]
