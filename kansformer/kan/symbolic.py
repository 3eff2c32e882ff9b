"""Symbols for the edges of a stand-alone network, and its formula.

Shape letters: N samples, E edges, S sample points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.checks import check_integer
from kansformer.errors import ConfigError, ConversionStateError, DataError
from kansformer.kan.data import Samples, Table, even_points, inputs_of, random_points, variable_names
from kansformer.kan.edges import Edge, check_edge
from kansformer.kan.linearize import fit_layer_curves, layer_features, levels
from kansformer.symbolic import ALL_SYMBOLS, SCIENCE_LIBRARY, SymbolicFits, SymbolLibrary
from kansformer.symbolic import fit_symbolic as fit_curve_tables
from kansformer.symbolic.fit import SIMPLICITY

if TYPE_CHECKING:
    import pandas
    import sympy

    from kansformer.kan.network import KAN

POINTS = 64
SAMPLES_PER_COEFFICIENT = 8
RANDOM_POINTS = 256


@dataclass(frozen=True)
class EdgeFits:
    """The functions of edges.

    Args:
        edges: which, E of them.
        fits: one for each.
    """

    edges: list[Edge]
    fits: SymbolicFits

    def __len__(self) -> int:
        return len(self.edges)

    def __str__(self) -> str:
        rows = zip(self.edges, self.fits.names, self.fits.r2.tolist(), strict=True)
        return "\n".join(f"{edge}: {name}, R² {r2:.6f}" for edge, name, r2 in rows)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per edge: layer, input, output, and the fit."""
        table = self.fits.to_pandas()
        for place, name in enumerate(("layer", "input", "output")):
            table.insert(place, name, [vars(edge)[name] for edge in self.edges])
        return table


@torch.no_grad()
def fit_symbolic(
    model: KAN,
    data: Samples | Table | None = None,
    *,
    library: SymbolLibrary | Sequence[str] | None = None,
    simplicity: float = SIMPLICITY,
    noise: float = 0.0,
    fix: bool = True,
) -> EdgeFits:
    """Find the function of every edge that is a curve, and make the edges formulas, in place.

    All edges are fitted at once. A `fit` afterwards moves the numbers of the formulas.

    Args:
        model: the network.
        data: samples, or inputs (N, I), on whose range each edge is fitted; None for the grids' domains.
        library: functions to choose from, or their names; None is `kansformer.symbolic.SCIENCE_LIBRARY`.
        simplicity: bits per point that a unit of complexity costs in the choice; 0 takes the closest function.
        noise: share of the curves' variance that is error; residuals below it do not decide.
        fix: False leaves the network as it is.

    Returns:
        The fits. Constant edges are cut, and their value is added to the bias.

    Raises:
        ShapeError, DataError, ConfigError: as in `kansformer.symbolic.fit_symbolic`.
    """
    edges, x_ES, y_ES = sampled_edges(model, data)
    library = library_of(library, SCIENCE_LIBRARY)
    fits = fit_curve_tables(x_ES, y_ES, library=library, refined=None, simplicity=simplicity, noise=noise)
    if fix:
        for index, edge in enumerate(edges):
            fix_fitted(model, edge, fits[index])
    return EdgeFits(edges, fits)


@torch.no_grad()
def fix_symbol(
    model: KAN,
    edge: Edge,
    name: str,
    data: Samples | Table | None = None,
    *,
    library: SymbolLibrary | None = None,
) -> float:
    """Make one edge a formula with the function of this name, in place.

    Args:
        model: the network.
        edge: which.
        name: of the function.
        data: samples, or inputs (N, I), as in `fit_symbolic`.
        library: which has the function; None is `kansformer.symbolic.ALL_SYMBOLS`.

    Returns:
        R² of the formula on points held out from its fit.

    Raises:
        SlotError: the edge does not exist.
        ConfigError: the library has no such function, or the edge is a formula already, or constant.
    """
    library = library_of(library, ALL_SYMBOLS).subset([name])
    fits = fit_curve_tables(*_one_edge(model, edge, data), library=library, refined=None)
    if fits.names == ["constant"]:
        raise ConfigError(f"The edge {edge} is constant, so {name!r} cannot be fitted to it. prune removes it.")
    fix_fitted(model, edge, fits)
    return float(fits.r2)


