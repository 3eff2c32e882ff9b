"""A stand-alone network: all its curves after the fit, what `sparsify` leaves, and the formula."""

from __future__ import annotations

import copy
import math
from functools import cache

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kansformer.kan import KAN, create_dataset
from scripts.pictures.theme import LARGE, NORMAL, SMALL, Theme, empty_canvas, small_curve

WIDTHS = [2, 5, 1]
NAMES = ["x", "y"]
WORDS = {"sin": "sin", "x^2": "square", "exp": "exp"}
HEIGHT = 5.0
# Inches, from the bottom: nodes of every level.
LEVELS = (1.2, 2.65, 4.1)


def draw(theme: Theme) -> Figure:
    """Two diagrams beside each other, inputs below; curves of the small network have the names of their functions."""
    figure = theme.figure(HEIGHT)
    canvas = empty_canvas(figure)
    fitted, sparse, formula = _networks()
    _draw_network(canvas, theme, fitted, 0.1, 4.0, 0.33, named=False)
    _draw_network(canvas, theme, sparse, 4.9, 2.0, 0.64, named=True)
    canvas.text(2.1, HEIGHT - 0.28, "fitted: 15 curves", ha="center", fontsize=LARGE, fontweight="bold")
    canvas.text(5.9, HEIGHT - 0.28, "sparse: 3 curves", ha="center", fontsize=LARGE, fontweight="bold")
    arrow = {"arrowstyle": "-|>", "color": theme.accent, "linewidth": 2.4}
    canvas.annotate("", (4.95, LEVELS[1]), (4.3, LEVELS[1]), arrowprops=arrow)
    canvas.text(4.62, LEVELS[1] + 0.14, "sparsify", ha="center", color=theme.accent, fontweight="bold")
    words = "learned from 1,000 samples of exp(sin(πx) + y²)"
    canvas.text(3.5, 0.13, words, ha="center", fontsize=SMALL, color=theme.muted)
    canvas.text(3.5, 0.42, f"formula()  =  {formula}", ha="center", fontsize=LARGE, color=theme.curve)
    return figure


def _draw_network(
    canvas: Axes, theme: Theme, model: KAN, left: float, width: float, cell: float, *, named: bool
) -> None:
    """A network between two levels per layer, each curve in a box half-way."""

    def across(count: int) -> list[float]:
        return [left + width * (number + 0.5) / count for number in range(count)]

    nodes = [across(count) for count, _ in model.width]
    for layer in range(len(model.layers)):
        edges = [edge for edge in model.edges() if edge.layer == layer]
        boxes, middle = across(len(edges)), (LEVELS[layer] + LEVELS[layer + 1]) / 2
        for x, edge in zip(boxes, edges, strict=True):
            start, end = (nodes[layer][edge.input], LEVELS[layer]), (nodes[layer + 1][edge.output], LEVELS[layer + 1])
            for ends in ((start, (x, middle - cell / 2)), ((x, middle + cell / 2), end)):
                canvas.plot(*zip(*ends, strict=True), color=theme.muted, linewidth=1.2, zorder=1)
            curve = model.edge(layer, edge.input, edge.output, _data())
            x_S = torch.linspace(*curve.range, 41, dtype=torch.float64)
            box = small_curve(canvas, theme, x - cell / 2, middle - cell / 2, cell, cell)
            box.plot(x_S, curve(x_S).detach(), color=theme.curve, linewidth=2.6 if named else 1.8, clip_on=False)
            box.margins(0.1, 0.12)
            if named and curve.symbol is not None:
                name = WORDS[curve.symbol.name]
                canvas.text(x + 0.09, middle - cell / 2 - 0.25, name, fontsize=SMALL)
    for level, places in enumerate(nodes):
        canvas.plot(places, [LEVELS[level]] * len(places), "o", color=theme.text, markersize=6, zorder=3)
    for name, x in zip(NAMES, nodes[0], strict=True):
        canvas.text(x, LEVELS[0] - 0.3, name, ha="center", fontsize=NORMAL)
    canvas.text(nodes[-1][0], LEVELS[-1] + 0.16, "f(x, y)", ha="center", fontsize=NORMAL)


@cache
def _data():
    return create_dataset(lambda x: torch.exp(torch.sin(math.pi * x[:, [0]]) + x[:, [1]] ** 2), num_inputs=2)


@cache
def _networks() -> tuple[KAN, KAN, str]:
    """The network after the fit, the sparse one with its functions named, and its formula."""
    fitted = KAN(WIDTHS, seed=0)
    fitted.fit(_data(), steps=20, progress=False)
    sparse = copy.deepcopy(fitted)
    sparse.sparsify(_data())
    sparse.fit_symbolic(_data())
    sparse.fit(_data(), steps=20, progress=False)
    formula = str(sparse.formula(variables=NAMES, digits=3)[0])
    return fitted, sparse, formula.replace("**2", "²").replace("*", "·")
