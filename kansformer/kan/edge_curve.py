"""One edge of a network as a function: call it, ask for its range and its symbol, plot it.

Shape letters: `...` any, S sample points, I inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.errors import DataError
from kansformer.figure import figure_class
from kansformer.kan.data import Samples, Table, even_points, inputs_of
from kansformer.kan.edges import Edge, SymbolicEdges, check_edge
from kansformer.kan.linearize import layer_features, levels
from kansformer.symbolic import Symbol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kansformer.kan.network import KAN

POINTS = 200


@dataclass(frozen=True)
class EdgeCurve:
    """The function on one edge of a network, as the network is when it is called.

    Args:
        model: the network.
        edge: which.
        range: lowest and highest input that the edge sees on the data, or else its grid.
    """

    model: KAN
    edge: Edge
    range: tuple[float, float]

    def __call__(self, x: Tensor) -> Tensor:
        """The edge's values at inputs of any shape; differentiable by x, not by the network's parameters."""
        layer, formulas = self.model.layers[self.edge.layer], self.model.formulas[self.edge.layer]
        i, o = self.edge.input, self.edge.output
        x = torch.as_tensor(x)
        x_S = x.to(layer.weight).reshape(-1)
        row = self._row
        if row is not None:
            own = SymbolicEdges(1, dtype=x_S.dtype).to(x_S.device)
            own.add(0, 0, formulas.symbols[row], formulas.affine[row].tolist())
            own.requires_grad_(False)
            return own.values(x_S.unsqueeze(-1))[:, 0].reshape(x.shape)
        whole_SI = torch.cat(
            [x_S.new_zeros(len(x_S), i), x_S.unsqueeze(-1), x_S.new_zeros(len(x_S), layer.in_features - i - 1)], dim=-1
        )
        with torch.set_grad_enabled(x.requires_grad and torch.is_grad_enabled()):
            features_SF = layer_features(layer, whole_SI)[0][:, i]
            weights_F = torch.cat([layer.weight[o, i].reshape(1), layer.coefficients[i, :, o]])
            return (features_SF @ weights_F.detach()).reshape(x.shape)

    @property
    def symbol(self) -> Symbol | None:
        """Its function if it is a formula, or None."""
        row = self._row
        return None if row is None else self.model.formulas[self.edge.layer].symbols[row]

    @property
    def affine(self) -> tuple[float, ...] | None:
        """a, b, c and d if it is a formula c·f(a·x + b) + d, or None."""
        row = self._row
        return None if row is None else tuple(self.model.formulas[self.edge.layer].affine[row].tolist())

    @property
    def _row(self) -> int | None:
        """Where it stands among the formulas of its layer, or None."""
        return self.model.formulas[self.edge.layer].find(self.edge.input, self.edge.output)

    def plot(self) -> Figure:
        """Draw the curve over its range.

        Raises:
            ConfigError: matplotlib is not installed.
        """
        x_S = torch.linspace(*self.range, POINTS, dtype=torch.float64)
        figure = figure_class()(figsize=(4.2, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.plot(x_S.numpy(), self(x_S).detach().cpu().double().numpy(), linewidth=2)
        axes.set_title(str(self), fontsize=10)
        axes.grid(alpha=0.3)
        return figure

    def __str__(self) -> str:
        lower, upper = self.range
        name = "curve" if self.symbol is None else self.symbol.name
        return f"{self.edge} {name} on [{lower:.4g}, {upper:.4g}]"


@torch.no_grad()
def edge(model: KAN, layer: int, input: int, output: int, data: Samples | Table | None = None) -> EdgeCurve:
    """One edge as a function.

    Args:
        model: the network.
        layer, input, output: of the edge, as in `Edge`.
        data: samples, or inputs (N, I), on which the edge's range is taken; None takes its grid.

    Returns:
        A function of tensors with the edge's `range`, `symbol`, `affine` and `plot`; `str` shows its place, function
        and range.

    Raises:
        SlotError: the edge does not exist.

    Examples:
        >>> from kansformer.kan import KAN
        >>> curve = KAN([2, 1]).edge(0, 1, 0)
        >>> curve.range, curve(torch.linspace(-1, 1, 5)).shape
        ((-1.0, 1.0), torch.Size([5]))
    """
    place = check_edge(model, (layer, input, output))
    lower, upper = edge_range(model, place, data)
    return EdgeCurve(model, place, (float(lower), float(upper)))


def edge_range(model: KAN, place: Edge, data: Samples | Table | None) -> Tensor:
    """Lowest and highest input of an edge on data; those of its grid without data, or if the input is constant."""
    seen = None if data is None else _seen(model, place, data)
    return model.layers[place.layer].domain[place.input] if seen is None or seen[0] == seen[1] else seen


def curve_samples(model: KAN, place: Edge, data: Samples | Table | None, count: int) -> tuple[Tensor, Tensor]:
    """Even points on the range of an edge and its values there, (S,) each; all the same if its input is constant."""
    lower, upper = edge_range(model, place, data)
    x_S = even_points(torch.stack([lower, upper]).unsqueeze(0), count)[0]
    seen = x_S[[0, -1]] if data is None else _seen(model, place, data)
    curve = EdgeCurve(model, place, (float(lower), float(upper)))
    return x_S, curve(x_S if seen[0] < seen[1] else seen[:1].expand_as(x_S))


def _seen(model: KAN, place: Edge, data: Samples | Table) -> Tensor:
    """Lowest and highest input of an edge on data, which are the same where it is constant."""
    x_N = list(levels(model, inputs_of(model, data)))[place.layer][:, place.input]
    if not x_N.isfinite().all():
        raise DataError(f"The inputs of the edge {place} are not finite on these data: an edge before it is not.")
    return torch.stack(x_N.aminmax())
