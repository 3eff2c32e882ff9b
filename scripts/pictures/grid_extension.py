"""One curve on finer and finer grids: each fit starts from the coarser curve."""

from __future__ import annotations

from functools import cache

import torch
from matplotlib.figure import Figure
from torch import Tensor

from kansformer.kan import KAN, create_dataset
from scripts.pictures.theme import SMALL, Theme

GRID_SIZES = (3, 5, 10, 20)
POINTS = 161


def draw(theme: Theme) -> Figure:
    """A panel per grid: the function dashed, the curve as `refine` hands it on, and the curve after the fit."""
    figure = theme.figure(3.1)
    panels = figure.subplots(1, len(GRID_SIZES), sharey=True)
    figure.subplots_adjust(left=0.105, right=0.99, top=0.83, bottom=0.29, wspace=0.09)
    x_S = torch.linspace(-1, 1, POINTS, dtype=torch.float64)
    for axes, grid_size, (start_S, fitted_S, error) in zip(panels, GRID_SIZES, _fits(), strict=True):
        for knot in torch.linspace(-1, 1, grid_size + 1).tolist():
            axes.axvline(knot, color=theme.faint, linewidth=0.8, zorder=0)
        (dashed,) = axes.plot(x_S, _function(x_S), "--", color=theme.before, linewidth=1.6, zorder=3)
        if start_S is not None:
            (start,) = axes.plot(x_S, start_S, color=theme.accent, linewidth=1.6)
        (fitted,) = axes.plot(x_S, fitted_S, color=theme.curve, linewidth=2.4, zorder=2)
        axes.set(xlim=(-1.04, 1.04), xticks=[-1, 0, 1], xticklabels=["−1", "0", "1"], yticks=[-1, 0, 1])
        axes.set_title(f"{grid_size} intervals", pad=22)
        axes.text(0.5, 1.035, f"error {error:.2g}", transform=axes.transAxes, ha="center", fontsize=SMALL)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
    figure.text(0.03, 0.56, "output", ha="center", va="center", rotation=90, rotation_mode="anchor", fontsize=SMALL)
    figure.text(0.53, 0.125, "input", ha="center", fontsize=SMALL)
    names = ["function to learn", "coarser curve on this grid", "after the fit"]
    figure.legend([dashed, start, fitted], names, loc="lower center", ncols=3, columnspacing=1.4, handlelength=1.6)
    return figure


def _function(x: Tensor) -> Tensor:
    return torch.sin(2 * torch.exp(1.1 * (x + 1)))  # finer to the right


@cache
def _fits() -> list[tuple[Tensor | None, Tensor, float]]:
    """For each grid the curve before the fit, after it, and its root mean square error on unseen points."""
    data = create_dataset(_function, num_inputs=1, num_train=400, num_test=400)
    x_S1 = torch.linspace(-1, 1, POINTS, dtype=torch.float64).unsqueeze(-1)
    model = KAN([1, 1], grid_size=GRID_SIZES[0])
    fits = []
    for grid_size in GRID_SIZES:
        start_S = None if grid_size == GRID_SIZES[0] else model.refine(grid_size).predict(x_S1)[:, 0]
        model.fit(data, steps=20, progress=False)
        error = (model.predict(data.test_input) - data.test_target).square().mean().sqrt()
        fits.append((start_S, model.predict(x_S1)[:, 0], float(error)))
    return fits
