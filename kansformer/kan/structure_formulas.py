"""Curves of a structure on fine grids, and formulas from their names.

Shape letters: N samples, C coefficients, S points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import sympy
import torch
from torch import Tensor

from kansformer.kan.linear_fits import TINY, FixedColumns, coefficients, products
from kansformer.kan.structures import ORDER, SURELY_NO_NOISE, Column, Splines, Structure, coordinate
from kansformer.symbolic import SymbolLibrary
from kansformer.symbolic.compositions import Named, Z, named_curve
from kansformer.symbolic.constants import Fitted, Formula, fit_constants, torch_function

# Grids of the curves that are named, and of a product's first fit.
FINE_GRIDS, PRODUCT_GRIDS = (5, 10, 20, 40, 80), (8, 4, 2)
ALTERNATIONS, ALONE_TURNS, JOINT_STEPS, INNER_STEPS = 6, 60, 12, 10
# Of the fit of all products of splines, few samples of which lie in the corners.
PRODUCT_RIDGE = 1e-6
# Points of the tables that are named, and the shares of the samples beyond their ends.
POINTS, ENDS = 64, 0.004
# Joint fits of a product end when a step does not lower the squared error to this share.
SETTLED = 0.99
# The share of the error to which another name of a curve must lower it.
MIN_PROGRESS = 0.7
# Formulas of a structure, and names of each of its curves by their number: more where there are few.
MAX_FORMULAS, NAMES, MIN_NAMES = 8, {1: 12, 2: 8, 3: 8, 4: 8}, 3
# An error that a finer grid lowers to this share is the grid's. Curves may be off by their squared error times this.
GAIN, NOISE_FACTOR, MAX_NOISE, CLOSE = 0.7, 4.0, 0.05, 1e-10
# Bits that another scale than that of a column costs.
COORDINATE_COST = 4.0


def alternated(
    basis_NC: Tensor, splines: Sequence[Tensor], values: list[Tensor], target: Tensor, turns: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Improve the two curves of a product by fitting one after the other: their coefficients, and their values."""
    factors = [splines[0].new_zeros(splines[0].shape[1]), splines[1].new_zeros(splines[1].shape[1])]
    fixed = FixedColumns(basis_NC)
    rest = fixed.rest(target.unsqueeze(-1))
    for turn in range(turns):
        own, other = turn % 2, 1 - turn % 2
        factors[own] = fixed.coefficients(splines[own] * values[other].unsqueeze(-1), rest)[:, 0]
        values[own] = splines[own] @ factors[own]
    return factors, values


def _jointly_fitted(
    basis_NC: Tensor, splines: Sequence[Tensor], factors: list[Tensor], target: Tensor
) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
    """The same by Gauss-Newton, which ends where fits in turn only creep."""
    least, best = math.inf, factors
    for _ in range(JOINT_STEPS):
        first, second = (spline @ factor for spline, factor in zip(splines, factors, strict=True))
        rows_NC = torch.cat([basis_NC, (first * second).unsqueeze(-1)], dim=1)
        weights = coefficients(rows_NC, target.unsqueeze(-1))[:, 0]
        residual = target - rows_NC @ weights
        loss = float(residual.square().mean())
        factors = [factors[0] * weights[-1], factors[1]]
        if not loss < SETTLED * least:
            break
        least, best = loss, factors
        slopes_NC = torch.cat(
            [basis_NC, splines[0] * second.unsqueeze(-1), splines[1] * (first * weights[-1]).unsqueeze(-1)], dim=1
        )
        step = coefficients(slopes_NC, residual.unsqueeze(-1))[basis_NC.shape[1] :, 0].split(list(map(len, factors)))
        factors = [factors[0] + step[0], factors[1] + step[1]]
    return (best[0], best[1]), [splines[0] @ best[0], splines[1] @ best[1]]


@dataclass(frozen=True)
class ProductFit:
    """A constant plus the product of two curves.

    Args:
        values: of the curves at the samples, the first one times the samples' weights.
        fitted: of the whole, without weights.
        error: mean square of its weighted error.
    """

    values: list[Tensor]
    fitted: Tensor
    error: float


