"""Structures of formulas: T(y) = φ₁(z₁) + φ₂(z₂) + … + ψ(z₁)·χ(z₂), with a curve for each z.

The z are inputs, or differences, sums, products and ratios of these, so that symmetries are found on the way (Udrescu
and Tegmark, 2020). For given z, the curves of all transformations T come from one linear least-squares problem, so that
thousands of structures are compared within a second; the best ones are named.

Shape letters: N samples, I inputs, C coefficients, R transformed targets, S sample points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import sympy
import torch
from torch import Tensor

from kansformer.basis import Basis
from kansformer.symbolic import SymbolLibrary
from kansformer.symbolic.compositions import Z, Named, named_curve
from kansformer.symbolic.constants import TORCH_FUNCTIONS, Formula, fit_constants

GRID, FINE_GRIDS, ORDER, RIDGE = 8, (5, 10, 20), 3, 1e-12
MAX_ROWS = 600
# Columns of positive values whose largest is so many times the median have grids in log(x).
SKEWED = 12.0
# What an operation in the structure must improve the error by, in nats: little where the error may be noise, and more
# where it is that of the splines, which any curve more improves.
NOISE_COST, OPERATION_COST, NOISE, SURELY_NO_NOISE, MIN_ERROR = 0.05, 0.3, 3e-3, 3e-5, 1e-9
# Structures of each number of operations that are kept, column sets that are extended, and how often; transformations
# that are tried then. A column is removed if the error grows by MAX_GROWTH at most.
PER_SIZE, BEAM, DEPTH, TARGETS, MAX_GROWTH = 2, 5, 3, 24, 1.15
# Errors of splines that need no larger structures.
EXPLAINED = 1e-5
# Pairs of columns that are combined, and inputs whose powers may be factors.
MAX_PAIRS, MAX_FACTORS = 21, 6
# Grid of the products of two curves, which divides GRID; column sets and transformations that are tried with them, up to
# an error of all products of splines, and up to a share of the second largest of these.
PRODUCT_GRID, PRODUCT_SETS, PRODUCT_TARGETS, MAX_PRODUCT_ERROR, MAX_RATIO = 8, 3, 8, 0.3, 0.5
POINTS, ENDS = 64, 0.004
MAX_FORMULAS, NAMES, MIN_PROGRESS = 8, 4, 0.7
# An error that a finer grid lowers to this share is the grid's. Curves may be off by so many times their error, squared.
GAIN, NOISE_FACTOR, MAX_NOISE, CLOSE = 0.7, 4.0, 0.05, 1e-10
# Bits that another scale than that of a column costs.
COORDINATE_COST = 4.0
MAX_EXPONENT, MAX_TARGET = 30.0, 1e6
ALTERNATIONS, FEW_ALTERNATIONS, INNER_STEPS, TINY = 12, 4, 10, 1e-150


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
        "log", lambda y: torch.exp(torch.where(y.abs() < MAX_EXPONENT, y, torch.nan)), _positive(torch.log), sympy.log, 1
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
FACTOR_POWERS = tuple(sympy.Rational(p) for p in ("-2", "-1", "-1/2", "1/2", "1", "2"))


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

    @property
    def size(self) -> int:
        """The number of curves and operations."""
        columns = {column.expression: column for column in (*self.columns, *(self.product or ()))}
        operations = sum(1 + column.operations for column in columns.values()) + self.transformation.complexity
        return operations + (self.factor is not None) + (2 if self.product else 0)

    @property
    def cost(self) -> float:
        error = max(self.error, MIN_ERROR)
        below = min(max(math.log(NOISE / error) / math.log(NOISE / SURELY_NO_NOISE), 0.0), 1.0)
        return math.log(error) + (NOISE_COST + (OPERATION_COST - NOISE_COST) * below) * self.size

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for structures that differ by nothing but their errors."""
        factor = None if self.factor is None else self.factor.expression
        product = frozenset(column.expression for column in self.product or ())
        return (frozenset(c.expression for c in self.columns), product, id(self.transformation), factor)

    def at(self, x: Tensor, names: Sequence[str]) -> Structure:
        """The structure with the columns of other samples (N, I)."""
        symbols = [sympy.Symbol(name) for name in names]

        def moved(column: Column) -> Column:
            function = sympy.lambdify(symbols, column.expression, modules=[TORCH_FUNCTIONS])
            return replace(column, values=function(*x.unbind(dim=-1)))

        product = None if self.product is None else (moved(self.product[0]), moved(self.product[1]))
        factor = None if self.factor is None else moved(self.factor)
        return replace(self, columns=tuple(map(moved, self.columns)), factor=factor, product=product)

    def target(self, y: Tensor) -> Tensor:
        scaled = y if self.factor is None else y * self.factor.values
        return self.transformation.forward(self.sign * scaled)

    def prediction(self, fitted: Tensor, y: Tensor) -> Tensor:
        """Targets from a fit of the transformed ones y, whose range it does not leave."""
        lower, upper = self.target(y).aminmax()
        values = self.sign * self.transformation.inverse(fitted.clamp(lower, upper))
        return values if self.factor is None else values / self.factor.values


