"""The search for structures of formulas.

The z of a structure are inputs, or differences, sums, products and ratios of these, so that symmetries are seen on the
way (Udrescu and Tegmark, 2020). For given z, the curves of all transformations come from one linear least-squares
problem, so that thousands of structures are compared within a second.

Shape letters: N samples, I inputs, C coefficients, R transformed targets, P pairs.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import sympy
import torch
from torch import Tensor

from kansformer.kan.linear_fits import TINY, FixedColumns, coefficients, products
from kansformer.kan.structure_formulas import (
    PRODUCT_RIDGE,
    alternated,
    fit_structure,
    product_alone,
    product_factors,
    product_grid,
)
from kansformer.kan.structure_targets import Targets
from kansformer.kan.structures import (
    MIN_ERROR,
    NOISE,
    RECIPROCALS,
    TRANSFORMATIONS,
    Column,
    Splines,
    Structure,
    combinations,
    power_factors,
    sampled,
)
from kansformer.symbolic import SymbolLibrary

# Grid of all curves, a multiple of those of products; and the number of samples looked at.
GRID, MAX_ROWS = 8, 600
# Structures of each number of operations that are kept, column sets that are extended, and how often; transformations
# that are tried then. A column is removed if the error grows by MAX_GROWTH at most.
PER_SIZE, BEAM, DEPTH, TARGETS, MAX_GROWTH = 2, 5, 3, 24, 1.15
# Errors of splines that need no larger structures, and the share of the error to which a larger one must lower it.
EXPLAINED, MIN_PROGRESS = 1e-5, 0.7
# Errors up to which small structures are named before larger ones, where there is no noise.
LIKELY = 0.03
# Pairs of columns that are combined, and inputs whose powers may be factors.
MAX_PAIRS, MAX_FACTORS = 21, 6
# Column sets and transformations that are tried with products of two curves, up to an error of all products of splines;
# turns in which the two curves are fitted.
PRODUCT_SETS, PRODUCT_TARGETS, MAX_PRODUCT_ERROR, TURNS = 3, 4, 0.3, 6
# Grids of the product of two inputs, of which one may vary fast, transformations that are tried with it, and turns.
PAIR_GRIDS, ALONE_TARGETS, ALONE_TURNS = ((8, 8), (2, 24), (24, 2)), 16, 20
MAX_TARGET = 1e6


def find_structures(
    x: Tensor,
    y: Tensor,
    names: Sequence[str],
    library: SymbolLibrary,
    deadline: float = math.inf,
    *,
    combine: bool = True,
) -> list[Structure]:
    """The best structures of every size for inputs (N, I) and targets (N,), those with the lowest costs first.

    Without `combine` they are sums of curves of the inputs only, which takes an instant.
    """
    inputs, y = sampled(x, y, names, MAX_ROWS)
    if not inputs:
        return []
    search = _Search(y, inputs, library)
    if not search.targets:  # values too large for their differences
        return []
    search.add(search.structures(tuple(inputs), search.targets))
    if not combine:
        search.remove_idle_columns(deadline)
    elif len(inputs) > 1:
        sets = {frozenset(column.expression for column in inputs): tuple(inputs)}
        for depth in range(DEPTH):
            if depth and search.least_error() < EXPLAINED:
                break
            targets = search.best_targets(TARGETS) if depth else search.targets
            for columns in sets.values():
                pool = list({column.expression: column for column in (*inputs, *columns)}.values())
                with_column = search.extended(columns, targets)
                for column in combinations(search.pairs(pool), library):
                    if time.monotonic() >= deadline:
                        return search.front()
                    if all(column.expression != other.expression for other in columns):
                        search.add(with_column(column))
            search.remove_idle_columns(deadline)
            sets = search.column_sets(BEAM, depth + 1)
        if len(inputs) == 2 and not search.least_error() < EXPLAINED:
            for grids in PAIR_GRIDS:
                search.add(search.products_alone((inputs[0], inputs[1]), grids))
        explained = search.least_error() < EXPLAINED
        for columns in () if explained else (tuple(inputs), *search.column_sets(PRODUCT_SETS, None).values()):
            columns = tuple({column.expression: column for column in (*inputs, *columns)}.values())
            for pair in search.pairs(columns):
                if time.monotonic() >= deadline:
                    return search.front()
                search.add(search.structures_with_product(columns, pair))
                search.add(search.structures_with_product(pair, pair))
        search.remove_idle_columns(deadline)
    return search.front()


def _by_size(structures: Iterable[Structure]) -> list[list[Structure]]:
    """Groups of one size, the smallest first, each with the lowest costs first."""
    ranked = sorted(structures, key=lambda s: (s.size, s.cost))
    return [list(group) for _, group in itertools.groupby(ranked, key=lambda s: s.size)]


class _Search:
    """The target, its transformations, least-squares fits of them, and the structures so far."""

    def __init__(self, y: Tensor, inputs: Sequence[Column], library: SymbolLibrary) -> None:
        self.y = y
        self.splines, self.coarse = Splines(GRID), Splines(product_grid(len(y), len(inputs)))
        self.kept = dict[tuple[object, ...], Structure]()
        self.reduced = set[tuple[object, ...]]()
        self._tables = dict[tuple[object, ...], Targets]()
        factors: list[Column | None] = [None]
        if 1 < len(inputs) <= MAX_FACTORS:
            factors += power_factors(inputs, library)
        if len(inputs) == 2:
            factors += power_factors(list(combinations([(inputs[0], inputs[1])], library)), library, RECIPROCALS)
        self.targets = []
        known = [transformation for transformation in TRANSFORMATIONS if transformation.name in (*library.names, "x")]
        for factor, transformation in itertools.product(factors, known):
            values = y if factor is None else y * factor.values
            sign = -1 if (values <= 0).all() and transformation.name != "x" else 1
            structure = Structure((), transformation, factor, sign, math.inf)
            target = structure.target(y)
            if target.isfinite().all() and target.abs().max() < MAX_TARGET * target.std(correction=0):
                self.targets.append(structure)

    def add(self, structures: Sequence[Structure]) -> None:
        """Keep structures that are better than others of their size."""
        for structure in structures:
            known = self.kept.get(structure.key)
            if known is None or structure.error < known.error:
                self.kept[structure.key] = structure

    def pairs(self, columns: Sequence[Column]) -> list[tuple[Column, Column]]:
        """The pairs of columns whose products explain most of what sums of curves leave; all of a few columns."""
        pairs = list(itertools.combinations(columns, 2))
        if len(pairs) <= MAX_PAIRS:
            return pairs
        basis_NC = self.splines.design(columns)
        rest = self.y - basis_NC @ coefficients(basis_NC, self.y.unsqueeze(-1))[:, 0]
        units = {
            column.expression: (column.values - column.values.mean()) / column.values.std(correction=0)
            for column in columns
        }
        products_PN = torch.stack([units[a.expression] * units[b.expression] for a, b in pairs])
        score_P = (products_PN @ rest).abs() / products_PN.norm(dim=1)
        return [pairs[index] for index in score_P.topk(MAX_PAIRS).indices.tolist()]

    def least_error(self) -> float:
        return min((structure.error for structure in self.kept.values()), default=math.inf)

    def ranked(self) -> list[Structure]:
        """The best structures of every size, the lowest cost first."""
        groups = _by_size(self.kept.values())
        return sorted((s for group in groups for s in group[:PER_SIZE]), key=lambda s: s.cost)

    def front(self) -> list[Structure]:
        """The structures that no smaller one equals, two of each size, the lowest cost first."""
        result, least = [], math.inf
        for group in _by_size(self.ranked()):
            result += [structure for structure in group if max(structure.error, MIN_ERROR) < least]
            least = min(least, MIN_PROGRESS * max(MIN_ERROR, min(structure.error for structure in group)))
        result = sorted(result, key=lambda s: s.cost)
        if self.least_error() > NOISE:
            return result
        # Larger structures have lower errors only because their splines are finer.
        likely = [structure for structure in result if structure.error < LIKELY]
        return sorted(likely, key=lambda s: s.size) + [s for s in result if s.error >= LIKELY]

    def best_targets(self, count: int) -> list[Structure]:
        """The transformations of the best structures, and those without a factor."""
        result = {(id(t.transformation), None): t for t in self.targets if t.factor is None}
        for structure in sorted(self.kept.values(), key=lambda s: s.cost):
            if len(result) >= count:
                break
            factor = None if structure.factor is None else structure.factor.expression
            result.setdefault((id(structure.transformation), factor), structure)
        return list(result.values())

    def column_sets(self, count: int, operations: int | None) -> dict[frozenset[sympy.Expr], tuple[Column, ...]]:
        """The columns of the best structures; with `operations`, of those with at least that number in columns."""
        result = dict[frozenset[sympy.Expr], tuple[Column, ...]]()
        for structure in sorted(self.kept.values(), key=lambda s: s.cost):
            if operations is None or sum(column.operations for column in structure.columns) >= operations:
                result.setdefault(frozenset(column.expression for column in structure.columns), structure.columns)
            if len(result) == count:
                break
        return result

    def table(self, targets: Sequence[Structure]) -> Targets:
        """The transformed targets of structures, which occur again in other structures."""
        key = tuple((id(t.transformation), None if t.factor is None else t.factor.expression) for t in targets)
        if key not in self._tables:
            self._tables[key] = Targets(targets, self.y)
        return self._tables[key]

    def structures(self, columns: tuple[Column, ...], targets: Sequence[Structure]) -> list[Structure]:
        """Structures with these columns, the lowest cost first."""
        basis_NC, table = self.splines.design(columns), self.table(targets)
        fitted_NR = basis_NC @ coefficients(basis_NC, table.values_NR)
        return table.ranked(columns, table.errors(fitted_NR, basis_NC.shape[1]))

    def extended(
        self, columns: tuple[Column, ...], targets: Sequence[Structure]
    ) -> Callable[[Column], list[Structure]]:
        """The best structures with these columns and another one, as a function of that."""
        basis_NC, table = self.splines.design(columns), self.table(targets)
        fixed = FixedColumns(basis_NC)
        rest_SR = fixed.rest(table.values_NR)

        def with_column(column: Column) -> list[Structure]:
            added_NC = self.splines.design((column,))[:, 1:]
            fitted_NR = table.values_NR - fixed.unexplained(added_NC, rest_SR)
            errors = table.errors(fitted_NR, basis_NC.shape[1] + added_NC.shape[1])
            return table.ranked((*columns, column), errors, PER_SIZE)

        return with_column

    def structures_with_product(self, columns: tuple[Column, ...], pair: tuple[Column, Column]) -> list[Structure]:
        """Structures with these columns and the product of two curves."""
        table = self.table(self.best_targets(TARGETS))
        first_NC, second_NC = (self.coarse.design((column,))[:, 1:] for column in pair)
        basis_NC = self.splines.design(columns)
        together_NC = torch.cat([basis_NC, products(first_NC, second_NC)], dim=1)
        if 2 * together_NC.shape[1] > len(self.y):
            return []
        weights_CR = coefficients(together_NC, table.values_NR, PRODUCT_RIDGE)
        full = table.errors(together_NC @ weights_CR, together_NC.shape[1])
        likely = [number for number, error in enumerate(full) if error < MAX_PRODUCT_ERROR]
        shape = (first_NC.shape[1], second_NC.shape[1])
        factors = {number: product_factors(weights_CR[basis_NC.shape[1] :, number], shape) for number in likely}
        by_rest = sorted(likely, key=lambda number: factors[number][2])[:PRODUCT_TARGETS]
        by_error = sorted(likely, key=full.__getitem__)[:PRODUCT_TARGETS]
        result = []
        for number in dict.fromkeys((*by_rest, *by_error)):
            target = table.structures[number]
            error = self._product_error(target, basis_NC, (first_NC, second_NC), factors[number][:2])
            result.append(replace(target, columns=columns, error=error, product=pair))
        return sorted(result, key=lambda s: s.cost)[:PER_SIZE]

    def products_alone(self, pair: tuple[Column, Column], grids: tuple[int, int]) -> list[Structure]:
        """Structures of a product of two curves and a constant."""
        designs = [Splines(grid).design((column,)) for grid, column in zip(grids, pair, strict=True)]
        numbers = sum(design.shape[1] for design in designs)
        result = []
        for target in self.best_targets(ALONE_TARGETS):
            table = self.table([target])
            product = product_alone(designs, table.values_NR[:, 0], table.weights[:, 0], ALONE_TURNS)
            result.append(replace(target, columns=(), error=self._error(target, product.fitted, numbers), product=pair))
        return sorted(result, key=lambda s: s.cost)[:PER_SIZE]

    def _product_error(
        self, target: Structure, basis_NC: Tensor, splines: tuple[Tensor, Tensor], factors: tuple[Tensor, Tensor]
    ) -> float:
        """The error of a sum of a basis and the product of two curves, which start at these factors."""
        table = self.table([target])
        weight_N1 = table.weights
        weight_N, goal_N1 = weight_N1[:, 0], table.values_NR * weight_N1
        (first_NC, second_NC), (first, second) = splines, factors
        values = [first_NC @ first * weight_N, second_NC @ second]
        weighted_NC = basis_NC * weight_N1
        _, values = alternated(weighted_NC, (first_NC * weight_N1, second_NC), values, goal_N1[:, 0], TURNS)
        rows_NC = torch.cat([weighted_NC, (values[0] * values[1]).unsqueeze(-1)], dim=1)
        fitted_N = (rows_NC @ coefficients(rows_NC, goal_N1) / weight_N1.clamp(min=TINY))[:, 0]
        return self._error(target, fitted_N, basis_NC.shape[1] + len(first) + len(second))

    def _error(self, target: Structure, fitted: Tensor, numbers: int) -> float:
        return self.table([target]).errors(fitted.unsqueeze(-1), numbers)[0]

    def remove_idle_columns(self, deadline: float) -> None:
        """Add the best structures without the columns that they do not need, as far as the time allows."""
        for structure in self.ranked():
            if structure.key in self.reduced:
                continue
            if time.monotonic() >= deadline:
                return
            self.reduced.add(structure.key)
            while len(structure.columns) > (0 if structure.product else 1):
                smaller = []
                for column in structure.columns:
                    if time.monotonic() >= deadline:
                        self.add([structure])
                        return
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
