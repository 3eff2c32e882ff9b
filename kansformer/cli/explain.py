"""`kansformer explain`: audit every curve of a model and write the report."""

import json
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from kansformer.cli.loading import BlockOption, ModelArgument, TextOption, load_model_and_blocks, load_text
from kansformer.errors import ConfigError
from kansformer.files import atomic_write_text, check_folder, check_free_space, check_writable
from kansformer.progress import progress_bar
from kansformer.wording import counted

FIT_CACHE = ".fits"

FIXED_BYTES, BYTES_PER_EDGE = 8_000_000, 500
"""A bound of what is written: the report brings 4.8 MB of drawing code, a row of the table has up to 350 bytes."""


def explain_command(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="The folder for report.html, summary.md, summary.json and edges.parquet.")],
    text: TextOption = None,
    block: BlockOption = 256,
    batch_size: Annotated[int, typer.Option(help="Blocks in one forward pass.", min=1)] = 4,
    max_tokens: Annotated[int, typer.Option(help="The most tokens to read.", min=2)] = 16_384,
    part: Annotated[
        str, typer.Option(help="What to name: the whole edge, or what was learned on top of its base (learned).")
    ] = "edge",
    sites: Annotated[str | None, typer.Option(help="Only sites whose path has this in it.", show_default="all")] = None,
) -> None:
    """Say of every edge of a model what goes into it, how much it matters, and which function it is."""
    check_folder(out)
    check_writable(out)
    from kansformer.conversion.measured import WEIGHTS, digest_of_weights
    from kansformer.conversion.slots import find_curve_slots
    from kansformer.interp import summarize
    from kansformer.interp.wording import GOOD, faithful_sentence, loss_text
    from kansformer.views import write_report
    from kansformer.views.report import check_plotly

    check_plotly()
    documents, _ = load_text(text, max_tokens)
    language_model, blocks_NT = load_model_and_blocks(model, documents, block, max_tokens)
    slots = find_curve_slots(language_model)
    chosen = [(slot.site, slot.name) for slot in slots if sites is None or sites in slot.site]
    if not chosen:
        raise ConfigError(f"No site of this model has {sites!r} in its path, such as {slots[0].site}.")
    edges = sum(slot.num_edges for slot in slots if (slot.site, slot.name) in chosen)
    check_free_space(out, FIXED_BYTES + edges * BYTES_PER_EDGE, "the report")
    batches = [{"input_ids": part, "labels": part} for part in blocks_NT.split(batch_size)]
    typer.echo(f"Reading {counted(blocks_NT.numel(), 'token')} with {model} ({type(language_model).__name__}).")

    begin = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    cache = out / FIT_CACHE
    try:
        with progress_bar() as progress:
            summary = summarize(language_model, batches, part=part, slots=chosen, kept=cache, progress=progress)
    except KeyboardInterrupt:
        typer.echo(f"Stopped. The fits so far are in {cache}; the same command goes on from there.", err=True)
        raise
    summary.write_parquet(out / "edges.parquet")
    figures = json.loads(summary.to_json())
    if Path(model).is_dir():
        figures[WEIGHTS] = digest_of_weights(Path(model))
    atomic_write_text(out / "summary.json", json.dumps(figures, indent=1) + "\n")
    atomic_write_text(out / "summary.md", summary.to_markdown())
    write_report(summary, out / "report.html", title=f"The curves of {Path(model).name}")
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
    typer.echo(f"Written: report.html, summary.md, summary.json and edges.parquet, in {out}")
    shutil.rmtree(cache)
