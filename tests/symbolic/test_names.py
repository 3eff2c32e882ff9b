"""Names of functions, spellings of pykan and of papers, and functions that torch cannot differentiate."""

from fractions import Fraction

import numpy as np
import pytest
import sympy
import torch

from kansformer.errors import ConfigError
from kansformer.symbolic import ALL_SYMBOLS, LIBRARY, Symbol, SymbolLibrary, fit_symbolic
from kansformer.symbolic.names import exponent_of, plain_name, power
from kansformer.symbolic.symbol import symbol_values

PYKAN = [
    "x", "x^2", "x^3", "x^4", "x^5", "1/x", "1/x^2", "1/x^3", "1/x^4", "1/x^5", "sqrt", "x^0.5", "x^1.5", "1/sqrt(x)",
    "1/x^0.5", "exp", "log", "abs", "sin", "cos", "tan", "tanh", "sgn", "arcsin", "arccos", "arctan", "arctanh",
    "gaussian",
]  # fmt: skip


def test_the_names_of_pykan_are_known():
    library = ALL_SYMBOLS.subset(PYKAN)
    assert len(library) == len(PYKAN) - 2  # x^0.5 is sqrt, 1/x^0.5 is 1/sqrt(x)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("x**2", "x^2"),
        (" x ^ 2 ", "x^2"),
        ("x²", "x^2"),
        ("x⁻³", "1/x^3"),
        ("x^-3", "1/x^3"),
        ("x^(-1)", "1/x"),
        ("x^1", "x"),
        ("x^0.5", "sqrt"),
        ("x^(1/2)", "sqrt"),
        ("sqrt(x)", "sqrt"),
        ("1/sqrt(x)", "1/sqrt(x)"),
        ("x^-.5", "1/sqrt(x)"),
        ("x^2.50", "x^2.5"),
        ("x^(5/2)", "x^2.5"),
        ("x^(1/3)", "x^(1/3)"),
        ("x^0.333", "x^0.333"),
        ("1/x^(2/3)", "x^(-2/3)"),
        ("sgn", "sign"),
        ("ln(x)", "log"),
        ("atan", "arctan"),
        ("own function", "ownfunction"),
        ("x^0", "x^0"),
        ("x^1/3", "x^1/3"),
        ("x^(1/0)", "x^(1/0)"),
        ("x^101", "x^101"),
        ("x^(1/" + "9" * 5000 + ")", "x^(1/" + "9" * 5000 + ")"),
    ],
)
def test_spellings(name, plain):
    assert plain_name(name) == plain and plain_name(plain) == plain


@pytest.mark.parametrize("name", ["x^2.5", "x^(1/3)", "x^0.333", "1/x^3", "x^5", "x^-2.5"])
def test_a_power_is_made_from_its_name(name):
    symbol = LIBRARY.named(name)
    z = torch.linspace(0.2, 3, 30, dtype=torch.float64).requires_grad_()
    exponent = exponent_of(symbol.name)
    torch.testing.assert_close(symbol.function(z), z ** float(exponent))
    (slope,) = torch.autograd.grad(symbol.function(z).sum(), z)
    torch.testing.assert_close(symbol.slope(z, symbol.function(z)), slope)
    assert float(symbol.sympy(sympy.Integer(2))) == pytest.approx(2 ** float(exponent))
    x_1S = torch.linspace(0.5, 2, 64, dtype=torch.float64)[None]
    fits = fit_symbolic(x_1S, 3 * (x_1S + 0.2) ** float(exponent) - 1, library=SymbolLibrary([symbol]))
    assert float(fits.r2) > 1 - 1e-9


def test_an_unknown_name_is_told_its_neighbours():
    with pytest.raises(ConfigError, match="No function is named 'sinsinsin"):
        ALL_SYMBOLS.named("sin" * 100_000)
    with pytest.raises(ConfigError, match="No function is named 'sinn'. Close to it: sin, .* or choose from: x, x.2"):
        ALL_SYMBOLS.named("sinn")
    with pytest.raises(ConfigError, match="An exponent must be between -100 and 100 and not 0, got 0"):
        power(Fraction(0))


@pytest.mark.parametrize("derivative", [None, lambda z, f: torch.cos(z)])
def test_a_function_that_torch_cannot_differentiate(derivative):
    own = Symbol(
        name="own", function=lambda z: torch.from_numpy(np.sin(z.numpy())), sympy=sympy.sin, complexity=2,
        derivative=derivative,
    )  # fmt: skip
    z = torch.linspace(-3, 3, 50, dtype=torch.float64).requires_grad_()
    values = symbol_values(own, z)
    torch.testing.assert_close(values, torch.sin(z))
    (slope,) = torch.autograd.grad(values.sum(), z)
    torch.testing.assert_close(slope, torch.cos(z.detach()), rtol=1e-9, atol=1e-9)
    with pytest.raises(ConfigError, match="The second derivative of 'own' is needed, and torch cannot differentiate"):
        torch.autograd.grad(symbol_values(own, z).sum(), z, create_graph=True)
    x_1S = torch.linspace(-1, 1, 64, dtype=torch.float64)[None]
    assert float(fit_symbolic(x_1S, 2 * torch.sin(3 * x_1S + 1), library=SymbolLibrary([own])).r2) > 1 - 1e-9
