"""The gain of curves over SwiGLU at two lengths of training: it fades."""

from __future__ import annotations

import math
import statistics

from matplotlib.figure import Figure

from scripts.pictures.rows import losses_by_seed, mean_and_deviation, read_rows
from scripts.pictures.theme import SMALL, Theme

LENGTHS = (1200, 2400)
NETWORKS = {"gate-up-act-group": "gate and up", "gate-input-act-group": "gate and input", "gate-act-group": "gate only"}
TOKENS_A_STEP = 12 * 64  # `benchmarks/quality.py`: batches of 12 blocks of 64 characters


def draw(theme: Theme) -> Figure:
    """A line per network from one length to the other: the mean paired difference and its standard error."""
    figure = theme.figure(3.9)
    axes = figure.add_axes((0.15, 0.18, 0.6, 0.77))
    axes.axhline(0, color=theme.muted, linewidth=1.6)
    axes.text(1.02, 0, "SwiGLU", color=theme.muted, va="center_baseline", transform=axes.get_yaxis_transform())
    colours = (theme.curve, theme.accent, theme.third)
    for index, (variant, name) in enumerate(NETWORKS.items()):
        differences = [_difference(variant, steps) for steps in LENGTHS]
        means, errors = zip(*differences, strict=True)
        places = [place + 0.03 * (index - 1) for place in range(len(LENGTHS))]
        axes.errorbar(places, means, errors, fmt="o-", color=colours[index], capsize=4, markersize=8)
        height = means[-1] + (0.0008, -0.0009, 0.0009)[index]
        axes.text(1.12, height, name, color=colours[index], va="center_baseline")
    labels = [f"{steps:,} steps" for steps in LENGTHS]
    axes.set(xlim=(-0.15, 1.15), ylim=(-0.042, 0.003), xticks=range(len(LENGTHS)), xticklabels=labels)
    for place, steps in enumerate(LENGTHS):
        words = f"{steps * TOKENS_A_STEP / _parameters():.1f} tokens a parameter"
        axes.annotate(words, (place, 0), (0, -34), "data", xycoords=("data", "axes fraction"))
    axes.set_ylabel("loss minus SwiGLU's (nats)", fontsize=SMALL)
    axes.grid(axis="y")
    axes.tick_params(length=0)
    return figure


def _difference(variant: str, steps: int) -> tuple[float, float]:
    """Mean over the seeds that both ran, and its standard error."""
    ours, baseline = losses_by_seed(variant, steps), losses_by_seed("swiglu", steps)
    differences = [ours[seed] - baseline[seed] for seed in sorted(set(ours) & set(baseline))]
    mean, deviation = mean_and_deviation(differences)
    return mean, deviation / math.sqrt(len(differences))


def _parameters() -> float:
    return statistics.fmean(int(row["parameters"]) for row in read_rows("quality.csv") if row["variant"] == "swiglu")