def find_structures(x: Tensor, y: Tensor, names: Sequence[str], library: SymbolLibrary) -> list[Structure]:
    """The best structures of every size for inputs (N, I) and targets (N,), those with the lowest costs first."""
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:MAX_ROWS]
    x, y = x[rows], y[rows]
    inputs = [Column(sympy.Symbol(name), x[:, i]) for i, name in enumerate(names) if x[:, i].min() < x[:, i].max()]
    search = _Search(y, inputs, library)
    search.add(search.structures(tuple(inputs), search.targets))
    if len(inputs) > 1:
        sets = {frozenset(column.expression for column in inputs): tuple(inputs)}
        for depth in range(DEPTH):
            if depth and search.least_error() < EXPLAINED:
                break
            targets = search.best_targets(TARGETS) if depth else search.targets
            for columns in sets.values():
                pool = list({column.expression: column for column in (*inputs, *columns)}.values())
                for column in _combinations(search.pairs(pool)):
                    if all(column.expression != other.expression for other in columns):
                        search.add(search.structures((*columns, column), targets)[:PER_SIZE])
            search.remove_idle_columns()
            sets = search.column_sets(BEAM, depth + 1)
        explained = search.least_error() < EXPLAINED
        for columns in () if explained else search.column_sets(PRODUCT_SETS, None).values():
            columns = tuple({column.expression: column for column in (*inputs, *columns)}.values())
            for pair in search.pairs(columns):
                search.add(search.structures_with_product(columns, pair))
                search.add(search.structures_with_product(pair, pair))
        search.remove_idle_columns()
    return search.front()


def _combinations(pairs: Sequence[tuple[Column, Column]]) -> Iterator[Column]:
    """Sums, differences, products and ratios of two columns."""
    for a, b in pairs:
        operations = a.operations + b.operations + 1
        candidates = [
            (a.expression - b.expression, a.values - b.values),
            (a.expression + b.expression, a.values + b.values),
            (a.expression * b.expression, a.values * b.values),
        ]
        if (b.values > 0).all() or (b.values < 0).all():
            candidates.append((a.expression / b.expression, a.values / b.values))
        elif (a.values > 0).all() or (a.values < 0).all():
            candidates.append((b.expression / a.expression, b.values / a.values))
        for expression, values in candidates:
            if values.isfinite().all() and values.std() > 1e-9 * values.abs().max():
                yield Column(expression, values, operations)


