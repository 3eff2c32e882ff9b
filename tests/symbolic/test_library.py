"""The table of functions: torch, derivative and sympy say the same, and wrong rows are refused."""

import copy
import math
import pickle

import pytest
import torch

from kansformer.errors import ConfigError
from kansformer.symbolic import ALL_SYMBOLS, KAN_LIBRARY, LIBRARY, Symbol, SymbolLibrary


def points(symbol):
    lower, upper = (max(symbol.domain[0], -4.0), min(symbol.domain[1], 4.0))
    inside = torch.linspace(lower, upper, 42, dtype=torch.float64)[1:-1]
    return inside + 0.0137  # off the kinks


@pytest.mark.parametrize("symbol", ALL_SYMBOLS, ids=lambda s: s.name)
def test_the_formula_is_the_function(symbol):
    import sympy

    z = sympy.Symbol("z", real=True)
    formula = symbol.sympy(z)
    for value in points(symbol)[::5].tolist():
        expected = float(formula.subs(z, value).evalf())
        assert symbol.function(torch.tensor(value, dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("symbol", ALL_SYMBOLS, ids=lambda s: s.name)
def test_the_slope_is_the_derivative(symbol):
    z = points(symbol).requires_grad_()
    value = symbol.function(z).sum()
    expected = torch.autograd.grad(value, z)[0] if value.requires_grad else torch.zeros_like(z)
    torch.testing.assert_close(symbol.slope(z.detach(), symbol.function(z.detach())), expected, rtol=1e-10, atol=1e-12)
    without = Symbol(name="f", function=symbol.function, sympy=symbol.sympy, complexity=1)
    torch.testing.assert_close(without.slope(z.detach(), symbol.function(z.detach())), expected, rtol=1e-12, atol=0)


def test_the_functions_of_kan_packages_are_there():
    assert len(KAN_LIBRARY) == 21
    assert set(KAN_LIBRARY.names) < set(LIBRARY.names)


def test_a_library_grows_by_one_call_and_shrinks_by_names():
    cosine = Symbol(name="cosh", function=torch.cosh, sympy=lambda z: z, complexity=3)
    grown = KAN_LIBRARY.with_symbol(cosine)
    assert grown.named("cosh") is cosine and len(grown) == 22
    assert len(grown.with_symbol(cosine)) == 22
    assert grown.subset(["x", "cosh"]).names == ("x", "cosh")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(name=""), "A function needs a name"),
        (dict(name="constant"), "A function needs a name, and not 'constant'"),
        (dict(complexity=0), "f: complexity must be a positive number, got 0"),
        (dict(complexity=math.inf), "f: complexity must be a positive number"),
        (dict(domain=(1.0, 1.0)), "f: domain must run from a lower"),
    ],
)
def test_a_wrong_function_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Symbol(**{"name": "f", "function": torch.sin, "sympy": lambda z: z, "complexity": 1, **settings})


def test_a_wrong_library_is_refused():
    with pytest.raises(ConfigError, match="The library has no functions"):
        SymbolLibrary([])
    with pytest.raises(ConfigError, match="two functions named 'x'"):
        SymbolLibrary([KAN_LIBRARY[0], KAN_LIBRARY[0]])
    with pytest.raises(ConfigError, match="No function is named 'cosh'. Add it by library.with_symbol"):
        LIBRARY.named("cosh")


@pytest.mark.parametrize("name", ["sin", "x*cos", "x^2.5"])
def test_functions_are_pickled_by_name(name):
    symbol = ALL_SYMBOLS.named(name)
    again = pickle.loads(pickle.dumps(symbol))  # noqa: S301
    z = torch.linspace(0.5, 2, 5)
    assert again is symbol and torch.equal(again.function(z), symbol.function(z))


def test_copies_of_own_functions_keep_them():
    own = Symbol(name="x^2.5", function=torch.square, sympy=lambda z: z**2, complexity=3)
    assert copy.deepcopy(own).function is torch.square
