"""Symbols for the edges of a stand-alone network, and its formula.

Shape letters: N samples, E edges, S sample points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.checks import check_integer, check_number
from kansformer.errors import ConfigError, ConversionStateError, DataError
from kansformer.kan.constraints import check_not_held
from kansformer.kan.data import Samples, Table, even_points, inputs_and_targets, inputs_of, variable_names
from kansformer.kan.edge_curve import curve_samples
from kansformer.kan.edge_samples import POINTS, random_inputs, sampled_edges
from kansformer.kan.edges import Edge, EdgeLike, SymbolicEdges, check_edge, clear_edges, only_edge
from kansformer.kan.editing import remove_edge
from kansformer.kan.fitting import rmse
from kansformer.kan.linearize import fit_layer_curves, levels
from kansformer.symbolic import ALL_SYMBOLS, SCIENCE_LIBRARY, Symbol, SymbolicFits, SymbolLibrary
from kansformer.symbolic import fit_symbolic as fit_curve_tables
from kansformer.symbolic.fit import SIMPLICITY
from kansformer.symbolic.names import ZERO, exponent_of

if TYPE_CHECKING:
    import pandas
    import sympy

    from kansformer.kan.network import KAN

# Edges may be off by the error of the whole network times this, up to this share of their variance.
NOISE_FACTOR, MAX_NOISE = 3.0, 0.05
SAMPLES_PER_COEFFICIENT = 8


@dataclass(frozen=True)
class EdgeFits:
    """The functions of edges.

    Args:
        edges: which, E of them.
        fits: one for each.

    Examples:
        >>> from kansformer.kan import KAN
        >>> model, x = KAN([2, 1]), torch.rand(100, 2, dtype=torch.float64)
        >>> history = model.fit((x, x[:, :1].exp() + x[:, 1:] ** 2), steps=10, progress=False)
        >>> fits = model.fit_symbolic(x)
        >>> [(str(edge), name) for edge, name in zip(fits.edges, fits.fits.names)]
        [('(0, 0 -> 0)', 'exp'), ('(0, 1 -> 0)', 'x^2')]
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
    noise: float | None = None,
    fix: bool = True,
) -> EdgeFits:
    """Find the function of every edge that is a curve, and make the edges formulas, in place.

    All edges are fitted at once. A `fit` afterwards moves the numbers of the formulas.

    Args:
        model: the network.
        data: samples, on whose range each edge is fitted, and whose error says how exact the curves are; inputs (N, I)
            for the range alone; None takes the grids' domains without their margins.
        library: functions to choose from, or their names; None is `kansformer.symbolic.SCIENCE_LIBRARY`.
        simplicity: bits per point that a unit of complexity costs in the choice; 0 takes the closest function.
        noise: share of the curves' variance that is error; residuals below it do not decide. None takes it from the
            network's error on the samples, and without any from its grids.
        fix: False leaves the network as it is.

    Returns:
        The fits. Constant edges are cut, and their value is added to the bias.

    Raises:
        ShapeError, DataError, ConfigError: as in `kansformer.symbolic.fit_symbolic`; or the network is held to
            constraints, and `fix` is True.
    """
    if fix:
        check_not_held(model, "fit_symbolic")
    edges, x_ES, y_ES = sampled_edges(model, data)
    library = library_of(library, SCIENCE_LIBRARY)
    noise = noise_of(model, data) if noise is None else noise
    fits = fit_curve_tables(x_ES, y_ES, library=library, refined=None, simplicity=simplicity, noise=noise)
    if fix:
        for index, edge in enumerate(edges):
            fix_fitted(model, edge, fits[index])
    return EdgeFits(edges, fits)


@torch.no_grad()
def fix_symbol(
    model: KAN,
    edge: EdgeLike,
    name: str,
    data: Samples | Table | None = None,
    *,
    library: SymbolLibrary | None = None,
    affine: Sequence[float] | None = None,
    trainable: bool = True,
) -> float:
    """Make one edge a formula c·f(a·x + b) + d with the function of this name, in place.

    Args:
        model: the network.
        edge: which, an `Edge` or (layer, input, output).
        name: of the function, in any usual spelling: `x^2`, `x**2.5`, `1/x^3`, `sqrt`, `sgn`; `0` cuts the edge and
            moves its mean into the bias.
        data: samples, or inputs (N, I), as in `fit_symbolic`.
        library: which has the function; None is `kansformer.symbolic.ALL_SYMBOLS`.
        affine: the numbers a, b, c and d; the edge may then be a formula already. None fits them to the curve.
        trainable: whether `fit` moves the numbers.

    Returns:
        R² of the formula against the edge as it was, on points held out from the fit of the numbers; where numbers are
        given, on all points, and it may be far below 0.

    Raises:
        SlotError: the edge does not exist.
        ConfigError: the library has no such function, `affine` is not four finite numbers, or the edge is to be fitted
            and is a formula already, or constant; or the network is held to constraints.
        DataError: with these numbers the function is not finite on the edge's range.
    """
    edge = check_edge(model, edge)
    if name == ZERO:
        mean = 0.0 if data is not None else float(curve_samples(model, edge, None, POINTS)[1].mean())
        if not math.isfinite(mean):
            raise DataError(f"The edge {edge} is not finite on its grid. Pass the data for its mean.")
        model.layers[edge.layer].bias[edge.output] += mean
        remove_edge(model, edge, data)
        return 0.0
    check_not_held(model, "fix_symbol")
    symbol = (ALL_SYMBOLS if library is None else library).named(name)
    if affine is not None:
        return _fix_given(model, edge, symbol, affine, data, trainable=trainable)
    fits = fit_curve_tables(*_one_edge(model, edge, data), library=SymbolLibrary([symbol]), refined=None)
    if fits.names == ["constant"]:
        raise ConfigError(f"The edge {edge} is constant, so {name!r} cannot be fitted to it. prune removes it.")
    fix_fitted(model, edge, fits)
    model.formulas[edge.layer].frozen[-1] = not trainable
    return float(fits.r2)