@torch.no_grad()
def unfix_symbol(model: KAN, edge: Edge, data: Samples | Table | None = None) -> None:
    """Make a formula a curve again, as close as its grid can follow, in place.

    Args:
        model: the network.
        edge: which.
        data: samples, or inputs (N, I). The grid moves to the range of the edge's inputs, unless another curve shares
            it; None leaves the grid where it is.

    Raises:
        SlotError: the edge does not exist.
        ConfigError: it is not a formula.
        DataError: the formula is not finite on the grid.
    """
    check_edge(model, edge)
    formulas, layer = model.formulas[edge.layer], model.layers[edge.layer]
    index = formulas.find(edge.input, edge.output)
    if index is None:
        raise ConfigError(f"The edge {edge} is a curve, so it has no formula to remove.")
    if data is not None and not model.curved(edge.layer)[edge.input].any():
        lower, upper = list(levels(model, inputs_of(model, data)))[edge.layer][:, edge.input].aminmax()
        if lower < upper:
            layer.domain[edge.input] = torch.stack([lower, upper])
    domain_12 = layer.domain[edge.input : edge.input + 1]
    x_S = even_points(domain_12, SAMPLES_PER_COEFFICIENT * layer.coefficients.shape[1])[0]
    whole = x_S.new_zeros(len(x_S), layer.in_features)
    whole[:, edge.input] = x_S
    y_S = formulas.values(whole)[:, index]
    if not y_S.isfinite().all():
        raise DataError(
            f"The formula of the edge {edge} is not finite everywhere on its grid, {domain_12[0].tolist()}. "
            "Pass the data whose range the grid should cover: model.unfix_symbol(edge, data)."
        )
    fitted_C1 = fit_layer_curves(layer, edge.input, x_S, y_S.unsqueeze(-1))
    layer.coefficients[edge.input, :, edge.output] = fitted_C1[:, 0]
    formulas.keep(torch.arange(len(formulas)) != index)


@torch.no_grad()
def suggest_symbols(
    model: KAN,
    edge: Edge,
    data: Samples | Table | None = None,
    *,
    library: SymbolLibrary | Sequence[str] | None = None,
    top: int = 5,
) -> pandas.DataFrame:
    """The functions that explain an edge best, one row each: name, r2 on held-out points, complexity.

    Args:
        model: the network.
        edge: which.
        data, library: as in `fit_symbolic`.
        top: number of rows.

    Raises:
        SlotError: the edge does not exist.
        ConfigError: it is a formula already.
    """
    import pandas

    library = library_of(library, SCIENCE_LIBRARY)
    x_1S, y_1S = _one_edge(model, edge, data)
    rows = []
    for symbol in library:
        fits = fit_curve_tables(x_1S, y_1S, library=library.subset([symbol.name]), refined=None)
        rows.append({"name": symbol.name, "r2": float(fits.r2), "complexity": symbol.complexity})
    return pandas.DataFrame(rows).sort_values("r2", ascending=False, kind="stable").head(top).reset_index(drop=True)


