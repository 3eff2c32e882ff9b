"""Validation losses of feed-forward networks with as many parameters, after two lengths of training."""

from __future__ import annotations

from matplotlib.figure import Figure

from scripts.pictures.rows import losses_by_seed, mean_and_deviation
from scripts.pictures.theme import SMALL, Theme

NETWORKS = {
    "gate-up-act-group": "curves, gate and up",
    "gate-act-group": "curves, gate only",
    "gate-input-act-group": "curves, gate and input",
    "swiglu": "SwiGLU",
    "polynorm": "PolyNorm",
    "relu2": "ReLU²",
    "gelu": "GELU",
    "edges-spline": "a curve for every edge",
}


def draw(theme: Theme) -> Figure:
    """A line per network, at each length the mean over the seeds with their standard deviation."""
    figure = theme.figure(4.6)
    axes = figure.add_axes((0.34, 0.25, 0.625, 0.72))
    places, seeds = range(len(NETWORKS)), set[int]()
    swiglu = list(NETWORKS).index("swiglu")
    axes.axhspan(swiglu - 0.45, swiglu + 0.45, color=theme.panel, zorder=0)
    for steps, mark, colour in ((2400, "D", theme.accent), (1200, "o", theme.curve)):
        label = f"{steps:,} steps"
        for place, variant in zip(places, NETWORKS, strict=True):
            losses = losses_by_seed(variant, steps)
            if losses:
                seeds.add(len(losses))
                mean, deviation = mean_and_deviation(list(losses.values()))
                axes.errorbar(mean, place, xerr=deviation, fmt=mark, color=colour, capsize=4, markersize=8, label=label)
                label = None
    axes.set_yticks(places, NETWORKS.values(), fontsize=SMALL)
    axes.set(ylim=(len(NETWORKS) - 0.5, -0.5), xlim=(1.55, 1.8))
    axes.set_xlabel("validation loss, nats per character (less is better)", fontsize=SMALL, x=0.35)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    words = f"mean and standard deviation of {min(seeds)} to {max(seeds)} seeds, equal numbers of parameters"
    figure.text(0.5, 0.02, words, ha="center", fontsize=SMALL, color=theme.muted)
    figure.legend(loc="lower center", ncols=2, bbox_to_anchor=(0.5, 0.055))
    return figure