def _fix_given(
    model: KAN,
    edge: Edge,
    symbol: Symbol,
    affine: Sequence[float],
    data: Samples | Table | None,
    *,
    trainable: bool,
) -> float:
    numbers = list(affine)
    if len(numbers) != 4:
        raise ConfigError(f"affine must be the four numbers a, b, c, d of c·f(a·x + b) + d, got {affine!r:.120}.")
    numbers = [check_number(f"{letter} of affine", value) for letter, value in zip("abcd", numbers, strict=True)]
    x_S, y_S = curve_samples(model, edge, data, POINTS)
    power = exponent_of(symbol.name)
    if power is not None and power < 0 and power.denominator == 1 and numbers[0] * float(x_S[0]) < -numbers[1]:
        a, b, c, d = numbers  # on the left of the pole, where the library has the mirror image only
        numbers = [-a, -b, c * (-1) ** int(power), d]
    formula = SymbolicEdges(1, dtype=x_S.dtype).to(x_S.device)
    formula.add(0, 0, symbol, numbers)
    f_S = formula.values(x_S.unsqueeze(-1))[:, 0]
    if not f_S.isfinite().all():
        ends = f"from {float(x_S[0]):.4g} to {float(x_S[-1]):.4g}"
        hint = (
            ""
            if data is not None
            else " Pass the data whose range counts: model.fix_symbol(edge, name, data, affine=…)."
        )
        raise DataError(
            f"{symbol.name} of a·x + b is not finite on the whole range of the edge {edge}, {ends}, with a, b, c, d = "
            f"{numbers}. Its domain is {symbol.domain}.{hint}"
        )
    clear_edges(model.layers[edge.layer], only_edge(model, edge))
    model.formulas[edge.layer].add(edge.input, edge.output, symbol, numbers, trainable=trainable)
    spread = (y_S - y_S.mean()).square().sum().clamp(min=torch.finfo(y_S.dtype).tiny)
    return float(1 - (y_S - f_S).square().sum() / spread)


@torch.no_grad()
def unfix_symbol(model: KAN, edge: EdgeLike, data: Samples | Table | None = None) -> None:
    """Make a formula a curve again, as close as its grid can follow, in place.

    Args:
        model: the network.
        edge: which, an `Edge` or (layer, input, output).
        data: samples, or inputs (N, I). The grid moves to the range of the edge's inputs, unless another curve shares
            it; None leaves the grid where it is.

    Raises:
        SlotError: the edge does not exist.
        ConfigError: it is not a formula.
        DataError: the formula is not finite on the grid.
    """
    edge = check_edge(model, edge)
    formulas, layer = model.formulas[edge.layer], model.layers[edge.layer]
    index = formulas.find(edge.input, edge.output)
    if index is None:
        raise ConfigError(f"The edge {edge} is a curve, so it has no formula to remove.")
    domain_12 = layer.domain[edge.input : edge.input + 1].clone()
    if data is not None and not model.curved(edge.layer)[edge.input].any():
        lower, upper = list(levels(model, inputs_of(model, data)))[edge.layer][:, edge.input].aminmax()
        if lower < upper:
            domain_12 = torch.stack([lower, upper]).unsqueeze(0)
    x_S = even_points(domain_12, SAMPLES_PER_COEFFICIENT * layer.coefficients.shape[1])[0]
    whole = x_S.new_zeros(len(x_S), layer.in_features)
    whole[:, edge.input] = x_S
    y_S = formulas.values(whole)[:, index]
    if not y_S.isfinite().all():
        raise DataError(
            f"The formula of the edge {edge} is not finite everywhere on its grid, {domain_12[0].tolist()}. "
            "Pass the data whose range the grid should cover: model.unfix_symbol(edge, data)."
        )
    layer.domain[edge.input] = domain_12[0]
    fitted_C1 = fit_layer_curves(layer, edge.input, x_S, y_S.unsqueeze(-1))
    layer.coefficients[edge.input, :, edge.output] = fitted_C1[:, 0]
    formulas.keep(torch.arange(len(formulas)) != index)