def product_alone(splines: Sequence[Tensor], target: Tensor, weight_N: Tensor, turns: int) -> ProductFit:
    """The product of two curves that, with a constant, is closest to a target; begun from each curve alone."""
    weight_N1, goal_N1 = weight_N.unsqueeze(-1), (target * weight_N).unsqueeze(-1)
    weighted_NC = splines[0] * weight_N1

    def begun_from(values: list[Tensor]) -> ProductFit:
        _, values = alternated(weight_N1, (weighted_NC, splines[1]), values, goal_N1[:, 0], turns)
        rows_NC = torch.cat([weight_N1, (values[0] * values[1]).unsqueeze(-1)], dim=1)
        fitted_N1 = rows_NC @ coefficients(rows_NC, goal_N1)
        error = float((fitted_N1 - goal_N1).square().mean())
        return ProductFit(values, fitted_N1[:, 0] / weight_N.clamp(min=TINY), error)

    second = splines[1] @ coefficients(splines[1] * weight_N1, goal_N1)[:, 0]
    first = weighted_NC @ coefficients(weighted_NC, goal_N1)[:, 0]
    fits = [begun_from([weight_N, second]), begun_from([first, torch.ones_like(target)])]
    return min(fits, key=lambda fit: fit.error)


def product_factors(weights: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, float]:
    """The two curves whose product is closest to products of splines, and the size of the next relative to it."""
    left, sizes, right = torch.linalg.svd(weights.unflatten(0, shape))
    return left[:, 0] * sizes[0] ** 0.5, right[0] * sizes[0] ** 0.5, float(sizes[1] / sizes[0])


def product_grid(samples: int, columns: int) -> int:
    """The finest grid of a product of two curves, beside sums of curves, that the samples determine."""
    for grid in PRODUCT_GRIDS:
        if 2 * ((grid + ORDER) ** 2 + columns * (PRODUCT_GRIDS[0] + ORDER)) <= samples:
            return grid
    return PRODUCT_GRIDS[-1]


@dataclass(frozen=True)
class StructureFit:
    """The curves of a structure.

    Args:
        splines: of the columns.
        constant, curves: of the sum; weights (C,) for each column, their constants first.
        product: the two curves of the product, in the same way.
        fitted: the transformed target, (N,).
        error: weighted RMSE of it, as by cross-validation.
        numbers: of coefficients.
    """

    splines: Splines
    constant: float
    curves: list[Tensor]
    product: tuple[Tensor, Tensor] | None
    fitted: Tensor
    error: float
    numbers: int


