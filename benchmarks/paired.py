"""Paired comparisons: losses of two networks by seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


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


def format_p(p: float) -> str:
    """Two digits, or a power of ten."""
    if math.isnan(p):
        return "–"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"