class _Search:
    """The target, its transformations, least-squares fits of them, and the structures found."""

    def __init__(self, y: Tensor, inputs: Sequence[Column], library: SymbolLibrary) -> None:
        self.y, self.deviation = y, float(y.std(correction=0)) or 1.0
        self.splines, self.coarse = Splines(GRID), Splines(PRODUCT_GRID)
        self.found = dict[tuple[object, ...], Structure]()
        self.reduced = set[tuple[object, ...]]()
        factors: list[Column | None] = [None]
        for column in inputs if 1 < len(inputs) <= MAX_FACTORS else ():
            if (column.values > 0).all() or (column.values < 0).all():
                for power in FACTOR_POWERS:
                    if ((column.values > 0).all() or power.q == 1) and (power < 0 or "1/x" in library.names):
                        factors.append(Column(column.expression**power, column.values ** float(power), 1))
        self.targets = []
        known = [transformation for transformation in TRANSFORMATIONS if transformation.name in (*library.names, "x")]
        for factor, transformation in itertools.product(factors, known):
            values = y if factor is None else y * factor.values
            sign = -1 if (values <= 0).all() and transformation.name != "x" else 1
            structure = Structure((), transformation, factor, sign, math.inf)
            target = structure.target(y)
            if target.isfinite().all() and target.abs().max() < MAX_TARGET * target.std():
                self.targets.append(structure)

    def add(self, structures: Sequence[Structure]) -> None:
        """Keep structures that are better than others of their size."""
        for structure in structures:
            known = self.found.get(structure.key)
            if known is None or structure.error < known.error:
                self.found[structure.key] = structure

    def pairs(self, columns: Sequence[Column]) -> list[tuple[Column, Column]]:
        """The pairs of columns whose products explain most of what sums of curves leave; all of a few columns."""
        pairs = list(itertools.combinations(columns, 2))
        if len(pairs) <= MAX_PAIRS:
            return pairs
        basis_NC = self.splines.design(columns)
        rest = self.y - basis_NC @ coefficients(basis_NC, self.y.unsqueeze(-1))[:, 0]
        units = {column.expression: (column.values - column.values.mean()) / column.values.std() for column in columns}
        products_PN = torch.stack([units[a.expression] * units[b.expression] for a, b in pairs])
        score_P = (products_PN @ rest).abs() / products_PN.norm(dim=1)
        return [pairs[index] for index in score_P.topk(MAX_PAIRS).indices.tolist()]

    def least_error(self) -> float:
        return min((structure.error for structure in self.found.values()), default=math.inf)

    def ranked(self) -> list[Structure]:
        """The best structures of every size, the lowest cost first."""
        by_size = dict[int, list[Structure]]()
        for structure in sorted(self.found.values(), key=lambda s: s.cost):
            by_size.setdefault(structure.size, []).append(structure)
        return sorted((s for group in by_size.values() for s in group[:PER_SIZE]), key=lambda s: s.cost)

    def front(self) -> list[Structure]:
        """The structures that no smaller one equals, two of each size, the lowest cost first."""
        by_size = dict[int, list[Structure]]()
        for structure in self.ranked():
            by_size.setdefault(structure.size, []).append(structure)
        result, least = [], math.inf
        for _, group in sorted(by_size.items()):
            result += [structure for structure in group if max(structure.error, MIN_ERROR) < least]
            least = min(least, MIN_PROGRESS * max(MIN_ERROR, min(structure.error for structure in group)))
        return sorted(result, key=lambda s: s.cost)

    def best_targets(self, count: int) -> list[Structure]:
        """The transformations of the best structures, and those without a factor."""
        result = {(id(t.transformation), None): t for t in self.targets if t.factor is None}
        for structure in sorted(self.found.values(), key=lambda s: s.cost):
            if len(result) >= count:
                break
            factor = None if structure.factor is None else structure.factor.expression
            result.setdefault((id(structure.transformation), factor), structure)
        return list(result.values())

    def column_sets(self, count: int, operations: int | None) -> dict[frozenset[sympy.Expr], tuple[Column, ...]]:
        """The columns of the best structures; with `operations`, of those with a column of so many or more."""
        result = dict[frozenset[sympy.Expr], tuple[Column, ...]]()
        for structure in sorted(self.found.values(), key=lambda s: s.cost):
            if operations is None or sum(column.operations for column in structure.columns) >= operations:
                result.setdefault(frozenset(column.expression for column in structure.columns), structure.columns)
            if len(result) == count:
                break
        return result

    def structures(self, columns: tuple[Column, ...], targets: Sequence[Structure]) -> list[Structure]:
        """Structures with these columns, the lowest cost first."""
        basis_NC = self.splines.design(columns)
        transformed_NR = torch.stack([target.target(self.y) for target in targets], dim=1)
        fitted_NR = basis_NC @ coefficients(basis_NC, transformed_NR)
        found = (
            replace(target, columns=columns, error=self._error(target, fitted, basis_NC.shape[1]), product=None)
            for target, fitted in zip(targets, fitted_NR.unbind(dim=1), strict=True)
        )
        return sorted((s for s in found if math.isfinite(s.error)), key=lambda s: s.cost)

    def structures_with_product(self, columns: tuple[Column, ...], pair: tuple[Column, Column]) -> list[Structure]:
        """Structures with these columns and the product of two curves."""
        targets = self.best_targets(TARGETS)
        basis_NC, products_NC = self.splines.design(columns), self.coarse.products(pair)
        together_NC = torch.cat([basis_NC, products_NC], dim=1)
        if 2 * together_NC.shape[1] > len(self.y):
            return []
        transformed_NR = torch.stack([target.target(self.y) for target in targets], dim=1)
        weights_CR = coefficients(together_NC, transformed_NR)
        fitted_NR = together_NC @ weights_CR
        full = [self._error(t, fitted, together_NC.shape[1]) for t, fitted in zip(targets, fitted_NR.T, strict=True)]
        first_N, second_N = (self.coarse.design((column,))[:, 1:] for column in pair)
        result = []
        for number in sorted(range(len(targets)), key=full.__getitem__)[:PRODUCT_TARGETS]:
            target, (first, second, ratio) = targets[number], _factors(weights_CR[basis_NC.shape[1] :, number])
            if not full[number] < MAX_PRODUCT_ERROR or ratio > MAX_RATIO:
                continue
            values = [first_N @ first, second_N @ second]
            _, values = alternated(basis_NC, (first_N, second_N), values, target.target(self.y), FEW_ALTERNATIONS)
            rows_NC = torch.cat([basis_NC, (values[0] * values[1]).unsqueeze(-1)], dim=1)
            fitted = rows_NC @ coefficients(rows_NC, target.target(self.y).unsqueeze(-1))[:, 0]
            error = self._error(target, fitted, basis_NC.shape[1] + len(first) + len(second))
            result.append(replace(target, columns=columns, error=error, product=pair))
        return sorted(result, key=lambda s: s.cost)[:PER_SIZE]

    def _error(self, target: Structure, fitted: Tensor, numbers: int) -> float:
        """RMSE of a fit of a transformed target, as by cross-validation (Golub et al., 1979), relative."""
        error = float((target.prediction(fitted, self.y) - self.y).square().mean()) ** 0.5 / self.deviation
        return error * len(self.y) / max(len(self.y) - numbers, 1) if math.isfinite(error) else math.inf

    def remove_idle_columns(self) -> None:
        """Add the best structures without the columns that they do not need."""
        for structure in self.ranked():
            if structure.key in self.reduced:
                continue
            self.reduced.add(structure.key)
            while len(structure.columns) > (0 if structure.product else 1):
                smaller = []
                for column in structure.columns:
                    columns = tuple(other for other in structure.columns if other is not column)
                    if structure.product is None:
                        smaller += self.structures(columns, [structure])
                    elif columns:
                        smaller += self.refitted_with_product(columns, structure)
                best = min(smaller, key=lambda s: s.cost, default=None)
                growth = MAX_GROWTH if structure.error < NOISE else 1.0
                if best is None or not (best.cost < structure.cost or best.error <= growth * structure.error):
                    break
                structure = best
            self.add([structure])

    def refitted_with_product(self, columns: tuple[Column, ...], structure: Structure) -> list[Structure]:
        assert structure.product is not None
        fit = fit_structure(replace(structure, columns=columns), self.y, self.splines.basis.grid_size)
        return [replace(structure, columns=columns, error=self._error(structure, fit.fitted, fit.numbers))]