def fit_structure(structure: Structure, y: Tensor, grid: int) -> StructureFit:
    """Fit the curves of a structure on grids of this size; those of a product alternately.

    Where there may be noise, samples count as much as in the target; else in the transformed one, so that curves are
    close everywhere.
    """
    target, splines = structure.target(y), Splines(grid)
    weight_N = structure.weights(y) if structure.error > SURELY_NO_NOISE else torch.ones_like(y)
    basis_NC = splines.design(structure.columns) if structure.columns else torch.ones(len(y), 1, dtype=torch.float64)
    basis_NC, goal = basis_NC * weight_N.unsqueeze(-1), target * weight_N
    product, rows_NC, zero = None, basis_NC, torch.zeros(1, dtype=torch.float64)
    if structure.product is not None:
        splines_NC = [splines.design((column,)) for column in structure.product]
        if structure.columns:
            splines_NC = [spline[:, 1:] for spline in splines_NC]  # constants change nothing beside sums of curves
            start = Splines(product_grid(len(y), len(structure.columns)))
            starts = [start.design((column,))[:, 1:] for column in structure.product]
            together_NC = torch.cat([basis_NC, products(*starts) * weight_N.unsqueeze(-1)], dim=1)
            weights = coefficients(together_NC, goal.unsqueeze(-1), PRODUCT_RIDGE)[basis_NC.shape[1] :, 0]
            first, second, _ = product_factors(weights, (starts[0].shape[1], starts[1].shape[1]))
            values = [starts[0] @ first * weight_N, starts[1] @ second]
        else:
            values = product_alone(splines_NC, target, weight_N, ALONE_TURNS).values
        splines_NC[0] = splines_NC[0] * weight_N.unsqueeze(-1)
        factors, values = alternated(basis_NC, splines_NC, values, goal, ALTERNATIONS)
        product, values = _jointly_fitted(basis_NC, splines_NC, factors, goal)
        rows_NC = torch.cat([basis_NC, (values[0] * values[1]).unsqueeze(-1)], dim=1)
    weights_C = coefficients(rows_NC, goal.unsqueeze(-1))[:, 0]
    if product is not None:
        product = (product[0] * weights_C[-1], product[1])
        if structure.columns:
            product = (torch.cat([zero, product[0]]), torch.cat([zero, product[1]]))
    fitted, size = rows_NC @ weights_C, splines.basis.num_coefficients - 1
    numbers = 1 + size * (len(structure.columns) + (2 if product else 0))
    error = float((fitted - goal).square().mean()) ** 0.5 * len(y) / max(len(y) - numbers, 1)
    fitted = fitted / weight_N.clamp(min=TINY)
    own = weights_C[1 : 1 + size * len(structure.columns)].split(size) if structure.columns else []
    curves = [torch.cat([zero, curve]) for curve in own]
    return StructureFit(splines, float(weights_C[0]), curves, product, fitted, error, numbers)


def formulas_of(
    structure: Structure, x: Tensor, y: Tensor, names: Sequence[str], library: SymbolLibrary
) -> Iterator[sympy.Expr]:
    """Formulas for a structure of samples (N, I), (N,), those first whose curves have the shortest descriptions."""
    best, follows = fit_structure(structure, y, FINE_GRIDS[0]), True
    for grid in FINE_GRIDS[1:]:
        if 2 * (grid + ORDER) * (len(structure.columns) + 2 * bool(structure.product)) > len(y):
            break
        finer = fit_structure(structure, y, grid)
        if not finer.error < best.error:
            break
        best, follows = finer, finer.error < GAIN * best.error  # a grid's error falls with finer ones; noise does not
    noise = NOISE_FACTOR * best.error**2 * (1.0 if follows else best.numbers / len(y))
    top = NAMES.get(len(structure.columns) + 2 * bool(structure.product), MIN_NAMES)
    named = [
        _named(column, best.splines, curve, noise, library, top)
        for column, curve in zip(structure.columns, best.curves, strict=True)
    ]
    if structure.product is not None and best.product is not None:
        for own in (0, 1):
            column, other = structure.product[own], structure.product[1 - own]
            size = (best.splines.design((other,)) @ best.product[1 - own]).std(correction=0)
            named.append(_named(column, best.splines, best.product[own], noise / float(size) ** 2, library, top))

    def fitted(total: sympy.Expr) -> Fitted:
        whole = structure.sign * structure.transformation.sympy(total)
        if structure.factor is not None:
            whole = whole / structure.factor.expression
        return fit_constants(Formula.of(whole, names), x, y, steps=INNER_STEPS)

    for fit in itertools.chain(
        map(fitted, _factored(structure, named, x, y, names)), _chosen_in_turn(structure, best.constant, named, fitted)
    ):
        yield fit.formula.expression()


def _chosen_in_turn(
    structure: Structure, constant: float, named: Sequence[Sequence[Named]], fitted: Callable[[sympy.Expr], Fitted]
) -> Iterator[Fitted]:
    """Fits with the curves' best names, then with others for one curve after the other, each kept if it helps."""
    if not all(named):
        return
    parts = [options[0] for options in named]

    def fit_of(parts: Sequence[Named]) -> Fitted:
        expressions = [part.expression for part in parts]
        total = sympy.Float(constant) + sum(expressions[: len(structure.columns)])
        if structure.product is not None:
            total += expressions[-2] * expressions[-1]
        return fitted(total)

    best = fit_of(parts)
    yield best
    for place, options in enumerate(named):
        for other in options[1:]:
            trial = [*parts[:place], other, *parts[place + 1 :]]
            fit = fit_of(trial)
            yield fit
            if fit.error < MIN_PROGRESS * best.error:
                parts, best = trial, fit