def formula(model: KAN, *, variables: Sequence[str] | None = None, digits: int | None = None) -> list[sympy.Expr]:
    """The network as formulas, one for each output.

    Args:
        model: the network, with a formula on every edge.
        variables: names of the inputs; None is x_1, x_2, …
        digits: significant digits of the numbers in the result, more where the function would change by more than the
            last of them inside the first grids; None keeps all.

    Raises:
        ConversionStateError: an edge is a curve.
        ConfigError: there is not one name for each input, or not one digit.
    """
    import sympy

    from kansformer.kan.rounding import rounded

    for edge in model.edges():
        if model.formulas[edge.layer].find(edge.input, edge.output) is None:
            raise ConversionStateError(
                f"The edge {edge} is a curve, so the network has no formula. Call model.fit_symbolic(data) first."
            )
    names = variable_names(variables, [f"x_{i + 1}" for i in range(sum(model.width[0]))], "inputs")
    if len(set(names)) < len(names):
        raise ConfigError(f"Two inputs would have one name: {names}.")
    if digits is not None:
        check_integer("digits", digits, 1)
    nodes: list[sympy.Expr] = [sympy.Symbol(name) for name in names]
    for index, layer in enumerate(model.layers):
        sums = [sympy.Float(value) if value else sympy.Integer(0) for value in layer.bias.tolist()]
        for i, o, symbol, affine in model.formulas[index].edges():
            a, b, c, d = (sympy.Float(value) for value in affine.tolist())
            sums[o] += c * symbol.sympy(a * nodes[i] + b) + d
        plain, products = model.width[index + 1]
        nodes = sums[:plain] + [sums[plain + 2 * k] * sums[plain + 2 * k + 1] for k in range(products)]
    if digits is None:
        return [sympy.expand(node) for node in nodes]
    points = dict(zip(names, random_inputs(model).unbind(dim=-1), strict=True))
    return [rounded(node, digits, points) for node in nodes]


def library_of(library: SymbolLibrary | Sequence[str] | None, default: SymbolLibrary) -> SymbolLibrary:
    """A library, or the functions of these names, or the default."""
    library = default if library is None else library
    return library if isinstance(library, SymbolLibrary) else ALL_SYMBOLS.subset(list(library))


def random_inputs(model: KAN) -> Tensor:
    """Random inputs of a network inside its first grids, (N, I), float64."""
    return random_points(model.layers[0].domain.double().cpu(), RANDOM_POINTS, seed=0)


def sampled_edges(model: KAN, data: Samples | Table | None) -> tuple[list[Edge], Tensor, Tensor]:
    """All edges that are curves, their points and values, (E, S) each."""
    edges, points, values = [], [], []
    inputs = repeat(None) if data is None else levels(model, inputs_of(model, data))
    for index, (layer, x) in enumerate(zip(model.layers, inputs, strict=False)):
        range_I2 = layer.domain
        if x is not None:
            lower, upper = x.aminmax(dim=0)
            range_I2 = torch.where((lower == upper).unsqueeze(-1), range_I2, torch.stack([lower, upper], dim=-1))
        x_IS = even_points(range_I2, POINTS)
        features, _ = layer_features(layer, x_IS.mT.contiguous())
        i, o = model.curved(index).nonzero(as_tuple=True)
        weights_EF = torch.cat([layer.weight[o, i].unsqueeze(-1), layer.coefficients[i, :, o]], dim=-1)
        points.append(x_IS[i])
        values.append(torch.einsum("sef,ef->es", features[:, i], weights_EF))
        edges += [Edge(index, *pair) for pair in zip(i.tolist(), o.tolist(), strict=True)]
    return edges, torch.cat(points), torch.cat(values)


def _one_edge(model: KAN, edge: Edge, data: Samples | Table | None) -> tuple[Tensor, Tensor]:
    check_edge(model, edge)
    edges, x_ES, y_ES = sampled_edges(model, data)
    if edge not in edges:
        raise ConfigError(f"The edge {edge} is a formula already. Make it a curve first, by unfix_symbol.")
    row = edges.index(edge)
    return x_ES[row : row + 1], y_ES[row : row + 1]


@torch.no_grad()
def fix_fitted(model: KAN, edge: Edge, fit: SymbolicFits) -> None:
    """Make an edge the formula of its fit; a constant one is cut, and its value is added to the bias."""
    layer = model.layers[edge.layer]
    layer.weight[edge.output, edge.input] = 0
    layer.coefficients[edge.input, :, edge.output] = 0
    if fit.names == ["constant"]:
        layer.bias[edge.output] += float(fit.d)
        model.alive[edge.layer][edge.input, edge.output] = False
        return
    symbol = fit.library.named(fit.names[0])
    model.formulas[edge.layer].add(edge.input, edge.output, symbol, fit.params[0].tolist())
