"""Naming the edges of a stand-alone network, and its formula.

Shape letters: N samples, E edges, S sample points.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from kansformer.basis import fit_curves
from kansformer.errors import ConfigError, ConversionStateError, DataError, ShapeError
from kansformer.kan.data import check_inputs
from kansformer.kan.linearize import layer_features
from kansformer.kan.network import KAN, Edge
from kansformer.kan.rounding import rounded
from kansformer.progress import Progress
from kansformer.symbolic import ALL_SYMBOLS, SCIENCE_LIBRARY, SymbolicFits, SymbolLibrary
from kansformer.symbolic import fit_symbolic as name_curves
from kansformer.symbolic.selection import SIMPLICITY

if TYPE_CHECKING:
    import pandas
    import sympy

POINTS = 64
SAMPLES_PER_COEFFICIENT = 8
ROUNDING_POINTS = 256


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
            table.insert(place, name, [getattr(edge, name) for edge in self.edges])
        return table


@overload
def fit_symbolic(
    model: KAN,
    x: Tensor | None = None,
    *,
    library: SymbolLibrary | None = ...,
    refined: int | None = ...,
    simplicity: float = ...,
    noise: float = ...,
    fix: bool = ...,
) -> EdgeFits: ...


@overload
def fit_symbolic(
    model: Tensor,
    x: Tensor,
    *,
    library: SymbolLibrary | None = ...,
    refined: int | None = ...,
    simplicity: float = ...,
    noise: float = ...,
    progress: Progress | None = ...,
) -> SymbolicFits: ...


def fit_symbolic(
    model: KAN | Tensor,
    x: Tensor | None = None,
    *,
    library: SymbolLibrary | None = None,
    refined: int | None = 4,
    simplicity: float = SIMPLICITY,
    noise: float = 0.0,
    progress: Progress | None = None,
    fix: bool = True,
) -> EdgeFits | SymbolicFits:
    """Name curves: those of a network, which become formulas, or any that are given by their points.

    `fit_symbolic(model, x)` finds the function of every edge of a `KAN` that is a curve, all at once, and makes the
    edges those formulas; a `fit` afterwards moves their numbers. `fit_symbolic(x, y)` takes tables of points and
    values, each (curves, points), and returns their fits; see `kansformer.symbolic.fit_symbolic`.

    Args:
        model: a network, or the points.
        x: inputs of the network, (N, I), on whose range each edge is named, None for the grids' domains; or the values.
        library: functions to choose from; None is `SCIENCE_LIBRARY` of `kansformer.symbolic` for a network, `LIBRARY`
            for tables.
        refined: how many functions are refined for each given curve; those of a network have all refined.
        simplicity: bits per point that a unit of complexity costs in the choice; 0 takes the closest function.
        noise: share of the curves' variance that is error; residuals below it do not decide.
        progress: for given curves, called with the number of curves done and of all curves.
        fix: False only looks at a network.

    Returns:
        The fits. Edges of a network that are constant are cut, and what they added is in the bias.

    Raises:
        ShapeError, DataError, ConfigError: as in `kansformer.symbolic.fit_symbolic`.
    """
    if not isinstance(model, KAN):
        if x is None:
            raise ShapeError("fit_symbolic takes a KAN, or two tables: points and values of curves.")
        return name_curves(
            model, x, library=library, refined=refined, simplicity=simplicity, noise=noise, progress=progress
        )
    with torch.no_grad():
        edges, x_ES, y_ES = sampled_edges(model, x)
        library = SCIENCE_LIBRARY if library is None else library
        fits = name_curves(x_ES, y_ES, library=library, refined=None, simplicity=simplicity, noise=noise)
        if fix:
            for index, edge in enumerate(edges):
                fix_fitted(model, edge, fits[index])
    return EdgeFits(edges, fits)


@torch.no_grad()
def fix_symbol(
    model: KAN, edge: Edge, name: str, x: Tensor | None = None, *, library: SymbolLibrary | None = None
) -> float:
    """Make one edge a formula with the function of this name.

    Returns:
        R² of the formula on points that its fit did not see.

    Raises:
        SlotError: the edge is not there.
        ConfigError: the library has no such function, or the edge is a formula already, or constant.
    """
    library = (ALL_SYMBOLS if library is None else library).subset([name])
    fits = name_curves(*_one_edge(model, edge, x), library=library, refined=None)
    if fits.names == ["constant"]:
        raise ConfigError(f"The edge {edge} is constant, so {name!r} cannot be fitted to it. prune takes it out.")
    fix_fitted(model, edge, fits)
    return float(fits.r2)


@torch.no_grad()
def unfix_symbol(model: KAN, edge: Edge, x: Tensor | None = None) -> None:
    """Make a formula a curve again, as close as its grid can follow.

    Args:
        model: the network.
        edge: which.
        x: inputs of the network, (N, I). The grid moves to the range that reaches the edge, if no other curve has it;
            None leaves the grid where it is.

    Raises:
        SlotError: the edge is not there.
        ConfigError: it is no formula.
        DataError: the formula is not finite on the grid.
    """
    model.require(edge)
    formulas, layer = model.formulas[edge.layer], model.layers[edge.layer]
    index = formulas.find(edge.input, edge.output)
    if index is None:
        raise ConfigError(f"The edge {edge} is a curve, so there is no formula to take back.")
    if x is not None and not model.curved(edge.layer)[edge.input].any():
        _move_grid(model, edge, x)
    domain_12 = layer.domain[edge.input : edge.input + 1]
    x_1S = _even_points(domain_12, SAMPLES_PER_COEFFICIENT * layer.coefficients.shape[1])
    whole = x_1S.new_zeros(x_1S.shape[1], layer.in_features)
    whole[:, edge.input] = x_1S[0]
    y_S = formulas.values(whole)[:, index]
    if not y_S.isfinite().all():
        raise DataError(
            f"The formula of the edge {edge} is not finite everywhere on its grid, {domain_12[0].tolist()}. "
            "Give the inputs that reach it: unfix_symbol(model, edge, x)."
        )
    denominator = getattr(layer, "denominator", None)
    denominator = None if denominator is None else denominator[edge.input : edge.input + 1]
    fitted = fit_curves(x_1S, y_S.reshape(1, -1, 1), layer.curves.basis, domain_12, denominator_ID=denominator)
    layer.coefficients[edge.input, :, edge.output] = fitted[0, :, 0]
    formulas.remove(edge.input, edge.output)


@torch.no_grad()
def suggest_symbols(
    model: KAN, edge: Edge, x: Tensor | None = None, *, library: SymbolLibrary | None = None, top: int = 5
) -> pandas.DataFrame:
    """The functions that explain an edge best, one row each: name, r2 on unseen points, complexity.

    Raises:
        SlotError: the edge is not there.
        ConfigError: it is a formula already.
    """
    import pandas

    library = SCIENCE_LIBRARY if library is None else library
    x_1S, y_1S = _one_edge(model, edge, x)
    rows = []
    for symbol in library:
        fits = name_curves(x_1S, y_1S, library=library.subset([symbol.name]), refined=None)
        rows.append({"name": symbol.name, "r2": float(fits.r2), "complexity": symbol.complexity})
    return pandas.DataFrame(rows).sort_values("r2", ascending=False, kind="stable").head(top).reset_index(drop=True)


def symbolic_formula(
    model: KAN, *, variables: Sequence[str] | None = None, digits: int | None = None
) -> list[sympy.Expr]:
    """The network as formulas, one for each output.

    Args:
        model: all of its edges are formulas.
        variables: names of the inputs; None is x_1, x_2, …
        digits: significant digits of the numbers in the result, more where the function would change by more than the
            last of them inside the first grids; None keeps all.

    Raises:
        ConversionStateError: an edge is a curve.
        ConfigError: there is not one name for each input, or not one digit.
    """
    sp = importlib.import_module("sympy")
    for edge in model.edges():
        if model.formulas[edge.layer].find(edge.input, edge.output) is None:
            raise ConversionStateError(
                f"The edge {edge} is a curve, so the network has no formula. Name it by fit_symbolic(model)."
            )
    names = [f"x_{i + 1}" for i in range(sum(model.width[0]))] if variables is None else list(variables)
    if len(names) != sum(model.width[0]):
        raise ConfigError(f"The network has {sum(model.width[0])} inputs, and {len(names)} names were given: {names}.")
    if len(set(names)) < len(names):
        raise ConfigError(f"Two inputs would have one name: {names}.")
    if digits is not None and digits < 1:
        raise ConfigError(f"digits must be 1 or more, got {digits!r}.")
    nodes: list[Any] = [sp.Symbol(name) for name in names]
    for index, layer in enumerate(model.layers):
        sums = [sp.Float(value) if value else sp.Integer(0) for value in layer.bias.tolist()]
        for i, o, symbol, affine in model.formulas[index].edges():
            a, b, c, d = (sp.Float(value) for value in affine.tolist())
            sums[o] += c * symbol.sympy(a * nodes[i] + b) + d
        plain, products = model.width[index + 1]
        nodes = sums[:plain] + [sums[plain + 2 * k] * sums[plain + 2 * k + 1] for k in range(products)]
    if digits is None:
        return [sp.expand(node) for node in nodes]
    return [rounded(node, digits, _points(model, names)) for node in nodes]


def _points(model: KAN, names: Sequence[str]) -> dict[str, Tensor]:
    """Random inputs of a network inside its first grids, by the names of its variables."""
    domain_I2 = model.layers[0].domain.double().cpu()
    unit_SI = torch.rand(ROUNDING_POINTS, len(names), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points_SI = domain_I2[:, 0] + (domain_I2[:, 1] - domain_I2[:, 0]) * unit_SI
    return dict(zip(names, points_SI.unbind(dim=-1), strict=True))


def sampled_edges(model: KAN, x: Tensor | None) -> tuple[list[Edge], Tensor, Tensor]:
    """All edges that are curves, their points and values, (E, S) each."""
    edges, points, values = [], [], []
    x = None if x is None else check_inputs(model, x)
    for index, layer in enumerate(model.layers):
        range_I2 = layer.domain
        if x is not None:
            range_I2 = torch.stack([x.amin(dim=0), x.amax(dim=0)], dim=-1)
            constant = range_I2[:, 0] == range_I2[:, 1]
            range_I2 = torch.where(constant.unsqueeze(-1), layer.domain, range_I2)
        x_IS = _even_points(range_I2, POINTS)
        features, _ = layer_features(layer, x_IS.mT.contiguous())
        i, o = model.curved(index).nonzero(as_tuple=True)
        weights_EF = torch.cat([layer.weight[o, i].unsqueeze(-1), layer.coefficients[i, :, o]], dim=-1)
        points.append(x_IS[i])
        values.append(torch.einsum("sef,ef->es", features[:, i], weights_EF))
        edges += [Edge(index, *pair) for pair in zip(i.tolist(), o.tolist(), strict=True)]
        x = None if x is None else model.nodes(index, model.sums(index, x))
    return edges, torch.cat(points), torch.cat(values)


def _move_grid(model: KAN, edge: Edge, x: Tensor) -> None:
    """Set an input's domain to what reaches it."""
    x = check_inputs(model, x)
    for index in range(edge.layer):
        x = model.nodes(index, model.sums(index, x))
    lower, upper = x[:, edge.input].aminmax()
    if lower < upper:
        model.layers[edge.layer].domain[edge.input] = torch.stack([lower, upper])