def _factored(
    structure: Structure, named: Sequence[Sequence[Named]], x: Tensor, y: Tensor, names: Sequence[str]
) -> Iterator[sympy.Expr]:
    """a + b·(ψ + c)·(χ + d) with names of the product's two curves, where the sum is of these two only."""
    if structure.product is None or {c.expression for c in structure.columns} != _expressions(structure.product):
        return
    target = structure.target(y).unsqueeze(-1)
    symbols = list(map(sympy.Symbol, names))
    pairs = sorted(itertools.product(*named[-2:]), key=lambda parts: sum(part.cost for part in parts))
    for parts in pairs[:MAX_FORMULAS]:
        psi, chi = (part.expression for part in parts)
        values = [torch_function(symbols, e)(*x.unbind(dim=-1)) for e in (psi, chi)]
        first, second = (torch.as_tensor(v).expand(len(x)) for v in values)
        columns = torch.stack([torch.ones_like(first), first, second, first * second], dim=1)
        if columns.isfinite().all():
            one, of_psi, of_chi, of_both = coefficients(columns, target)[:, 0].tolist()
            if of_both:
                b, c = sympy.Float(of_chi / of_both), sympy.Float(of_psi / of_both)
                yield sympy.Float(one - of_psi * of_chi / of_both) + sympy.Float(of_both) * (psi + b) * (chi + c)


def _expressions(columns: Sequence[Column]) -> set[sympy.Expr]:
    return {column.expression for column in columns}


def _named(
    column: Column, splines: Splines, curve_C: Tensor, noise: float, library: SymbolLibrary, top: int
) -> list[Named]:
    """Formulas of a column for its curve, the best first."""
    lower, upper = (float(end) for end in column.values.quantile(torch.tensor([ENDS, 1 - ENDS]).double()))
    result = dict[sympy.Expr, Named]()
    is_explained = False
    for compose in (False, True):  # one function on any scale comes before compositions
        for coordinate_of, back, argument in _coordinates(column, lower):
            first, last = sorted(float(coordinate_of(torch.tensor(end).double())) for end in (lower, upper))
            u_S = torch.linspace(first, last, POINTS, dtype=torch.float64)
            y_S = splines.curve(column, curve_C, back(u_S))
            variance = float(y_S.var(correction=0))
            if not variance > 0:
                return [Named(sympy.Float(float(y_S.mean())), 0.0, 1.0)]
            share, operations = min(noise / variance, MAX_NOISE), int(argument != column.expression)
            for named in named_curve(u_S, y_S, library=library, noise=share, top=top, compose=compose):
                expression = named.expression
                if argument.is_Pow:  # (1/z)^p with z > 0
                    powers = [power for power in expression.atoms(sympy.Pow) if power.base == Z]
                    expression = expression.xreplace({p: argument.base ** (argument.exp * p.exp) for p in powers})
                expression = expression.xreplace({Z: argument})
                result[expression] = replace(
                    named, expression=expression, cost=named.cost + operations * COORDINATE_COST
                )
                is_explained |= named.r2 > 1 - max(share, CLOSE)
            if compose and is_explained:
                break
        if is_explained:
            break
    return sorted(result.values(), key=lambda named: named.cost)[:top]


def _coordinates(
    column: Column, lower: float
) -> Iterator[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], sympy.Expr]]:
    """Scales on which a curve is tabulated evenly: a function of z, its inverse, and its formula."""
    linear = (lambda z: z, lambda u: u, column.expression)
    logarithmic = (torch.log, torch.exp, sympy.log(column.expression))
    if lower > 0:
        yield from (logarithmic, linear) if coordinate(column.values) is torch.log else (linear,)
        yield (torch.reciprocal, torch.reciprocal, 1 / column.expression)
    else:
        yield linear
