"""What a curve is made of: B-splines on a grid, each times its coefficient, and their sum."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from kansformer.basis import Basis
from scripts.pictures.theme import SMALL, Theme

ORDER, GRID_SIZE = 3, 5
COEFFICIENTS = (0.3, -0.7, 0.5, 1.5, 0.4, -0.5, 1.0, 0.2)


def draw(theme: Theme) -> Figure:
    """Above the basis functions of order 3 on 5 intervals, below the same times coefficients, and their sum."""
    basis = Basis(name="bspline", grid_size=GRID_SIZE, order=ORDER)
    x_S = torch.linspace(0, GRID_SIZE, 201, dtype=torch.float64)
    values_SC = basis.values(x_S, torch.tensor([0.0, GRID_SIZE], dtype=torch.float64))
    figure = theme.figure(5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.5))
    figure.subplots_adjust(left=0.09, right=0.98, top=0.93, bottom=0.12, hspace=0.3)
    for index, coefficient in enumerate(COEFFICIENTS):
        colour = (theme.accent, theme.third, theme.fourth, theme.muted)[index % 4]
        value_S = values_SC[:, index]
        alive_S = value_S > 0
        upper.plot(x_S[alive_S], value_S[alive_S], color=colour)
        lower.plot(x_S[alive_S], coefficient * value_S[alive_S], color=colour, linewidth=1.5)
        peak = index - (ORDER - 1) / 2  # in intervals
        if 0 <= peak <= GRID_SIZE:
            side = {0: "left", GRID_SIZE: "right"}.get(peak, "center")
            upper.text(peak, 0.71, f"×{coefficient:g}".replace("-", "−"), color=colour, ha=side, fontsize=SMALL)
    lower.axhline(0, color=theme.muted, linewidth=0.8, zorder=1)
    lower.plot(x_S, values_SC @ torch.tensor(COEFFICIENTS, dtype=torch.float64), color=theme.curve, linewidth=3.5)
    lower.text(2.45, 1.03, "the curve", color=theme.curve, fontweight="bold")
    for axes in (upper, lower):
        axes.grid(axis="x")
        axes.set(xlim=(0, GRID_SIZE), xticks=range(GRID_SIZE + 1))
        axes.tick_params(axis="x", length=0)
    upper.set(ylim=(0, 0.85), yticks=[0, 0.5])
    lower.set(yticks=[0, 1], xlabel="input (the grid has 5 intervals)")
    upper.set_title("B-splines of order 3, with a coefficient for each", loc="left")
    lower.set_title("each spline times its coefficient, and their sum", loc="left")
    return figure
