"""Which runs the plan asks for, in its order; `PLAN.md` says why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from activation_study.engine import Run
from activation_study.rows import Row, best_rate, best_variants
from activation_study.variants import VARIANTS

SOURCE = Run("explore", "curves", "0.8M", "tinyshakespeare", 1.2, "adamw", 2e-3, 7000)
SOURCE_FILE = "shakespeare-7000"
RATES = (1e-3, 2e-3, 3e-3, 4e-3)
LOW_RATES = (5e-4, 7e-4, 1e-3, 2e-3)  # of larger models
EXPLORE, CONFIRM = 100, 2000
TRANSFER = ("swiglu", "frozen", "frozen-one", "silu-cosine")
LONG, LONG_LEARNED = ("swiglu", "frozen-one", "gcu-glu"), ("curves",)
CONTROLS = ("frozen-random", "frozen-permuted", "swiglu-gates-2", "silu-line", "silu-offset", "silu-cosine-left")
CONTENDERS = [name for name in VARIANTS if name != "swiglu" and name not in CONTROLS]
BEST, BEST_OF_SCREEN = 3, 8

Stage = Callable[[Sequence[Row]], Iterator[Run]]
"""Runs, from the rows that are there."""


def _tuning(
    size: str, lengths: Iterable[float], rates: Iterable[float], optimizer: str, _: Sequence[Row]
) -> Iterator[Run]:
    for length in lengths:
        for lr in rates:
            yield Run("explore", "swiglu", size, "python", length, optimizer, lr, EXPLORE)


def _runs(
    names: Callable[[Sequence[Row]], Iterable[str]],
    phase: str,
    size: str,
    length: float,
    seeds: int,
    optimizer: str,
    rows: Sequence[Row],
) -> Iterator[Run]:
    """Seed by seed, so that what is there is always paired."""
    chosen, lr = list(names(rows)), best_rate(rows, size, length, optimizer)
    first = EXPLORE if phase == "explore" else CONFIRM
    for seed in range(first, first + seeds):
        for name in chosen:
            source = SOURCE_FILE if VARIANTS[name].given else ""
            yield Run(phase, name, size, "python", length, optimizer, lr, seed, source)


def _best_of_screen(rows: Sequence[Row]) -> list[str]:
    return ["swiglu", *best_variants(rows, CONTENDERS, 1.0, BEST_OF_SCREEN), *CONTROLS]


def _best(rows: Sequence[Row]) -> list[str]:
    return ["swiglu", *best_variants(rows, CONTENDERS, 3.0, BEST)]


STAGES: dict[str, Stage] = {
    "rates": partial(_tuning, "0.8M", (1.0, 3.0), RATES, "adamw"),
    "source": lambda rows: iter([SOURCE]),
    "transfer": partial(_runs, lambda rows: TRANSFER, "confirm", "0.8M", 3.0, 8, "adamw"),
    "screen": partial(_runs, lambda rows: VARIANTS, "explore", "0.8M", 1.0, 2, "adamw"),
    "second-screen": partial(_runs, _best_of_screen, "explore", "0.8M", 3.0, 2, "adamw"),
    "rates-long": partial(_tuning, "0.8M", (20.0,), RATES[:3], "adamw"),
    "long": partial(_runs, lambda rows: LONG, "confirm", "0.8M", 20.0, 8, "adamw"),
    "long-learned": partial(_runs, lambda rows: LONG_LEARNED, "confirm", "0.8M", 20.0, 8, "adamw"),
    "rates-middle": partial(_tuning, "0.8M", (10.0,), RATES[:3], "adamw"),
    "middle": partial(_runs, _best, "confirm", "0.8M", 10.0, 4, "adamw"),
    "rates-3M": partial(_tuning, "3M", (3.0,), LOW_RATES, "adamw"),
    "size-3M": partial(_runs, _best, "confirm", "3M", 3.0, 8, "adamw"),
    "rates-muon": partial(_tuning, "0.8M", (3.0,), (1e-3, 2e-3, 4e-3, 8e-3), "muon"),
    "muon": partial(_runs, _best, "confirm", "0.8M", 3.0, 8, "muon"),
    "long-3M": partial(_runs, _best, "confirm", "3M", 20.0, 1, "adamw"),
    "rates-10M": partial(_tuning, "10M", (1.0,), LOW_RATES, "adamw"),
    "size-10M": partial(_runs, _best, "confirm", "10M", 1.0, 3, "adamw"),
}
"""A stage whose rates or variants other stages choose raises LookupError before those have run."""
