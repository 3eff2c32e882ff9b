"""Which runs the plan asks for, in its order; `PLAN.md` says why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from activation_study.engine import Run
from activation_study.variants import VARIANTS

SOURCE = Run("explore", "curves", "0.8M", "tinyshakespeare", 1.2, "adamw", 2e-3, 7000)
SOURCE_FILE = "shakespeare-7000"
RATES = (1e-3, 2e-3, 3e-3, 4e-3)
EXPLORE, CONFIRM = 100, 2000
TRANSFER = ("swiglu", "frozen", "frozen-one", "silu-cosine")
CONTROLS = ("frozen-random", "frozen-permuted", "swiglu-gates-2", "silu-line", "silu-offset", "silu-cosine-left")

Rate = Callable[[str, float, str], float]
"""SwiGLU's best rate at a size and length under an optimizer, from the rows that are there."""


def stages(rate: Rate, best: Iterable[str], best_eight: Iterable[str]) -> dict[str, Iterator[Run]]:
    """The runs of each stage.

    Args:
        rate: for stages that come after the tuning of the rate.
        best: variants of the long runs.
        best_eight: of the second screen.
    """
    long, second = ["swiglu", *best], ["swiglu", *best_eight, *CONTROLS]
    return {
        "rates": _tuning("0.8M", (1.0, 3.0), RATES, "adamw"),
        "source": iter([SOURCE]),
        "transfer": _runs("confirm", TRANSFER, "0.8M", 3.0, 8, rate),
        "screen": _runs("explore", VARIANTS, "0.8M", 1.0, 2, rate),
        "second-screen": _runs("explore", dict.fromkeys(second), "0.8M", 3.0, 2, rate),
        "rates-long": _tuning("0.8M", (10.0, 20.0), RATES[:3], "adamw"),
        "long": _runs("confirm", long, "0.8M", 20.0, 8, rate),
        "middle": _runs("confirm", long, "0.8M", 10.0, 4, rate),
        "rates-3M": _tuning("3M", (3.0,), RATES[:3], "adamw"),
        "size": _runs("confirm", long, "3M", 3.0, 8, rate),
        "rates-muon": _tuning("0.8M", (3.0,), (1e-3, 2e-3, 4e-3, 8e-3), "muon"),
        "muon": _runs("confirm", long, "0.8M", 3.0, 8, rate, "muon"),
    }


def _tuning(size: str, lengths: Iterable[float], rates: Iterable[float], optimizer: str) -> Iterator[Run]:
    for length in lengths:
        for lr in rates:
            yield Run("explore", "swiglu", size, "python", length, optimizer, lr, EXPLORE)


def _runs(
    phase: str, names: Iterable[str], size: str, length: float, seeds: int, rate: Rate, optimizer: str = "adamw"
) -> Iterator[Run]:
    """Seed by seed, so that what is there is always paired."""
    names, first = list(names), EXPLORE if phase == "explore" else CONFIRM
    for seed in range(first, first + seeds):
        for name in names:
            source = SOURCE_FILE if VARIANTS[name].given else ""
            yield Run(phase, name, size, "python", length, optimizer, rate(size, length, optimizer), seed, source)
