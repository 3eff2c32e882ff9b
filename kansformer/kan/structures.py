"""Structures of formulas: T(y) = φ₁(z₁) + φ₂(z₂) + … + ψ(z₁)·χ(z₂), with a curve for each z.

Shape letters: N samples, I inputs, C coefficients, R transformed targets, S points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import sympy
import torch
from torch import Tensor

from kansformer.basis import Basis
from kansformer.symbolic import SymbolLibrary
from kansformer.symbolic.constants import torch_function

ORDER = 3
# Columns of positive values may have grids in log(x) where the largest is this many times the smallest.
DECADE = 10.0
# What an operation in the structure must improve the error by, in nats: little where the error may be noise, and more
# where it is that of the splines, which any curve more improves.
NOISE_COST, OPERATION_COST, NOISE, SURELY_NO_NOISE, MIN_ERROR = 0.05, 0.3, 3e-3, 3e-5, 1e-9
MAX_EXPONENT = 30.0
FACTOR_POWERS = tuple(sympy.Rational(p) for p in ("-2", "-1", "-1/2", "1/2", "1", "2"))
RECIPROCALS = (sympy.Integer(-1), sympy.Integer(1))
# Of samples in fits of transformed targets, relative to the median.
MAX_WEIGHT = 100.0


@dataclass(frozen=True)
class Transformation:
    """T of a target.

    Args:
        name: of T⁻¹ in libraries.
        forward, inverse: T and T⁻¹ of tensors; NaN where they are not defined.
        sympy: T⁻¹ of an expression.
        complexity: operations of T⁻¹.
    """

    name: str
    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    sympy: Callable[[sympy.Expr], sympy.Expr]
    complexity: int


def _positive(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda t: function(torch.where(t > 0, t, torch.nan))


TRANSFORMATIONS = (
    Transformation("x", lambda y: y, lambda t: t, lambda e: e, 0),
    Transformation("exp", _positive(torch.log), lambda t: torch.exp(t.clamp(max=700)), sympy.exp, 1),
    Transformation("1/x", torch.reciprocal, torch.reciprocal, lambda e: 1 / e, 1),
    Transformation("sqrt", _positive(torch.square), _positive(torch.sqrt), sympy.sqrt, 1),
    Transformation("x^2", _positive(torch.sqrt), torch.square, lambda e: e**2, 1),
    Transformation("1/sqrt(x)", _positive(lambda y: y**-2), _positive(torch.rsqrt), lambda e: 1 / sympy.sqrt(e), 2),
    Transformation("1/x^2", _positive(torch.rsqrt), lambda t: t**-2, lambda e: e**-2, 2),
    Transformation(
        "log", lambda y: torch.exp(torch.where(y.abs() < MAX_EXPONENT, y, torch.nan)),
        _positive(torch.log), sympy.log, 1,
    ),
    Transformation(
        "log", lambda y: torch.exp(torch.where(y.abs() < MAX_EXPONENT, -y, torch.nan)),
        lambda t: -_positive(torch.log)(t), lambda e: -sympy.log(e), 2,
    ),
    Transformation(
        "arcsin", lambda y: torch.sin(torch.where(y.abs() <= math.pi / 2, y, torch.nan)), torch.asin, sympy.asin, 2
    ),
    Transformation(
        "arctan", lambda y: torch.tan(torch.where(y.abs() < math.pi / 2, y, torch.nan)), torch.atan, sympy.atan, 2
    ),
    Transformation("tanh", torch.atanh, torch.tanh, sympy.tanh, 2),
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """An input of curves, or a combination of two.

    Args:
        expression: of the variables.
        values: (N,).
        operations: in the expression.
    """

    expression: sympy.Expr
    values: Tensor
    operations: int = 0


@dataclass(frozen=True)
class Structure:
    """T(y·factor) as a sum of curves, and of a product of two.

    Args:
        columns: what the curves are of.
        transformation: T.
        factor: a power of an input, or None, by which the target is multiplied.
        sign: of the target, which is made positive.
        error: RMSE of the curves, relative to the target's deviation.
        product: the columns whose curves are multiplied.
    """

    columns: tuple[Column, ...]
    transformation: Transformation
    factor: Column | None
    sign: int
    error: float
    product: tuple[Column, Column] | None = None

    @cached_property
    def size(self) -> int:
        """The number of curves and operations."""
        return operations_in((*self.columns, *(self.product or ()))) + self.other_operations

    @cached_property
    def other_operations(self) -> int:
        """The number of operations beside the curves and their columns."""
        factor = self.factor.operations if self.factor else 0
        return self.transformation.complexity + factor + (2 if self.product else 0)

    @cached_property
    def cost(self) -> float:
        return cost_of(self.error, self.size)

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal for structures that differ by nothing but their errors."""
        factor = None if self.factor is None else self.factor.expression
        product = frozenset(column.expression for column in self.product or ())
        return (frozenset(c.expression for c in self.columns), product, id(self.transformation), factor)

    def at(self, x: Tensor, names: Sequence[str]) -> Structure:
        """The structure with the columns of other samples (N, I)."""
        symbols = [sympy.Symbol(name) for name in names]

        def moved(column: Column) -> Column:
            function = torch_function(symbols, column.expression)
            return replace(column, values=function(*x.unbind(dim=-1)))

        product = None if self.product is None else (moved(self.product[0]), moved(self.product[1]))
        factor = None if self.factor is None else moved(self.factor)
        return replace(self, columns=tuple(map(moved, self.columns)), factor=factor, product=product)

    def target(self, y: Tensor) -> Tensor:
        scaled = y if self.factor is None else y * self.factor.values
        return self.transformation.forward(self.sign * scaled)

    def weights(self, y: Tensor) -> Tensor:
        """Errors of targets for one of the transformed ones, (N,), of mean square 1."""
        with torch.enable_grad():
            at = y.detach().clone().requires_grad_()
            (slopes_N,) = torch.autograd.grad(self.target(at).sum(), at)
        weights_N = slopes_N.abs().reciprocal().nan_to_num(0.0, posinf=torch.finfo(y.dtype).max)
        weights_N = weights_N.clamp(max=MAX_WEIGHT * float(weights_N.median()))
        return weights_N / weights_N.square().mean().sqrt()

    def prediction(self, fitted: Tensor, y: Tensor) -> Tensor:
        """Targets from a fit of the transformed ones y, whose range it does not leave."""
        lower, upper = self.target(y).aminmax()
        values = self.sign * self.transformation.inverse(fitted.clamp(lower, upper))
        return values if self.factor is None else values / self.factor.values


