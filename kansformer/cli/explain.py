"""`kansformer explain`: audit every curve of a model and write the report."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from kansformer.cli.progress import progress_bar, quiet_transformers
from kansformer.errors import CheckpointError, ConfigError

KEPT = ".fits"


def explain_command(
    model: Annotated[str, typer.Argument(help="A Hub id or the folder of a converted language model.")],
    out: Annotated[Path, typer.Option(help="The folder for report.html, summary.md, summary.json and edges.parquet.")],
    text: Annotated[
        Path | None, typer.Option(help="A text file to read.", show_default="the standard library's held-out files")
    ] = None,
    block: Annotated[int, typer.Option(help="Tokens in a block.", min=2)] = 256,
    batch_size: Annotated[int, typer.Option(help="Blocks in one forward pass.", min=1)] = 4,
    max_tokens: Annotated[int, typer.Option(help="Read at most so many tokens.", min=2)] = 16_384,
    part: Annotated[
        str, typer.Option(help="What to name: the whole edge, or what was learned on top of its base (learned).")
    ] = "edge",
    sites: Annotated[str | None, typer.Option(help="Only sites whose path has this in it.", show_default="all")] = None,
) -> None:
    """Say of every edge of a model what goes into it, how much it matters, and which function it is."""
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"--out {str(out)!r} is a file. Give the folder to write into.")
    if max_tokens < block:
        raise ConfigError(f"--max-tokens {max_tokens} is less than one block of {block} tokens.")
    from kansformer.conversion.sources import read_language_model
    from kansformer.interp.places import find_places
    from kansformer.interp.summary import GOOD, MEASURES, summarize
    from kansformer.training.corpus import standard_library_documents, tokenize_blocks
    from kansformer.training.text import file_text
    from kansformer.views import write_report

    quiet_transformers()
    language_model, tokenizer = read_language_model(model)
    chosen = [(p.site, p.slot) for p in find_places(language_model) if sites is None or sites in p.site]
    if not chosen:
        raise ConfigError(
            f"No site of this model has {sites!r} in its path, such as {find_places(language_model)[0].site}."
        )
    documents = standard_library_documents("held_out") if text is None else file_text(text, max_tokens=max_tokens)
    blocks_NT = tokenize_blocks(documents, tokenizer, block)[: max_tokens // block]
    batches = [{"input_ids": part, "labels": part} for part in blocks_NT.split(batch_size)]
    typer.echo(f"Reading {blocks_NT.numel():,} tokens with {model} ({type(language_model).__name__}).")

    begin = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with progress_bar() as progress:
            summary = summarize(language_model, batches, part=part, slots=chosen, kept=out / KEPT, progress=progress)
    except KeyboardInterrupt:
        typer.echo(f"Stopped. What was fitted is kept in {out / KEPT}; the same command goes on from there.", err=True)
        raise
    summary.to_pandas().to_parquet(out / "edges.parquet", index=False)
    (out / "summary.json").write_text(summary.to_json() + "\n", encoding="utf-8")
    (out / "summary.md").write_text(summary.to_markdown(), encoding="utf-8")
    write_report(summary, out / "report.html", title=f"The curves of {Path(model).name}")
    shutil.rmtree(out / KEPT)
    edges = sum(len(slot.fits) for slot in summary.slots)
    typer.echo(f"{edges:,} edges in {time.perf_counter() - begin:.0f} s. Share that is a function of the library:")
    for measure, points in MEASURES.items():
        shares = [f"{summary.coverage(measure, control=control):.1%}" for control in (False, True)]
        typer.echo(f"  {shares[0]} with R² ≥ {GOOD} {points}; of random curves {shares[1]}.")
    if summary.loss is not None and summary.replaced:
        share, _, loss = summary.replaced[-1]
        typer.echo(f"Loss {summary.loss:.4f}; with {share:.0%} of the edges computed by their formulas {loss:.4f}.")
    typer.echo(f"Written: report.html, summary.md, summary.json and edges.parquet, in {out}")
