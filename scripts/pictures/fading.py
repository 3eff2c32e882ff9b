"""The gain of curves over SwiGLU at two lengths of training: it fades."""

from __future__ import annotations

import math
import statistics

from matplotlib.figure import Figure

from scripts.pictures.rows import losses_by_seed, mean_and_deviation, read_rows
from scripts.pictures.theme import SMALL, Theme

LENGTHS = (1200, 2400)
NETWORKS = {"gate-up-act-group": "gate and up", "gate-input-act-group": "gate and input", "gate-act-group": "gate only"}
HEIGHTS = (-0.0227, -0.0155, -0.0185)  # of the names, beside the lines' ends
TOKENS_A_STEP = 12 * 64  # `benchmarks/quality.py`: batches of 12 blocks of 64 characters


def draw(theme: Theme) -> Figure:
    """A line per network from one length to the other: the mean paired difference and its standard error."""
    figure = theme.figure(4.3)
    axes = figure.add_axes((0.15, 0.235, 0.6, 0.735))
    axes.axhline(0, color=theme.muted, linewidth=1.6)
    axes.text(1.02, 0, "SwiGLU", color=theme.muted, va="center_baseline", transform=axes.get_yaxis_transform())
    numbers = set[int]()
    colours = (theme.curve, theme.accent, theme.third)
    for index, (variant, name) in enumerate(NETWORKS.items()):
        means, errors, pairs = zip(*(_difference(variant, steps) for steps in LENGTHS), strict=True)
        numbers |= set(pairs)
        places = [place + 0.03 * (index - 1) for place in range(len(LENGTHS))]
        axes.errorbar(places, means, errors, fmt="o-", color=colours[index], capsize=4, markersize=8)
        axes.text(1.1, HEIGHTS[index], name, color=colours[index], va="center_baseline", fontsize=SMALL)
    axes.text(1.1, HEIGHTS[1] + 0.003, "curves on", color=theme.muted, va="center_baseline", fontsize=SMALL)
    labels = [f"{steps:,} steps" for steps in LENGTHS]
    axes.set(xlim=(-0.15, 1.15), ylim=(-0.042, 0.003), xticks=range(len(LENGTHS)), xticklabels=labels)
    for place, steps in enumerate(LENGTHS):
        words = f"{steps * TOKENS_A_STEP / _parameters():.1f} tokens a parameter"
        axes.text(place, -0.135, words, ha="center", transform=axes.get_xaxis_transform(), fontsize=SMALL)
    axes.set_ylabel("loss minus SwiGLU's (nats)", fontsize=SMALL)
    words = f"mean of {' or '.join(map(str, sorted(numbers)))} paired seeds and its standard error"
    figure.text(0.5, 0.02, words, ha="center", fontsize=SMALL, color=theme.muted)
    axes.grid(axis="y")
    axes.tick_params(length=0)
    return figure


def _difference(variant: str, steps: int) -> tuple[float, float, int]:
    """Mean over the seeds that both ran, its standard error, and the number of seeds."""
    ours, baseline = losses_by_seed(variant, steps), losses_by_seed("swiglu", steps)
    differences = [ours[seed] - baseline[seed] for seed in sorted(set(ours) & set(baseline))]
    mean, deviation = mean_and_deviation(differences)
    return mean, deviation / math.sqrt(len(differences)), len(differences)


def _parameters() -> float:
    return statistics.fmean(int(row["parameters"]) for row in read_rows("quality.csv") if row["variant"] == "swiglu")