def operations_in(columns: Sequence[Column]) -> int:
    """The number of curves of different columns, and of operations in these."""
    return sum(1 + column.operations for column in {column.expression: column for column in columns}.values())


def cost_of(error: float, size: int) -> float:
    """Of a structure: the logarithm of its error, and what its operations must improve that by."""
    error = max(error, MIN_ERROR)
    below = min(max(math.log(NOISE / error) / math.log(NOISE / SURELY_NO_NOISE), 0.0), 1.0)
    return math.log(error) + (NOISE_COST + (OPERATION_COST - NOISE_COST) * below) * size


def combinations(pairs: Sequence[tuple[Column, Column]], library: SymbolLibrary) -> Iterator[Column]:
    """Sums, differences, products and ratios of two columns."""
    for a, b in pairs:
        operations = a.operations + b.operations + 1
        candidates = [
            (a.expression - b.expression, a.values - b.values),
            (a.expression + b.expression, a.values + b.values),
            (a.expression * b.expression, a.values * b.values),
        ]
        if "1/x" not in library.names:
            pass
        elif (b.values > 0).all() or (b.values < 0).all():
            candidates.append((a.expression / b.expression, a.values / b.values))
        elif (a.values > 0).all() or (a.values < 0).all():
            candidates.append((b.expression / a.expression, b.values / a.values))
        for expression, values in candidates:
            if values.isfinite().all() and values.std() > 1e-9 * values.abs().max():
                yield Column(expression, values, operations)


def sampled(x: Tensor, y: Tensor, names: Sequence[str], rows: int) -> tuple[list[Column], Tensor]:
    """Columns of the inputs (N, I) that vary, and the targets (N,), at random samples, at most this number of them."""
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0), device="cpu")[:rows]
    x, y = x[chosen], y[chosen]
    varies = (x != x[:1]).any(dim=0).tolist()
    return [Column(sympy.Symbol(name), x[:, i]) for i, name in enumerate(names) if varies[i]], y


def power_factors(
    columns: Sequence[Column], library: SymbolLibrary, powers: Sequence[sympy.Rational] = FACTOR_POWERS
) -> list[Column]:
    """Powers of columns by which a target may be multiplied; a formula is divided by them."""
    result = []
    for column in columns:
        is_positive, is_negative = bool((column.values > 0).all()), bool((column.values < 0).all())
        for power in powers if is_positive or is_negative else ():
            if power.q > 1 and not (is_positive and "sqrt" in library.names):
                continue
            if power < 0 or "1/x" in library.names:
                result.append(Column(column.expression**power, column.values ** float(power), column.operations + 1))
    return result


def coordinate(values: Tensor) -> Callable[[Tensor], Tensor]:
    """What the grid of a column is even in: x, or log(x) for columns over decades that are less skewed so."""
    lower, upper = values.aminmax()
    if lower > 0 and upper > DECADE * lower and _skewness(values.log()) < _skewness(values):
        return torch.log
    return lambda z: z


def _skewness(values: Tensor) -> float:
    """The size of the third standardised moment."""
    centred = values - values.mean()
    return abs(float(centred.pow(3).mean() / centred.square().mean().pow(1.5)))


class Splines:
    """The splines of columns on grids of one size, kept for columns that occur again."""

    def __init__(self, grid: int) -> None:
        self.basis = Basis(grid_size=grid, order=ORDER)
        self._kept = dict[sympy.Expr, Tensor]()

    def design(self, columns: Sequence[Column]) -> Tensor:
        """A column of ones, and the splines of every column but their first, (N, C)."""
        for column in columns:
            if column.expression not in self._kept:
                self._kept[column.expression] = self.of(column, column.values)
        ones = torch.ones(len(columns[0].values), 1, dtype=torch.float64)
        return torch.cat([ones, *(self._kept[column.expression] for column in columns)], dim=1)

    def curve(self, column: Column, weights_C: Tensor, at: Tensor) -> Tensor:
        """The curve of a column with these weights, the constant first, at other values of it, (S,)."""
        return self.of(column, at) @ weights_C[1:] + weights_C[0]

    def of(self, column: Column, at: Tensor) -> Tensor:
        """The splines of a column at other values of it, (S, C)."""
        scale = coordinate(column.values)
        domain = torch.stack(scale(column.values).aminmax()).unsqueeze(0)
        return self.basis.values(scale(at).unsqueeze(-1), domain)[:, 0, 1:]
