"""What the curves of a layer share: a table of the same layer's edges for each of the four choices of `edges`."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from kansformer import KANLinear
from kansformer.interp import edge_curves
from scripts.pictures.theme import LARGE, NORMAL, SMALL, Theme, empty_canvas, small_curve

INPUTS, OUTPUTS = 4, 3
RANK, GROUPS = 2, 2
CELL, GAP = 0.56, 0.06  # inches
WORDS = {
    "channel": ("4 curves", "one per input,", "times the weight of each edge"),
    "group": ("2 curves", "one per group of inputs,", "times the weight of each edge"),
    "low_rank": ("8 curves, mixed", "R = 2 per input,", "mixed by weights of each edge"),
    "full": ("12 curves", "every edge", "has its own"),
}
SEED = 3


def draw(theme: Theme) -> Figure:
    """Two by two tables: a column per input, a row per output, in each cell the learned curve of that edge."""
    figure = theme.figure(6.6)
    canvas = empty_canvas(figure)
    for index, edges in enumerate(WORDS):
        left, top = 0.75 + 3.5 * (index % 2), 6.4 - 3.3 * (index // 2)
        _draw_table(canvas, theme, edges, left, top)
    return figure


def _draw_table(canvas: Axes, theme: Theme, edges: str, left: float, top: float) -> None:
    torch.manual_seed(SEED)
    layer = KANLinear(INPUTS, OUTPUTS, edges=edges, rank=RANK, groups=GROUPS, base="zero")
    with torch.no_grad():
        layer.coefficients.normal_()
        for values in (layer.weight, layer.mix):
            if values is not None:  # neither invisible nor too large
                values.copy_(torch.empty_like(values).uniform_(0.4, 1.0) * torch.empty_like(values).normal_().sign())
    curves = edge_curves(nn.Sequential(layer), "", "0", points=41)
    limit = 1.1 * float(curves.learned.abs().max())
    number, *lines = WORDS[edges]
    right = left + INPUTS * (CELL + GAP) - GAP
    canvas.text(left, top - 0.2, edges, fontsize=LARGE, fontweight="bold")
    canvas.text(right, top - 0.2, number, fontsize=NORMAL, ha="right")
    for line, words in enumerate(lines):
        canvas.text(left, top - 0.45 - 0.21 * line, words, fontsize=SMALL, color=theme.muted)
    for index, (x_S, y_S) in enumerate(zip(curves.x, curves.learned, strict=True)):
        i, o = int(curves.inputs[index]), int(curves.outputs[index])
        bottom = top - 0.8 - (o + 1) * (CELL + GAP)
        box = small_curve(canvas, theme, left + i * (CELL + GAP), bottom, CELL, CELL)
        box.axhline(0, color=theme.faint, linewidth=0.8)
        box.plot(x_S, y_S, clip_on=False, color=_colour(theme, edges, i))
        box.set_ylim(-limit, limit)
        if o == OUTPUTS - 1:
            canvas.text(left + i * (CELL + GAP) + CELL / 2, bottom - 0.2, f"x{'₁₂₃₄'[i]}", ha="center", fontsize=SMALL)
        if i == 0:
            canvas.text(left - 0.12, bottom + CELL / 2, f"y{'₁₂₃₄'[o]}", ha="right", va="center", fontsize=SMALL)


def _colour(theme: Theme, edges: str, input: int) -> str:
    """Curves that share their shape share a colour."""
    colours = (theme.curve, theme.accent, theme.third, theme.fourth)
    return colours[input if edges != "group" else input * GROUPS // INPUTS]
