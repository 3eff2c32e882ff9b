"""Structures of formulas are found by linear fits: their columns, transformation, factor and product."""

from dataclasses import dataclass
from functools import cache

import pytest
import sympy
import torch
from torch import Tensor

from kansformer.kan.structure_formulas import _factored, fit_structure, formulas_of
from kansformer.kan.structure_search import _Search, find_structures
from kansformer.kan.structures import TRANSFORMATIONS, Column, Structure
from kansformer.symbolic import LIBRARY, SCIENCE_LIBRARY
from kansformer.symbolic.compositions import Named
from kansformer.symbolic.constants import Formula, fit_constants

NAMES = ["a", "b", "c"]
A, B, C = sympy.symbols(NAMES)


def uniform(rows, lower, upper, seed=0):
    """Columns between these ends, (rows, I)."""
    unit = torch.rand(rows, len(lower), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.tensor(lower) + (torch.tensor(upper) - torch.tensor(lower)) * unit


def normal(rows, seed=0):
    return torch.randn(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def columns_of(structure: Structure) -> set[sympy.Expr]:
    return {column.expression for column in structure.columns}


def product_of(structure: Structure) -> set[sympy.Expr]:
    return {column.expression for column in structure.product or ()}


@dataclass
class Case:
    formula: sympy.Expr
    columns: set[sympy.Expr]
    transformation: str = "x"
    factor: sympy.Expr | None = None
    product: tuple[sympy.Expr, ...] = ()
    sign: int = 1
    lower: float = 0.5

    def samples(self, rows=300) -> tuple[Tensor, Tensor]:
        x = uniform(rows, [self.lower] * 3, [2.5] * 3)
        return x, torch.as_tensor(sympy.lambdify((A, B, C), self.formula, "numpy")(*x.T.numpy()))


CASES = {
    "difference": Case(sympy.sin(2 * A - 2 * B) + C**2, {A - B, C}),
    "difference only": Case(sympy.exp(-((A - B) ** 2)), {A - B}, "exp"),
    "sum": Case(sympy.tanh(A + B - 3) + sympy.sin(2 * C), {A + B, C}),
    "ratio": Case(sympy.sin(A / B) + C**2, {A / B, C}),
    "product of inputs": Case(sympy.tanh(A * B / 2) + C, {A * B, C}),
    "exponential": Case(sympy.exp(A**2 - sympy.sin(2 * B)), {A, B}, "exp"),
    "negative targets": Case(-sympy.sqrt(A**2 + sympy.exp(B)), {A, B}, "sqrt", sign=-1),
    "logarithm": Case(sympy.log(A**2 + sympy.exp(B) + C), {A, B, C}, "log"),
    "reciprocal": Case(1 / (A**2 + sympy.exp(B)), {A, B}, "1/x"),
    "root": Case(sympy.sqrt(A**2 + sympy.exp(B)), {A, B}, "sqrt"),
    "square": Case((A + sympy.sin(2 * B) + 2) ** 2, {A, B}, "x^2"),
    "arcsine": Case(sympy.asin(A / 4 + B**2 / 20), {A, B}, "arcsin"),
    "factor": Case(A * (sympy.sin(2 * B) + C**2), {B, C}, factor=1 / A),
    "factor under a root": Case((sympy.sin(2 * B) + C**2 + 2) / sympy.sqrt(A), {B, C}, factor=sympy.sqrt(A)),
    "product of two curves": Case(sympy.sin(2 * A) * sympy.exp(B) + A**2, {A, B}, product=(A, B), lower=-2.0),
}


@cache
def structures_of(name: str) -> list[Structure]:
    return find_structures(*CASES[name].samples(), NAMES, SCIENCE_LIBRARY)


@pytest.mark.parametrize("name", CASES)
def test_structures(name):
    case, structures = CASES[name], structures_of(name)
    x, y = case.samples()
    matching = [
        (place, structure)
        for place, structure in enumerate(structures)
        if columns_of(structure) == case.columns
        and structure.transformation.name == case.transformation
        and (None if structure.factor is None else structure.factor.expression) == case.factor
        and product_of(structure) == set(case.product)
        and structure.sign == case.sign
    ]
    assert matching, [(columns_of(s), s.transformation.name, s.factor, product_of(s)) for s in structures]
    place, structure = matching[0]
    assert place < 6 and structure.error < 2e-2
    if case.product:
        return  # by find_formula
    errors = []
    for expression in formulas_of(structure.at(x, NAMES), x, y, NAMES, SCIENCE_LIBRARY):
        errors.append(fit_constants(Formula.of(expression, NAMES), x, y).error)
        if errors[-1] < 1e-10 * y.std():
            return
    pytest.fail(f"{len(errors)} formulas, of errors {errors}")


def test_structures_are_ordered_and_differ():
    structures = structures_of("exponential")  # five, of whatever rounding; others depend on ties among columns
    assert [s.cost for s in structures] == sorted(s.cost for s in structures)
    assert len({s.key for s in structures}) == len(structures) > 2
    by_size = {}
    for structure in structures:
        by_size.setdefault(structure.size, []).append(structure.error)
    assert all(len(errors) <= 2 for errors in by_size.values())


def test_sizes_count_columns_operations_and_the_transformation():
    structure = next(s for s in structures_of("root") if s.transformation.name == "sqrt")
    assert columns_of(structure) == {A, B} and structure.size == 3


def test_the_structure_of_other_samples():
    structure = next(s for s in structures_of("ratio") if columns_of(s) == {A / B, C} and not s.product)
    there = uniform(50, [1.0] * 3, [2.0] * 3, seed=5)
    moved = structure.at(there, NAMES)
    values = {column.expression: column.values for column in moved.columns}
    torch.testing.assert_close(values[A / B], there[:, 0] / there[:, 1])
    torch.testing.assert_close(values[C], there[:, 2])
    assert moved.key == structure.key


def test_a_weak_input_stays_in_noise():
    x = uniform(400, [-2.0] * 3, [2.0] * 3)
    y = torch.sin(2 * x[:, 0]) + 0.15 * x[:, 1]
    noise = 0.3 * y.std() * normal(400)
    best = find_structures(x, y + noise, NAMES, SCIENCE_LIBRARY)[0]
    assert columns_of(best) == {A, B} and not best.product
    assert 0.25 < best.error < 0.4


def test_an_input_that_does_not_matter_leaves():
    x = uniform(200, [0.5] * 3, [2.5] * 3)
    for noise in (0.0, 0.05):
        y = torch.exp(x[:, 0]) + torch.sin(3 * x[:, 1])
        best = find_structures(x, y + noise * y.std() * normal(200), NAMES, SCIENCE_LIBRARY)[0]
        assert not any(e.has(C) for e in columns_of(best) | product_of(best))


def test_many_inputs():
    x = uniform(150, [-1.0] * 12, [1.0] * 12)  # whose curves have nearly as many numbers as there are rows
    names = [f"x{index}" for index in range(12)]
    y = torch.sin(3 * x[:, 4]) + x[:, 7] * x[:, 11]
    y = y + 0.02 * y.std() * normal(150)
    best = find_structures(x, y, names, SCIENCE_LIBRARY)[0]
    used = {str(symbol) for e in columns_of(best) | product_of(best) for symbol in e.free_symbols}
    assert {"x4", "x7", "x11"} <= used and len(used) <= 4 and best.error < 0.05


def test_constant_columns_are_left_out():
    x = uniform(200, [0.5] * 3, [2.5] * 3)
    x[:, 1] = 3.0
    for structure in find_structures(x, x[:, 0].exp() + x[:, 2], NAMES, SCIENCE_LIBRARY):
        assert not any(e.has(B) for e in columns_of(structure) | product_of(structure))
    x[:, 0] = x[:, 2] = 1.0
    assert all(not s.columns for s in find_structures(x, normal(200), NAMES, SCIENCE_LIBRARY))


def test_columns_over_decades():
    x = torch.exp(uniform(300, [-9.0, -5.0, 0.0], [9.0, 5.0, 1.0]))
    y = 3e-7 * x[:, 0] ** 0.5 * x[:, 1] ** -2
    best = min(find_structures(x, y, NAMES, SCIENCE_LIBRARY)[:3], key=lambda structure: structure.error)
    first = next(iter(formulas_of(best.at(x, NAMES), x, y, NAMES, SCIENCE_LIBRARY)))
    assert best.error < 1e-6
    assert fit_constants(Formula.of(first, NAMES), x, y).error < 1e-9 * y.std()


def test_units_do_not_change_the_structure():
    for size in (1e-12, 1e12):
        x, y = CASES["exponential"].samples(rows=150)
        best = find_structures(x * size, y * size, NAMES, SCIENCE_LIBRARY)[0]
        assert columns_of(best) <= {A, B, A**2, B**2, A * B} and best.transformation.name == "exp"


def test_the_library_chooses_transformations():
    x, y = CASES["exponential"].samples(rows=150)
    structures = find_structures(x, y, NAMES, LIBRARY.subset(["x", "x^2", "sin"]))
    assert {s.transformation.name for s in structures} <= {"x", "x^2"}
    x, y = CASES["factor"].samples(rows=150)
    y = y / x[:, 0] ** 2  # a target times a is a division by a in the formula
    structures = find_structures(x, y, NAMES, LIBRARY.subset(["x", "x^2", "sin"]))
    assert all(float(s.factor.expression.as_base_exp()[1]) < 0 for s in structures if s.factor is not None)
    structures = find_structures(x, y, NAMES, LIBRARY.subset(["x", "x^2", "sin", "1/x"]))
    assert structures[0].factor is not None and structures[0].factor.expression == A


@pytest.mark.parametrize("rows", [2, 5, 12])
def test_few_rows(rows):
    x = uniform(rows, [0.5] * 3, [2.5] * 3)
    for structure in find_structures(x, x.sum(dim=1), NAMES, SCIENCE_LIBRARY):
        assert structure.error >= 0 and not structure.product


def test_the_fit_of_a_structure():
    x, y = CASES["exponential"].samples()
    structure = structures_of("exponential")[0].at(x, NAMES)
    fitted = fit_structure(structure, y, 10)
    torch.testing.assert_close(fitted.fitted, y.log(), atol=1e-3, rtol=0)
    parts = [
        fitted.splines.curve(column, curve, column.values)
        for column, curve in zip(structure.columns, fitted.curves, strict=True)
    ]
    torch.testing.assert_close(fitted.constant + sum(parts), fitted.fitted)
    assert fitted.numbers == 1 + sum(len(curve) - 1 for curve in fitted.curves)
    torch.testing.assert_close(structure.prediction(fitted.fitted, y), y, atol=1e-2 * float(y.max()), rtol=0)


def test_weights_are_the_errors_of_targets():
    x, y = CASES["exponential"].samples()
    structure = structures_of("exponential")[0].at(x, NAMES)
    assert structure.transformation.name == "exp"
    weights = structure.weights(y)
    torch.testing.assert_close(weights.square().mean(), torch.tensor(1.0).double())
    ratios = weights / y  # an error of log(y) is y times as large in y, but no sample outweighs all others
    usual = y < 50 * y.median()
    torch.testing.assert_close(ratios[usual], ratios[usual][:1].expand(int(usual.sum())))
    assert (ratios[~usual] <= ratios[usual][0] * (1 + 1e-9)).all()


def test_no_sample_outweighs_all_others():
    y = torch.linspace(1e-9, 1, 101, dtype=torch.float64)  # squares hardly depend on the first one
    root = next(t for t in TRANSFORMATIONS if t.name == "sqrt")
    weights = Structure((), root, None, 1, 0.1).weights(y)
    assert weights.isfinite().all() and weights[0] == pytest.approx(100 * float(weights.median()))


def test_a_product_of_two_curves_of_which_one_varies_fast():
    x = uniform(500, [0.0, 0.0], [2.0, 25.0])
    y = torch.exp(-x[:, 0]) * torch.cos(x[:, 1])
    structure = find_structures(x, y, ["a", "b"], SCIENCE_LIBRARY)[0]
    assert (product_of(structure), structure.columns) == ({A, B}, ())
    expressions = formulas_of(structure.at(x, ["a", "b"]), x, y, ["a", "b"], SCIENCE_LIBRARY)
    errors = [fit_constants(Formula.of(e, ["a", "b"]), x, y).error for e in expressions]
    assert min(errors) < 1e-12


def test_columns_may_have_the_names_of_functions():
    x = uniform(100, [1.0, 1.0], [2.0, 2.0])
    for names in (["exp", "sin"], ["sqrt", "log"]):
        first, second = map(sympy.Symbol, names)
        columns = (Column(first, x[:, 0]), Column(second, x[:, 1]))
        root = Column(1 / sympy.sqrt(first), x[:, 0] ** -0.5)
        structure = Structure(columns, TRANSFORMATIONS[0], root, 1, 0.1, columns)
        torch.testing.assert_close(structure.at(x, names).factor.values, x[:, 0] ** -0.5)
        curves = [[Named(sympy.exp(first), 1.0, 1.0)], [Named(sympy.sin(second), 1.0, 1.0)]]
        (formula,) = _factored(structure, curves, x, x[:, 0] ** 0.5 * x[:, 0].exp() * x[:, 1].sin(), names)
        assert formula.has(sympy.exp(first), sympy.sin(second))


def test_columns_are_removed_until_the_time_is_over(monkeypatch):
    x = uniform(100, [0.0] * 8, [1.0] * 8)
    columns = [Column(sympy.Symbol(f"x{i}"), x[:, i]) for i in range(8)]
    search = _Search(x[:, 0] + x[:, 1] ** 2, columns, SCIENCE_LIBRARY)
    search.add(search.structures(tuple(columns), search.targets))
    before, clock, fit = set(search.kept), iter(range(100)), search.structures
    fits = []
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    monkeypatch.setattr(search, "structures", lambda *given: fits.append(given) or fit(*given))
    search.remove_idle_columns(deadline=0)
    assert not fits and set(search.kept) == before
    search.remove_idle_columns(deadline=5)  # of the first structure, some columns
    assert 0 < len(fits) < 5 and before <= set(search.kept)
