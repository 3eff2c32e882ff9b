"""Formulas become networks: with their symbols, with curves, in the order of their outputs, for any exponent."""

import pytest
import sympy
import torch

from kansformer.errors import ConfigError, DataError
from kansformer.kan import KAN, Edge, kan_from_formula
from kansformer.symbolic import ALL_SYMBOLS, LIBRARY, SCIENCE_LIBRARY

QUIET = {"progress": False}
X, Y, Z = sympy.symbols("x y z")


def test_functions_of_formulas_are_known_by_name(tmp_path):
    assert {"arcsin", "arctanh", "cosh"} <= set(SCIENCE_LIBRARY.names) - set(LIBRARY.names)
    assert set(ALL_SYMBOLS.names) == {
        *SCIENCE_LIBRARY.names,
        *LIBRARY.names,
        "cos",
        "arccos",
        "sinh",
        "sigmoid",
        "x*cos",
    }
    model = kan_from_formula(sympy.asin(X / 2) + sympy.cosh(Y))
    again = KAN.load(model.save(tmp_path / "kan"))
    x = torch.rand(5, 2, dtype=torch.float64)
    assert torch.equal(again(x), model(x))


def test_high_whole_powers_of_negative_numbers():
    model = kan_from_formula(X**71 + X**-70)
    x = torch.tensor([[-1.01], [-0.99], [1.02]], dtype=torch.float64)
    torch.testing.assert_close(model(x), x**71 + x**-70)


@pytest.mark.parametrize(
    "formula",
    [
        sympy.exp(sympy.sin(sympy.pi * X) + Y**2),
        X * Y * Z + sympy.sqrt(X**2 + Y**2 + 1),
        sympy.cos(X) * sympy.exp(-Y) / (1 + Z**2),
        X**7 - 2,
        (X + 2) ** sympy.Rational(7, 3),
        X + sympy.sin(X) * X + X**2,
        sympy.log(X * Y + 2) / Z,
        sympy.atanh(X / 3) + abs(Y - 0.5),
        sympy.Integer(2),
        X**-5 + Y**2.0 + Z**33,
        sympy.exp(X**2) + X**2 + X,
        sympy.sin(X) + sympy.cos(X) + sympy.exp(sympy.sin(X)),
        sympy.sin(X + Y) + sympy.cos(X + Y) + sympy.exp(sympy.sin(X + Y)) + Z,
        2 * sympy.Max(0, X - sympy.Rational(1, 2)) + sympy.Min(sympy.Max(3 * Y - 2, -1), 1),
        Z * sympy.exp(sympy.Min(0, X - 0.5)) + sympy.Max(X, Y, 0.3) ** 2,
    ],
    ids=str,
)
def test_formulas_become_networks(formula):
    model = kan_from_formula(formula, variables=["x", "y", "z"])
    x = torch.rand(40, 3, dtype=torch.float64) + 0.1
    expected = sympy.lambdify((X, Y, Z), formula, "numpy")(*x.T.numpy())
    torch.testing.assert_close(model(x)[:, 0].detach(), torch.as_tensor(expected, dtype=torch.float64).expand(40))
    back = sympy.lambdify((X, Y, Z), model.formula(variables=["x", "y", "z"])[0], "numpy")(*x.T.numpy())
    torch.testing.assert_close(torch.as_tensor(back, dtype=torch.float64).expand(40), model(x)[:, 0].detach())


def test_several_outputs_keep_their_order_and_edges_become_curves():
    model = kan_from_formula([X * Y, X + Y, X**2])
    x = torch.rand(20, 2, dtype=torch.float64)
    expected = torch.stack([x.prod(1), x.sum(1), x[:, 0] ** 2], dim=1)
    torch.testing.assert_close(model(x).detach(), expected)
    edge = next(edge for edge in model.edges() if edge.layer == 0)
    model.unfix_symbol(edge)
    torch.testing.assert_close(model(x).detach(), expected, atol=1e-4, rtol=0)
    assert isinstance(edge, Edge) and model.curved(0).sum() == 1