def _one_edge(model: KAN, edge: Edge, x: Tensor | None) -> tuple[Tensor, Tensor]:
    model.require(edge)
    edges, x_ES, y_ES = sampled_edges(model, x)
    if edge not in edges:
        raise ConfigError(f"The edge {edge} is a formula already. Make it a curve first, by unfix_symbol.")
    row = edges.index(edge)
    return x_ES[row : row + 1], y_ES[row : row + 1]


def _even_points(range_I2: Tensor, count: int) -> Tensor:
    unit = torch.linspace(0, 1, count, dtype=range_I2.dtype, device=range_I2.device)
    return range_I2[:, :1] + (range_I2[:, 1:] - range_I2[:, :1]) * unit


@torch.no_grad()
def fix_fitted(model: KAN, edge: Edge, fit: SymbolicFits) -> None:
    """Make an edge the formula of its fit; a constant one is cut, and what it added goes into the bias."""
    layer = model.layers[edge.layer]
    layer.weight[edge.output, edge.input] = 0
    layer.coefficients[edge.input, :, edge.output] = 0
    if fit.names == ["constant"]:
        layer.bias[edge.output] += float(fit.d)
        model.alive[edge.layer][edge.input, edge.output] = False
        return
    symbol = fit.library.named(fit.names[0])
    model.formulas[edge.layer].add(edge.input, edge.output, symbol, fit.params[0].tolist())
