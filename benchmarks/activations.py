"""What is a curve worth? Functions of the gate against SwiGLU, by length of training; `activation_study/PLAN.md`.

    pip install '.[bench]'
    python benchmarks/activations.py --texts FOLDER                  # every run without a row: many hours
    python benchmarks/activations.py --texts FOLDER --stages rates source transfer --minutes 60
    python benchmarks/activations.py --texts FOLDER --check          # the engine beside transformers' Trainer
    python benchmarks/activations.py --texts FOLDER --times          # of a step, on a machine that does nothing else
    python benchmarks/activations.py --report                        # page and picture from the rows that are there
    python benchmarks/activations.py --mean FILE                     # one pair of curves, the mean of the source run's

FOLDER has `tinyshakespeare.txt` (of char-rnn and nanoGPT); the long text is Python source of this machine. A run is a
row of `results/activations.csv`, written as it ends; one that `--minutes` stops is kept in `build/activations`. So a
second call goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from activation_study.check import compare_with_trainer
from activation_study.corpora import read_corpus
from activation_study.engine import Run, train
from activation_study.given_curves import write_mean
from activation_study.report import write_report
from activation_study.rows import Row, check_text, losses
from activation_study.stages import SOURCE, SOURCE_FILE, STAGES
from activation_study.times import StepTime, time_step
from activation_study.variants import VARIANTS
from dataclass_csv import append_row, read_rows
from paired import paired_difference
from provenance import processor
from tqdm import tqdm

from kansformer import freeze_curves
from kansformer.training.page_faults import KEEP_MEMORY

RESULTS = Path(__file__).parent / "results"
STATES = Path("build/activations")


def main() -> None:
    options = _options()
    if options.check:
        print(compare_with_trainer(options.texts))
        return
    if options.mean is not None:
        _write_mean(options)
        return
    if options.times is not None:
        _time_steps(options)
    elif not options.report:
        for stage in options.stages:
            _run_stage(stage, options)
    rows, times = read_rows(_rows_file(options.out), Row), read_rows(_times_file(options.out), StepTime)
    print(write_report(rows, times, options.out))


def _run_stage(stage: str, options: argparse.Namespace) -> None:
    """All runs of a stage that have no row, until the time is over; an error of one ends the stage after the others."""
    rows = read_rows(_rows_file(options.out), Row)
    done = {row.run for row in rows}
    runs = [run for run in STAGES[stage](rows) if run not in done]
    for name in {run.corpus for run in runs}:
        check_text(rows, name, read_corpus(name, str(options.texts)).digest)
    os.environ |= KEEP_MEMORY  # a fifth of a step at 3M parameters
    context, errors = multiprocessing.get_context("spawn"), []
    with (
        ProcessPoolExecutor(options.jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        tqdm(total=len(runs), unit="run", desc=stage, disable=None) as bar,
    ):
        futures = [pool.submit(train_run, run, options.texts, options.out, options.end) for run in runs]
        for future in as_completed(futures):
            if (error := future.exception()) is not None:
                errors.append(error)
            elif (row := future.result()) is not None:
                append_row(_rows_file(options.out), row)
                bar.set_postfix_str(f"{row.run.variant} {row.val_loss:.4f}")
            bar.update()
    if errors:
        raise errors[0]


def train_run(run: Run, texts: Path, out: Path, end: float) -> Row | None:
    """Train one network, or go on with it until the time is over; the source run's curves are kept for the others."""
    if time.monotonic() > end:
        return None
    corpus = read_corpus(run.corpus, str(texts))
    given = _curves_file(out, run.source) if run.source else None
    outcome = train(run, corpus, given, state_file=STATES / f"{run.name}.pt", deadline=end)
    if outcome is None:
        return None
    if run == SOURCE:
        source = f"{run.variant} on {run.corpus}, {run.size}, {run.length:g} tokens a parameter, seed {run.seed}"
        freeze_curves(outcome.model, _curves_file(out, SOURCE_FILE), source=source)
    return Row.of(run, outcome, corpus.digest)


def _time_steps(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    corpus, known = read_corpus("tinyshakespeare", str(options.texts)), read_rows(_times_file(options.out), StepTime)
    done = {"swiglu", *(row.variant for row in known if row.processor == processor())}
    names = [name for name in options.times or VARIANTS if name not in done]
    for name in tqdm(names, unit="network", disable=None):
        run = Run("explore", name, "0.8M", "tinyshakespeare", 1.0, "adamw", 2e-3, 1)
        given = _curves_file(options.out, SOURCE_FILE) if VARIANTS[name].given else None
        append_row(_times_file(options.out), time_step(run, corpus, given))


def _write_mean(options: argparse.Namespace) -> None:
    """The curves of the variant `frozen-one`, with what they gained in the confirming runs of `transfer`."""
    rows = read_rows(_rows_file(options.out), Row)
    run = next(row.run for row in rows if (row.run.phase, row.run.variant) == ("confirm", "frozen-one"))
    gain = paired_difference(losses(rows, run), losses(rows, dataclasses.replace(run, variant="swiglu", source="")))
    setting = f"{run.size}, {run.corpus}, {run.length:g} tokens a parameter, {run.optimizer}, {gain.pairs} pairs"
    figures = {"difference to SwiGLU, nats": round(gain.mean, 4), "sd": round(gain.deviation, 4), "setting": setting}
    write_mean(_curves_file(options.out, SOURCE_FILE), options.mean, figures)


def _rows_file(out: Path) -> Path:
    return out / "activations.csv"


def _times_file(out: Path) -> Path:
    return out / "activation_times.csv"


def _curves_file(out: Path, name: str) -> Path:
    return out / "activation_curves" / f"{name}.safetensors"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, default=Path(), help="folder of text files")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of this call")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of rows, curves, page and picture")
    parser.add_argument("--check", action="store_true", help="compare the engine with the Trainer")
    parser.add_argument("--times", nargs="*", choices=VARIANTS, metavar="NETWORK", help="time their steps instead")
    parser.add_argument("--mean", type=Path, metavar="FILE", help="write the mean of the source run's curves")
    parser.add_argument("--report", action="store_true", help="only write the page and the picture")
    options = parser.parse_args()
    options.end = time.monotonic() + 60 * options.minutes
    if not (options.report or options.mean) and not (options.texts / "tinyshakespeare.txt").is_file():
        parser.error(f"there is no tinyshakespeare.txt in --texts {str(options.texts)!r}")
    return options


if __name__ == "__main__":
    main()