def test_formulas_become_curves_where_their_inputs_are():
    model = kan_from_formula(sympy.exp(X**2) + sympy.sqrt(Y))
    x = torch.rand(50, 2, dtype=torch.float64) * torch.tensor([2.0, 5.0]) + 0.5
    outer = next(e for e in model.edges() if e.layer == 1 and model.formulas[1].symbols[e.input].name == "exp")
    model.unfix_symbol(outer, x)
    expected = torch.exp(x[:, :1] ** 2) + x[:, 1:].sqrt()
    assert (model(x).detach() - expected).abs().max() < 0.05 * expected.max()
    edge = next(edge for edge in kan_from_formula(sympy.sqrt(X)).edges())
    with pytest.raises(DataError, match="is not finite everywhere on its grid"):
        kan_from_formula(sympy.sqrt(X)).unfix_symbol(edge)


def test_variables_are_told_apart_by_name():
    model = kan_from_formula(sympy.Symbol("p", positive=True) ** 2)
    assert model(torch.tensor([[3.0]], dtype=torch.float64)).item() == 9
    for bad, match in [
        ("x", "must be a sympy expression"),
        (sympy.I * X, "not a real number"),
        (X * sympy.oo, "not a real"),
    ]:
        with pytest.raises(ConfigError, match=match):
            kan_from_formula(bad)


def test_powers_with_any_exponent_are_edges(tmp_path):
    formula = sympy.cbrt(X * Y) + X ** sympy.Rational(5, 2) + sympy.sinh(Y) + sympy.acos(X / 9)
    model = kan_from_formula(formula)
    names = [symbol.name for formulas in model.formulas for symbol in formulas.symbols]
    assert {"x^(1/3)", "x^2.5", "sinh", "arccos"} < set(names) and "log" not in names
    again = KAN.load(model.save(tmp_path))
    x = 0.1 + torch.rand(9, 2, dtype=torch.float64)
    expected = sympy.lambdify([X, Y], formula, "numpy")(*x.T.numpy())
    torch.testing.assert_close(again.predict(x)[:, 0], torch.as_tensor(expected))


def test_equal_targets_have_an_output_each():
    x = sympy.Symbol("x")
    assert kan_from_formula([x**2, x**2]).width[-1] == (2, 0)


@pytest.mark.parametrize("rate", [1.07, 0.6, 0.4])
def test_exponentials_of_years(rate):
    """Their exponents are beyond the bound of an edge, and their factors may be beyond float64."""
    year, shift = sympy.Symbol("year"), -1990 * sympy.log(sympy.Float(rate))
    growth = sympy.exp(shift) * sympy.exp(sympy.log(sympy.Float(rate)) * year)
    x = torch.stack([torch.arange(1990, 2021), torch.linspace(1, 2, 31)], dim=1).double()
    expected, y = rate ** (x[:, 0] - 1990), x[:, 1]
    for formula, values in [
        (-3 * growth, -3 * expected),
        (Y - 3 * growth * Y * sympy.sin(Y), y - 3 * expected * y * y.sin()),
        (1 / (1 + 3 * growth), 1 / (1 + 3 * expected)),
        (sympy.exp(shift) * sympy.Float(rate) ** year, expected),
    ]:
        model = kan_from_formula(formula, variables=["year", "y"])
        torch.testing.assert_close(model.predict(x)[:, 0], values, rtol=1e-11, atol=0)  # rounding of 1990·log(rate)


def test_powers_of_large_numbers():
    model = kan_from_formula(sympy.Float("1e-60") * X ** sympy.Float(20.5) * Y)
    x = torch.tensor([[1e3, 1.0], [2e3, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(model.predict(x)[:, 0], 1e-60 * x[:, 0] ** 20.5 * x[:, 1])


def test_moderate_factors_stay_as_they_are_written():
    assert str(kan_from_formula(5 * sympy.exp(3 * X)).formula(variables=["x"])[0]) == "5.0*exp(3.0*x)"