def _factors(weights: Tensor) -> tuple[Tensor, Tensor, float]:
    """The two curves whose product is closest to products of splines, and the size of the rest."""
    size = math.isqrt(len(weights))
    left, sizes, right = torch.linalg.svd(weights.unflatten(0, (size, size)))
    return left[:, 0] * sizes[0] ** 0.5, right[0] * sizes[0] ** 0.5, float(sizes[1] / sizes[0])


def coordinate(values: Tensor) -> Callable[[Tensor], Tensor]:
    """What the grid of a column is even in: log(x) for positive columns over decades, else x."""
    skewed = bool((values > 0).all()) and float(values.max()) > SKEWED * float(values.median())
    return torch.log if skewed else lambda z: z


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

    def products(self, pair: tuple[Column, Column]) -> Tensor:
        """All products of the splines of two columns, (N, C·C)."""
        first, second = (self.design((column,))[:, 1:] for column in pair)
        return torch.einsum("na,nb->nab", first, second).flatten(1)

    def of(self, column: Column, at: Tensor) -> Tensor:
        """The splines of a column at other values of it, (S, C)."""
        scale = coordinate(column.values)
        domain = torch.stack(scale(column.values).aminmax()).unsqueeze(0)
        return self.basis.values(scale(at).unsqueeze(-1), domain)[:, 0, 1:]


