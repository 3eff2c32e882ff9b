"""Losses of the runs, and those of a baseline that trains for the same time."""

import math
from collections.abc import Sequence

from contest.runs import Row
from contest.variants import VARIANTS


def losses_of(rows: Sequence[Row], variant: str, steps: int, lr: float | None = None) -> dict[int, float]:
    """Validation losses by seed, at the variant's own learning rate unless another is given."""
    chosen_lr = VARIANTS[variant].lr if lr is None else lr
    chosen = (row for row in rows if row.variant == variant and row.steps == steps and row.lr == chosen_lr)
    return {row.seed: row.val_loss for row in chosen}


def at_equal_time(baseline: dict[int, dict[int, float]], steps: int, ratio: float) -> dict[int, float]:
    """The baseline's losses by seed, had it trained for the time that `steps` of a slower network take.

    Its losses at two lengths of training are known; between and beyond them the loss is taken as linear in the
    logarithm of the number of steps.

    Args:
        baseline: losses by seed, by number of steps; two lengths.
        steps: of the other network.
        ratio: of the other network's time per step to the baseline's.
    """
    (short, one), (long, other) = sorted(baseline.items())
    share = (math.log(steps * ratio) - math.log(short)) / (math.log(long) - math.log(short))
    return {seed: one[seed] + share * (other[seed] - one[seed]) for seed in sorted(set(one) & set(other))}
