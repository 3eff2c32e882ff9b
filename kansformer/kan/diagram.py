"""Pictures of stand-alone networks: the diagram with a small curve on every edge, and single edges.

Shape letters: S sample points, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.figure import figure_class
from kansformer.kan.data import Samples, Table, even_points, inputs_of
from kansformer.kan.edge_samples import random_inputs
from kansformer.kan.edges import Edge, EdgeLike, check_edge
from kansformer.kan.linearize import levels
from kansformer.kan.names import given_names, is_tex, label
from kansformer.kan.pruning import edge_values, node_scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kansformer.kan.network import KAN

POINTS = 100
CURVE, FORMULA, LINE, NODE = "#1f4e79", "#b5341f", "#5f6b78", "#20262d"
MIN_OPACITY = 0.12
# In units of the picture's height between two layers.
BOX, LAYER_INCHES, BOX_INCHES = 0.34, 2.0, 0.95


@dataclass(frozen=True)
class DrawnEdge:
    """An edge's points and values, and the name of its function if it is a formula."""

    edge: Edge
    x: Tensor
    y: Tensor
    name: str | None


def plot_kan(
    model: KAN,
    data: Samples | Table | None = None,
    *,
    variables: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> Figure:
    """Draw a network: inputs below, outputs above, on every edge its curve over the range of its inputs.

    Edges that matter more are darker; formulas are red and labelled with their function's name.

    Args:
        model: the network.
        data: samples, or inputs (N, I), for ranges and scores; None for random inputs inside the first layer's grids.
        variables, outputs: names of the inputs and outputs, in TeX between dollars or as a command such as `\\alpha`;
            None is x_1, x_2, … and y_1, y_2, …

    Returns:
        A matplotlib figure; `figure.savefig(path)` writes it.

    Raises:
        ConfigError: matplotlib is not installed, or there is not one name for each input and output.
    """
    new_figure = figure_class()
    x = inputs_of(model, random_inputs(model) if data is None else data)
    names_in = given_names(variables, _numbered("x", model.width[0]), "inputs")
    names_out = given_names(outputs, _numbered("y", model.width[-1]), "outputs")
    layers, scores = _drawn_edges(model, x), node_scores(model, x)
    widest = max([len(drawn) for drawn in layers] + [sum(width) for width in model.width])
    figure = new_figure(figsize=(max(3.5, BOX_INCHES * widest), LAYER_INCHES * len(layers) + 0.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1), ylim=(-0.3, len(layers) + 0.3))
    axes.axis("off")
    for index, drawn in enumerate(layers):
        _draw_layer(axes, model, index, drawn, scores.edges[index])
    for level, (plain, products) in enumerate(model.width):
        for node, position in enumerate(_positions(plain + products)):
            mark = "x" if node >= plain else "o"
            axes.plot(position, level, mark, color=NODE, markersize=8 if mark == "x" else 6, zorder=3)
    for names, level, shift in ((names_in, 0, -0.2), (names_out, len(layers), 0.14)):
        for name, position in zip(names, _positions(len(names)), strict=True):
            text = label(name)
            axes.text(position, level + shift, text, ha="center", va="center", fontsize=11, parse_math=is_tex(text))
    return figure


def plot_edge(model: KAN, edge: EdgeLike, data: Samples | Table) -> Figure:
    """Draw one edge over the range of its inputs, with the inputs' histogram.

    Args:
        model: the network.
        edge: which, an `Edge` or (layer, input, output).
        data: samples, or inputs (N, I), of the network.

    Raises:
        SlotError: the edge does not exist.
        ConfigError: matplotlib is not installed.
    """
    edge = check_edge(model, edge)
    x = inputs_of(model, data)
    drawn = next(d for d in _drawn_edges(model, x)[edge.layer] if d.edge == edge)
    x = list(levels(model, x))[edge.layer]
    figure = figure_class()(figsize=(4.2, 3.0), layout="constrained")
    axes = figure.subplots()
    twin = axes.twinx()
    twin.hist(x[:, edge.input].detach().cpu().numpy(), bins=40, color=LINE, alpha=0.2)
    twin.set_yticks([])
    axes.plot(drawn.x.numpy(), drawn.y.numpy(), color=FORMULA if drawn.name else CURVE, linewidth=2)
    axes.set_title(f"{edge} {drawn.name or ''}", fontsize=10)
    axes.grid(alpha=0.3)
    return figure


def _draw_layer(axes: Axes, model: KAN, index: int, drawn: list[DrawnEdge], scores_IO: Tensor) -> None:
    lower = _positions(sum(model.width[index]))
    plain, products = model.width[index + 1]
    upper = _positions(plain + products)
    upper[plain:] = sorted(2 * upper[plain:])  # both factors lead to their product
    boxes = _positions(len(drawn))
    width = min(0.8 / max(len(drawn), 1), 0.2)
    strongest = max([float(scores_IO[d.edge.input, d.edge.output]) for d in drawn], default=0.0) or 1.0
    for position, one in zip(boxes, drawn, strict=True):
        share = float(scores_IO[one.edge.input, one.edge.output]) / strongest
        opacity = MIN_OPACITY + (1 - MIN_OPACITY) * min(1.0, share) ** 0.5
        middle = index + 0.5
        for start, end in (
            ((lower[one.edge.input], index), (position, middle - BOX / 2)),
            ((position, middle + BOX / 2), (upper[one.edge.output], index + 1)),
        ):
            axes.plot(*zip(start, end, strict=True), color=LINE, alpha=opacity, linewidth=1.2, zorder=1)
        inset = axes.inset_axes((position - width / 2, middle - BOX / 2, width, BOX), transform=axes.transData)
        inset.set(xticks=[], yticks=[])
        for spine in inset.spines.values():
            spine.set(alpha=opacity, linewidth=0.8)
        colour = FORMULA if one.name else CURVE
        inset.plot(one.x.numpy(), one.y.numpy(), color=colour, alpha=opacity, linewidth=1.6)
        if one.name:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            above = middle + BOX / 2 + 0.05
            axes.text(position, above, one.name, color=colour, ha="center", fontsize=8, zorder=4, bbox=box)


@torch.no_grad()
def _drawn_edges(model: KAN, x: Tensor) -> list[list[DrawnEdge]]:
    layers = []
    for index, (alive_IO, inputs) in enumerate(zip(model.alive, levels(model, x), strict=False)):
        points_SI = even_points(torch.stack(inputs.aminmax(dim=0), dim=-1), POINTS).mT
        values_SIO, formulas = edge_values(model, index, points_SI)[1], model.formulas[index]
        drawn = []
        for i, o in alive_IO.nonzero().tolist():
            row = formulas.find(i, o)
            name = None if row is None else formulas.symbols[row].name
            drawn.append(DrawnEdge(Edge(index, i, o), points_SI[:, i].cpu(), values_SIO[:, i, o].cpu(), name))
        layers.append(drawn)
    return layers


def _positions(count: int) -> list[float]:
    return [(position + 0.5) / count for position in range(count)]


def _numbered(letter: str, width: tuple[int, int]) -> list[str]:
    return [f"${letter}_{{{number + 1}}}$" for number in range(sum(width))]
