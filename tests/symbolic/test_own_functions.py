"""Functions of one's own: in place, in NumPy, of other dtypes, without derivatives, and without a torch equivalent."""

import numpy as np
import pytest
import sympy
import torch

from kansformer import KANLinear
from kansformer.errors import ConfigError
from kansformer.interp import summarize
from kansformer.kan import KAN, find_formula
from kansformer.symbolic import SCIENCE_LIBRARY, Symbol, SymbolLibrary, fit_symbolic

X = torch.linspace(-2, 2, 100, dtype=torch.float64)
SINC = Symbol(name="sinc", function=torch.sinc, sympy=lambda z: sympy.sinc(sympy.pi * z), complexity=4)


def own(function, meaning=sympy.sin, **settings):
    return Symbol(name="own", function=function, sympy=meaning, complexity=2, **settings)


def test_a_function_that_overwrites_its_argument_is_refused():
    with pytest.raises(ConfigError, match="'own' works in place"):
        fit_symbolic(X[None], X[None].sin(), library=SymbolLibrary([own(lambda z: z.sin_())]))


def test_a_function_without_a_derivative_in_torch():
    step = own(lambda z: torch.heaviside(z, z.new_ones(())), sympy.Heaviside, fit_scale=False, fit_shift=False)
    assert fit_symbolic(X[None], (X[None] > 0.3).double(), library=SymbolLibrary([step])).names == ["own"]


def test_a_function_of_another_dtype_is_one_of_the_network_s():
    model = KAN([1, 1], dtype=torch.float32)
    model.fix_symbol((0, 0, 0), "own", library=SymbolLibrary([own(lambda z: z.double().sin())]), affine=(1, 0, 1, 0))
    x = X[:, None].float().requires_grad_()
    y = model(x)
    torch.testing.assert_close(y, x.sin())
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], x.cos())


def test_an_audit_that_is_kept_takes_functions_of_numpy(tmp_path):
    library = SymbolLibrary([own(lambda z: torch.from_numpy(np.sin(z.numpy())))])
    model = torch.nn.Sequential(KANLinear(2, 2))
    batch = {"input": torch.randn(50, 2)}
    kept, again = (summarize(model, batch, library=library, kept=tmp_path) for _ in range(2))
    assert kept.coverage() == again.coverage() == summarize(model, batch, library=library).coverage()


def test_functions_without_an_equivalent_have_formulas_and_are_refused_by_the_search():
    library = SCIENCE_LIBRARY.with_symbol(SINC)
    data = X[:, None], torch.sinc(X[:, None])
    model = KAN([1, 1])
    model.fit(data, steps=10, progress=False)
    assert model.fit_symbolic(data, library=library).fits.names == ["sinc"]
    exact, short = model.formula()[0], model.formula(digits=3)[0]
    assert exact.has(sympy.sinc) and len(str(short)) < 50 < len(str(exact))
    with pytest.raises(ConfigError, match="sinc is not among exp, log, sqrt"):
        find_formula(data, library=library, progress=False)


def test_fits_at_integers_are_not_cut_off():
    fits = fit_symbolic(X[None], 0.5 * X[None] + 0.25)
    assert fits.function(0)(torch.arange(3)).tolist() == pytest.approx([0.25, 0.75, 1.25])
