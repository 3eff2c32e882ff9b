"""What is a curve worth? Functions of the gate against SwiGLU, by length of training; `activation_study/PLAN.md`.

    pip install '.[bench]'
    python benchmarks/activations.py --texts FOLDER                  # every run without a row: many hours
    python benchmarks/activations.py --texts FOLDER --stages rates source transfer --minutes 60
    python benchmarks/activations.py --texts FOLDER --check          # the engine beside transformers' Trainer
    python benchmarks/activations.py --report                        # page and picture from the rows that are there

FOLDER has `tinyshakespeare.txt` (of char-rnn and nanoGPT); the long text is Python source of this machine. A run is a
row of `results/activations.csv`, written as it ends, so that a second call goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

import torch
from activation_study.check import compare_with_trainer
from activation_study.corpora import read_corpus
from activation_study.curve_sets import CurveSet
from activation_study.engine import Run, train
from activation_study.report import write_report
from activation_study.rows import Row, append_row, best_rate, read_rows
from activation_study.stages import SOURCE, SOURCE_FILE, stages
from tqdm import tqdm

RESULTS = Path(__file__).parent / "results"
ROWS = RESULTS / "activations.csv"
CURVES = RESULTS / "activation_curves"
# Chosen by the screens, by the plan's rule.
BEST: tuple[str, ...] = ()
BEST_EIGHT: tuple[str, ...] = ()


def main() -> None:
    options = _options()
    if options.check:
        print(compare_with_trainer(options.texts))
        return
    if not options.report:
        for stage in options.stages:
            _run_stage(stage, options)
    print(write_report(read_rows(ROWS), RESULTS))


def _run_stage(stage: str, options: argparse.Namespace) -> None:
    """All runs of a stage that have no row, until the time is over."""
    rows = read_rows(ROWS)
    done = {row.run for row in rows}
    runs = [run for run in _stages(rows, options)[stage] if run not in done]
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(options.jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        tqdm(total=len(runs), unit="run", desc=stage, disable=None) as bar,
    ):
        running: set[Future] = set()
        queue = iter(runs)
        while True:
            while len(running) < options.jobs and time.monotonic() < options.end and (run := next(queue, None)):
                running.add(pool.submit(train_run, run, str(options.texts)))
            if not running:
                return
            ready, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                row = future.result()
                append_row(ROWS, row)
                bar.set_postfix_str(f"{row.run.variant} {row.val_loss:.4f}")
                bar.update()


def train_run(run: Run, texts: str) -> Row:
    """Train one network; the source run's curves are kept for the others."""
    corpus = read_corpus(run.corpus, texts)
    given = CurveSet.read(CURVES / f"{run.source}.safetensors") if run.source else None
    outcome = train(run, corpus, given)
    if run == SOURCE and outcome.curves is not None:
        outcome.curves.write(CURVES / f"{SOURCE_FILE}.safetensors")
    return Row.of(run, outcome, corpus.digest)


def _stages(rows: list[Row], options: argparse.Namespace) -> dict[str, Iterator[Run]]:
    return stages(functools.partial(best_rate, rows), options.best, options.best_eight)


def _options() -> argparse.Namespace:
    names = list(stages(lambda *_: 0.0, (), ()))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, default=Path(), help="folder of text files")
    parser.add_argument("--stages", nargs="+", choices=names, default=names, metavar="STAGE", help=", ".join(names))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no run begins later")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--best", nargs="*", default=BEST, help="variants of the long runs")
    parser.add_argument("--best-eight", nargs="*", default=BEST_EIGHT, help="variants of the second screen")
    parser.add_argument("--check", action="store_true", help="compare the engine with the Trainer")
    parser.add_argument("--report", action="store_true", help="only write the page and the picture")
    options = parser.parse_args()
    options.end = time.monotonic() + 60 * options.minutes
    if not options.report and not (options.texts / "tinyshakespeare.txt").is_file():
        parser.error(f"there is no tinyshakespeare.txt in --texts {str(options.texts)!r}")
    return options


if __name__ == "__main__":
    main()
