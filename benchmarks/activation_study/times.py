"""Time of a training step with a variant beside one with SwiGLU, in one process, in alternating rounds."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from provenance import commit, processor
from speed.harness import alternate

from activation_study.corpora import Corpus
from activation_study.engine import SIZES, Run, Training


@dataclass(frozen=True)
class StepTime:
    """A step's time as a ratio to that of SwiGLU, on one thread.

    Args:
        variant, size: as in `Run`.
        lower, ratio, upper: quartiles over the rounds.
        rounds: their number.
        commit, torch, processor: where it ran.
    """

    variant: str
    size: str
    lower: float
    ratio: float
    upper: float
    rounds: int
    commit: str
    torch: str
    processor: str


def time_step(run: Run, corpus: Corpus, given: Path | None, rounds: int = 15) -> StepTime:
    """Train two networks in turns, compiled, with bfloat16 products as the study trains.

    Args:
        run: of the variant.
        corpus: what they are trained on.
        given: file of another run's curves, where the variant takes some.
        rounds: how often each is timed.
    """
    torch.compiler.reset()
    batches = itertools.cycle(list(corpus.batches(10, SIZES[run.size].batch, run.seed)))
    plain = Run("explore", "swiglu", run.size, run.corpus, run.length, run.optimizer, run.lr, run.seed)
    trainings = {"swiglu": Training(plain), "variant": Training(run, given)}
    actions = {name: lambda training=training: training.step(next(batches)) for name, training in trainings.items()}
    quartiles = alternate(actions, rounds=rounds, least_seconds=0.5, warm_up=5).ratio("variant", "swiglu")
    return StepTime(
        variant=run.variant,
        size=run.size,
        lower=round(quartiles.lower, 3),
        ratio=round(quartiles.median, 3),
        upper=round(quartiles.upper, 3),
        rounds=rounds,
        commit=commit(),
        torch=torch.__version__,
        processor=processor(),
    )
