"""Networks with the curves of a structure compute what its fit does."""

from functools import cache

import pytest
import sympy
import torch

from kansformer.kan import KAN
from kansformer.kan.structure_formulas import fit_structure
from kansformer.kan.structure_networks import network_of
from kansformer.kan.structure_search import find_structures
from kansformer.symbolic import SCIENCE_LIBRARY

NAMES = ["a", "b", "c"]
A, B, C = sympy.symbols(NAMES)

# A formula, and the columns and the transformation of its structure.
CASES = {
    "two curves": (sympy.sin(2 * A) + B**2, {A, B}, "x"),
    "exponential": (sympy.exp(A**2 - sympy.sin(2 * B)), {A, B}, "exp"),
    "negative": (-sympy.sqrt(A**2 + sympy.exp(B)), {A, B}, "sqrt"),
    "difference": (sympy.sin(2 * A - 2 * B) + C**2, {A - B, C}, "x"),
    "ratio": (sympy.sin(A / B) + C**2, {A / B, C}, "x"),
    "product": (sympy.tanh(A * B / 2) + C, {A * B, C}, "x"),
    "reciprocal": (1 / (A**2 + sympy.exp(B)), {A, B}, "1/x"),
    "three signs": (sympy.sin(B - A - C), None, "x"),
    "factor": (A * (sympy.sin(2 * B) + C**2), {B, C}, "x"),
}


def samples(formula, lower=0.5, rows=300):
    generator = torch.Generator().manual_seed(1)
    x = lower + (2.5 - lower) * torch.rand(rows, 3, generator=generator, dtype=torch.float64)
    return x, torch.as_tensor(sympy.lambdify((A, B, C), formula, "numpy")(*x.T.numpy()))


def structure_of(x, y, columns=None, transformation="x", has_product=False):
    structures = [s.at(x, NAMES) for s in find_structures(x, y, NAMES, SCIENCE_LIBRARY)]
    return next(
        s for s in structures
        if s.transformation.name == transformation and bool(s.product) == has_product
        and (columns is None or {column.expression for column in s.columns} == columns)
    )  # fmt: skip


@cache
def case(name):
    """Samples of a formula and their structure."""
    formula, columns, transformation = CASES[name]
    x, y = samples(formula)
    return x, y, structure_of(x, y, columns, transformation)


def rms(residual):
    return residual.square().mean().sqrt()


def like(dtype=torch.float64, **options):
    return KAN([3, 1], **{"grid_size": 10, "order": 3, "base": "zero", **options}).to(dtype)


@pytest.mark.parametrize("name", CASES)
def test_the_network_is_the_fit(name):
    x, y, structure = case(name)
    model = network_of(structure, y, NAMES, like())
    expected = structure.prediction(fit_structure(structure, y, 10).fitted, y)
    outputs = model(x)[:, 0].detach()
    assert (outputs - expected).abs().max() < 5e-3 * y.std()  # grids of both curves differ by a margin
    assert rms(outputs - y) < 1e-3 * y.std()


@pytest.mark.parametrize("name", ["two curves", "difference", "exponential"])
def test_the_curves_are_on_edges(name):
    _, y, structure = case(name)
    model = network_of(structure, y, NAMES, like())
    curved = [int(model.curved(index).sum()) for index in range(len(model.layers))]
    assert sum(curved) == 2
    assert not any(symbol.name == "erf" for formulas in model.formulas for symbol in formulas.symbols)
    assert all(layer.curves.basis.grid_size == 10 and layer.curves.basis.order == 3 for layer in model.layers)


def test_a_product_of_curves():
    x, y = samples(sympy.sin(2 * A) * sympy.exp(B) + A**2, lower=-2.0, rows=600)
    structure = structure_of(x, y, {A, B}, has_product=True)
    model = network_of(structure, y, NAMES, like())
    expected = fit_structure(structure, y, 10).fitted
    outputs = model(x)[:, 0].detach()
    assert (outputs - expected).abs().max() < 1e-2 * y.std() and rms(outputs - y) < 2 * rms(expected - y)
    assert sum(int(model.curved(index).sum()) for index in range(len(model.layers))) == 4
    assert any(products for _, products in model.width)


def test_the_network_has_the_type_of_the_one_that_it_is_like():
    x, y, structure = case("exponential")
    model = network_of(structure, y, NAMES, like(torch.float32, grid_size=8, order=2))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(layer.domain.dtype == torch.float32 for layer in model.layers)
    assert {(layer.curves.basis.grid_size, layer.curves.basis.order) for layer in model.layers} == {(8, 2)}
    outputs = model(x.float())[:, 0].detach()
    assert outputs.dtype == torch.float32
    assert rms(outputs.double() - y) < 2e-2 * y.std()


def test_the_network_can_be_fitted_further():
    x, y, structure = case("exponential")
    model = network_of(structure, y, NAMES, like())
    before = rms(model(x)[:, 0].detach() - y)
    model.fit((x, y[:, None]), steps=5, grid_update_every=0, progress=False)
    assert rms(model(x)[:, 0].detach() - y) < before


def test_the_network_does_not_change_the_one_that_it_is_like():
    _, y, structure = case("two curves")
    given = like()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    network_of(structure, y, NAMES, given)
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