def coefficients(basis_NC: Tensor, target_NR: Tensor) -> Tensor:
    """Least-squares fits of all targets, with a small ridge relative to the columns, (C, R)."""
    size_C = basis_NC.norm(dim=0).clamp(min=TINY)
    rows = torch.cat([basis_NC / size_C, RIDGE**0.5 * torch.eye(basis_NC.shape[1]).to(basis_NC)])
    q, r = torch.linalg.qr(rows)
    weights_CR = torch.linalg.solve_triangular(r, q[: len(basis_NC)].mT @ target_NR, upper=True)
    return weights_CR / size_C.unsqueeze(-1)


def alternated(
    basis_NC: Tensor, splines: Sequence[Tensor], values: list[Tensor], target: Tensor, turns: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Improve the two curves of a product by fitting one after the other: their coefficients, and their values."""
    factors = [splines[0].new_zeros(splines[0].shape[1]), splines[1].new_zeros(splines[1].shape[1])]
    for turn in range(turns):
        own, other = turn % 2, 1 - turn % 2
        rows_NC = torch.cat([basis_NC, splines[own] * values[other].unsqueeze(-1)], dim=1)
        factors[own] = coefficients(rows_NC, target.unsqueeze(-1))[basis_NC.shape[1] :, 0]
        values[own] = splines[own] @ factors[own]
    return factors, values


@dataclass(frozen=True)
class StructureFit:
    """The curves of a structure.

    Args:
        splines: of the columns.
        constant, curves: of the sum; (C,) for each column.
        product: the two curves of the product.
        fitted: the transformed target, (N,).
        error: RMSE of it, as by cross-validation.
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
    """Fit the curves of a structure on grids of this size; those of a product alternately."""
    target, splines = structure.target(y), Splines(grid)
    basis_NC = splines.design(structure.columns) if structure.columns else torch.ones(len(y), 1, dtype=torch.float64)
    product, rows_NC = None, basis_NC
    if structure.product is not None:
        start = Splines(PRODUCT_GRID)
        weights = coefficients(torch.cat([basis_NC, start.products(structure.product)], dim=1), target.unsqueeze(-1))
        values = [
            start.design((column,))[:, 1:] @ factor
            for column, factor in zip(structure.product, _factors(weights[basis_NC.shape[1] :, 0])[:2], strict=True)
        ]
        splines_NC = [splines.design((column,))[:, 1:] for column in structure.product]
        factors, values = alternated(basis_NC, splines_NC, values, target, ALTERNATIONS)
        product = (factors[0], factors[1])
        rows_NC = torch.cat([basis_NC, (values[0] * values[1]).unsqueeze(-1)], dim=1)
    weights_C = coefficients(rows_NC, target.unsqueeze(-1))[:, 0]
    if product is not None:
        product = (product[0] * weights_C[-1], product[1])
    fitted, size = rows_NC @ weights_C, splines.basis.num_coefficients - 1
    numbers = 1 + size * (len(structure.columns) + (2 if product else 0))
    error = float((fitted - target).square().mean()) ** 0.5 * len(y) / max(len(y) - numbers, 1)
    curves = list(weights_C[1 : 1 + size * len(structure.columns)].split(size)) if structure.columns else []
    return StructureFit(splines, float(weights_C[0]), curves, product, fitted, error, numbers)


def formulas_of(
    structure: Structure, x: Tensor, y: Tensor, names: Sequence[str], library: SymbolLibrary
) -> Iterator[sympy.Expr]:
    """Formulas for a structure of samples (N, I), (N,), those first whose curves have the shortest descriptions.

    Their constants fit the transformed targets.
    """
    best, follows = fit_structure(structure, y, FINE_GRIDS[0]), True
    for grid in FINE_GRIDS[1:]:
        if 2 * (grid + ORDER) * (len(structure.columns) + 2 * bool(structure.product)) > len(y):
            break
        finer = fit_structure(structure, y, grid)
        if not finer.error < best.error:
            break
        best, follows = finer, finer.error < GAIN * best.error  # a grid's error falls with finer ones; noise does not
    noise = NOISE_FACTOR * best.error**2 * (1.0 if follows else best.numbers / len(y))
    named = [
        _named(c, best.splines, curve, noise, library) for c, curve in zip(structure.columns, best.curves, strict=True)
    ]
    if structure.product is not None and best.product is not None:
        for own in (0, 1):
            column, other = structure.product[own], structure.product[1 - own]
            size = (best.splines.design((other,))[:, 1:] @ best.product[1 - own]).std(correction=0)
            named.append(_named(column, best.splines, best.product[own], noise / float(size) ** 2, library))
    combinations = sorted(itertools.product(*named), key=lambda parts: sum(part.cost for part in parts))
    for parts in combinations[:MAX_FORMULAS]:
        expressions = [part.expression for part in parts]
        total = sympy.Float(best.constant) + sum(expressions[: len(structure.columns)])
        if structure.product is not None:
            total += expressions[-2] * expressions[-1]
        fitted = fit_constants(Formula.of(total, names), x, structure.target(y), steps=INNER_STEPS)
        total = structure.sign * structure.transformation.sympy(fitted.formula.expression())
        yield total if structure.factor is None else total / structure.factor.expression


def _named(column: Column, splines: Splines, curve_C: Tensor, noise: float, library: SymbolLibrary) -> list[Named]:
    """Formulas of a column for its curve, the best first."""
    lower, upper = (float(end) for end in column.values.quantile(torch.tensor([ENDS, 1 - ENDS]).double()))
    result = list[Named]()
    for coordinate_of, back, argument in _coordinates(column, lower):
        ends = sorted(float(coordinate_of(torch.tensor(end).double())) for end in (lower, upper))
        u_S = torch.linspace(*ends, POINTS, dtype=torch.float64)
        y_S = splines.of(column, back(u_S)) @ curve_C
        variance = float(y_S.var(correction=0))
        if not variance > 0:
            return [Named(sympy.Float(float(y_S.mean())), 0.0, 1.0)]
        share, operations = min(noise / variance, MAX_NOISE), int(argument != column.expression)
        for found in named_curve(u_S, y_S, library=library, noise=share):
            expression = found.expression.xreplace({Z: argument})
            result.append(replace(found, expression=expression, cost=found.cost + operations * COORDINATE_COST))
        if max(found.r2 for found in result) > 1 - max(share, CLOSE):
            break
    return sorted(result, key=lambda found: found.cost)[:NAMES]


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
