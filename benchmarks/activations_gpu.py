"""The study of gate functions on a GPU: 14M and 124M parameters, subwords, AdamW and Muon; calls below ten minutes.

    pip install '.[bench]'
    python benchmarks/activations_gpu.py --minutes 9                      # again and again, until it says "all done"
    python benchmarks/activations_gpu.py --minutes 9 --sizes 124M
    python benchmarks/activations_gpu.py --device cpu --sizes toy-subwords --seeds 1 --characters 3000000  # it works

Data is Python source of the machine, its BPE is made there. A run that the time stops goes on in the next call, from a
file in `--state`. Rows go to `results/activations_gpu.csv`, losses against tokens and seconds to
`results/activations_gpu_traces.csv`. Given curves are those of `activations.py`'s source run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from activation_study.corpora import subword_corpus
from activation_study.engine import SIZES, Run, train
from activation_study.rows import Row
from activation_study.stages import CONFIRM, SOURCE_FILE
from activation_study.variants import VARIANTS
from dataclass_csv import append_lines, append_row, read_rows

RESULTS = Path(__file__).parent / "results"
ROWS, TRACES = RESULTS / "activations_gpu.csv", RESULTS / "activations_gpu_traces.csv"
NETWORKS = ("swiglu", "silu-cosine", "curves", "frozen", "relu2", "la-glu")
RATES = {"14M": 1.5e-3, "124M": 6e-4, "toy-subwords": 2e-3}
LENGTHS = {"14M": (3.0, 20.0), "124M": (1.0,), "toy-subwords": (0.5,)}
"""Tokens a parameter; longer ones where the text is long enough, since no text is read twice."""


def main() -> None:
    options = _options()
    deadline = time.monotonic() + 60 * options.minutes
    done = {row.run for row in read_rows(options.rows, Row)}
    for run in _runs(options):
        if run in done:
            continue
        if time.monotonic() > deadline:
            print("The time is over; call again to go on.")
            return
        size = SIZES[run.size]
        corpus = subword_corpus(size.vocabulary, size.block, options.state, options.characters)
        there = len(corpus.train_blocks) // size.batch
        if there < run.steps:
            print(f"Left out, the text has {there:,} steps of the {run.steps:,}: {run}")
            continue
        given = RESULTS / "activation_curves" / f"{run.source}.safetensors" if run.source else None
        state = options.state / f"{run.name}.pt"
        outcome = train(run, corpus, given, device=options.device, state_file=state, deadline=deadline)
        if outcome is None:
            print(f"Stopped and kept: {run}. Call again to go on.")
            return
        append_row(options.rows, Row.of(run, outcome, corpus.digest))
        _append_trace(options.traces, run, outcome.trace)
        print(f"{run.variant} {run.size} {run.length:g} {run.optimizer} {run.seed}: {outcome.val_loss:.4f}", flush=True)
    print("All done.")


def _runs(options: argparse.Namespace) -> Iterator[Run]:
    """The short ones first, seed by seed."""
    for size in options.sizes:
        for length in LENGTHS[size]:
            for optimizer in options.optimizers:
                for seed in range(CONFIRM, CONFIRM + options.seeds):
                    for name in options.networks:
                        source = SOURCE_FILE if VARIANTS[name].given else ""
                        corpus = f"python-{SIZES[size].vocabulary}"
                        yield Run("confirm", name, size, corpus, length, optimizer, RATES[size], seed, source)


def _append_trace(path: Path, run: Run, trace: list[tuple[int, float, float]]) -> None:
    key = [run.variant, run.size, run.length, run.optimizer, run.seed]
    lines = [[*key, tokens, round(seconds, 2), round(loss, 4)] for tokens, seconds, loss in trace]
    append_lines(path, ["variant", "size", "length", "optimizer", "seed", "tokens", "seconds", "loss"], lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=list(RATES), default=["14M", "124M"], metavar="SIZE")
    parser.add_argument("--networks", nargs="+", choices=list(VARIANTS), default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--optimizers", nargs="+", choices=("adamw", "muon"), default=["adamw", "muon"])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--state", type=Path, default=Path("build/activations_gpu"), help="folder of text and states")
    parser.add_argument("--characters", type=int, help="of the text; all of it where not given")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--traces", type=Path, default=TRACES)
    return parser.parse_args()


if __name__ == "__main__":
    main()