@torch.no_grad()
def suggest_symbols(
    model: KAN,
    edge: EdgeLike,
    data: Samples | Table | None = None,
    *,
    library: SymbolLibrary | Sequence[str] | None = None,
    top: int = 5,
) -> pandas.DataFrame:
    """The functions that explain an edge best, one row each: name, r2 on held-out points, complexity.

    Args:
        model: the network.
        edge: which, an `Edge` or (layer, input, output).
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
        fits = fit_curve_tables(x_1S, y_1S, library=SymbolLibrary([symbol]), refined=None)
        rows.append({"name": symbol.name, "r2": float(fits.r2), "complexity": symbol.complexity})
    return pandas.DataFrame(rows).sort_values("r2", ascending=False, kind="stable").head(top).reset_index(drop=True)


def formula(model: KAN, *, variables: Sequence[str] | None = None, digits: int | None = None) -> list[sympy.Expr]:
    """The network as formulas, one for each output.

    Args:
        model: the network, with a formula on every edge.
        variables: names of the inputs, which may be TeX: `$x_{12}$` is x_12, `$\\alpha$` is alpha, which sympy prints
            as the letter; None is x_1, x_2, …
        digits: significant digits of the numbers in the result, more where the function would change by more than the
            last of them inside the first grids; None keeps all.

    Raises:
        ConversionStateError: an edge is a curve.
        ConfigError: there is not one name for each input, or not one digit.
    """
    import sympy

    from kansformer.kan.rounding import expanded, rounded

    for edge in model.edges():
        if model.formulas[edge.layer].find(edge.input, edge.output) is None:
            raise ConversionStateError(
                f"The edge {edge} is a curve, so the network has no formula. Call model.fit_symbolic(data) first."
            )
    names = variable_names(variables, [f"x_{i + 1}" for i in range(sum(model.width[0]))])
    if digits is not None:
        check_integer("digits", digits, 1)
    nodes: list[sympy.Expr] = [sympy.Symbol(name) for name in names]
    for index, layer in enumerate(model.layers):
        sums = [sympy.Float(value) if value else sympy.Integer(0) for value in layer.bias.tolist()]
        for i, o, symbol, affine in model.formulas[index].edges():
            a, b, c, d = map(sympy.Float, affine.tolist())
            sums[o] += c * symbol.sympy(a * nodes[i] + b) + d
        plain, products = model.width[index + 1]
        nodes = sums[:plain] + [sums[plain + 2 * k] * sums[plain + 2 * k + 1] for k in range(products)]
    points = dict(zip(names, random_inputs(model).unbind(dim=-1), strict=True))
    return [expanded(node, points) if digits is None else rounded(node, digits, points) for node in nodes]


def noise_of(model: KAN, data: Samples | Table | None) -> float:
    """The share of curves' variance that is error, from the network's error on samples, or from its grids."""
    x, y = (None, None) if data is None else inputs_and_targets(model, data)
    if x is None or y is None:
        basis = model.layers[0].curves.basis
        return min(float(basis.grid_size) ** (-2 * (basis.order + 1)), MAX_NOISE)
    spread = float(y.std(dim=0, correction=0).square().mean().sqrt())
    return min((NOISE_FACTOR * rmse(model, x, y) / spread) ** 2, MAX_NOISE) if spread else 0.0


def library_of(library: SymbolLibrary | Sequence[str] | None, default: SymbolLibrary) -> SymbolLibrary:
    """A library, or the functions of these names, or the default; pykan's `0` in a list is left out."""
    if isinstance(library, str):
        raise ConfigError(f"A library is a list of names, such as [{library!r}], got the one text {library!r}.")
    library = default if library is None else library
    if isinstance(library, SymbolLibrary):
        return library
    return ALL_SYMBOLS.subset([name for name in library if name != ZERO])


def _one_edge(model: KAN, edge: EdgeLike, data: Samples | Table | None) -> tuple[Tensor, Tensor]:
    edge = check_edge(model, edge)
    edges, x_ES, y_ES = sampled_edges(model, data)
    if edge not in edges:
        raise ConfigError(f"The edge {edge} is a formula already. Make it a curve first, by unfix_symbol.")
    row = edges.index(edge)
    return x_ES[row : row + 1], y_ES[row : row + 1]


@torch.no_grad()
def fix_fitted(model: KAN, edge: Edge, fit: SymbolicFits) -> None:
    """Make an edge the formula of its fit; a constant one is cut, and its value is added to the bias."""
    layer = model.layers[edge.layer]
    clear_edges(layer, only_edge(model, edge))
    if fit.names == ["constant"]:
        layer.bias[edge.output] += float(fit.d)
        model.alive[edge.layer][edge.input, edge.output] = False
        return
    symbol = fit.library.named(fit.names[0])
    model.formulas[edge.layer].add(edge.input, edge.output, symbol, fit.params[0].tolist())
