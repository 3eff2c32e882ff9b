"""Paired comparisons of the runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from contest.runs import Row
from contest.variants import VARIANTS


@dataclass(frozen=True)
class Difference:
    """Of a variant to another, over the seeds that both ran.

    Args:
        pairs: how many.
        mean, deviation: of the differences, in nats; negative is better.
        p: two-sided, of the paired t-test; NaN for fewer than two pairs. Not corrected for the number of variants.
    """

    pairs: int
    mean: float
    deviation: float
    p: float

    def __str__(self) -> str:
        if not self.pairs:
            return "–"
        return f"{self.mean:+.4f} ({self.deviation:.4f}), p {format_p(self.p)}"


def losses_of(rows: Sequence[Row], variant: str, steps: int, lr: float | None = None) -> dict[int, float]:
    """Validation losses by seed, at the variant's own learning rate unless another is given."""
    chosen_lr = VARIANTS[variant].lr if lr is None else lr
    chosen = (row for row in rows if row.variant == variant and row.steps == steps and row.lr == chosen_lr)
    return {row.seed: row.val_loss for row in chosen}


def paired_difference(one: dict[int, float], other: dict[int, float]) -> Difference:
    """Of losses by seed."""
    seeds = sorted(set(one) & set(other))
    differences = [one[seed] - other[seed] for seed in seeds]
    mean, deviation = mean_and_deviation(differences)
    if len(differences) < 2 or deviation == 0:
        return Difference(len(differences), mean, deviation, math.nan)
    from scipy.stats import ttest_rel

    p = float(ttest_rel([one[s] for s in seeds], [other[s] for s in seeds]).pvalue)
    return Difference(len(differences), mean, deviation, p)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; NaN where there are too few values."""
    if not values:
        return math.nan, math.nan
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


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


def format_p(p: float) -> str:
    """Two digits, or a power of ten."""
    if math.isnan(p):
        return "–"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"
