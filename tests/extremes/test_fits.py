"""Fits to few, constant, equal, huge and tiny numbers: finite, or refused with a sentence."""

import numpy as np
import pytest
import torch

from kansformer.basis import BASES, Basis, fit_curves, refit_curves
from kansformer.errors import DataError, KansformerError
from kansformer.kan import KAN, KANRegressor, find_formula
from kansformer.symbolic import fit_symbolic

X = torch.rand(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
Y = X[:, [0]] ** 2 + X[:, [1]]
TABLES = {
    "a constant column": (torch.cat([X[:, :1], torch.ones(40, 1)], dim=1), Y),
    "equal rows": (X[:1].expand(40, -1).clone(), Y),
    "one row": (X[:1], Y[:1]),
    "constant targets": (X, torch.ones_like(Y)),
    "huge inputs": (1e30 * X, Y),
    "tiny inputs": (1e-30 * X, Y),
    "huge targets": (X, 1e30 * Y),
    "tiny targets": (X, 1e-30 * Y),
    "an outlier": (torch.cat([X, torch.full((1, 2), 1e25)]), torch.cat([Y, Y[:1]])),
}
REFUSED = {
    "not finite in row 0, column 0: nan": (X, torch.nan * Y),
    "not finite in row 0, column 0: inf": (torch.inf * X.abs(), Y),
    "The train targets reach .*e.200, whose squares are too large": (X, 1e200 * Y),
}


def is_finite(module):
    return all(tensor.isfinite().all() for tensor in module.state_dict().values())


def curves_of(name):
    """A basis, its domain and its denominator for one input."""
    basis = Basis(name=name)
    denominator = torch.full((1, basis.num_denominator), 0.1) if basis.num_denominator else None
    return basis, torch.tensor([[-1.0, 1.0]]), {"denominator_ID": denominator}


@pytest.mark.parametrize("name", BASES)
def test_fits_of_curves(name):
    basis, domain, extra = curves_of(name)
    ramp = torch.linspace(-1, 1, 20).unsqueeze(0)
    ones = torch.ones(1, 20, 1)
    for x, y in [(ramp[:, :1], ones[:, :1]), (0 * ramp, ones), (1e30 * ramp, ones), (ramp, 1e38 * ones)]:
        assert fit_curves(x, y, basis, domain, **extra).isfinite().all()
    coefficients = torch.ones(1, basis.num_coefficients, 2)
    for new in ([-1e-30, 1e-30], [-1e30, 1e30], [1e30, 2e30]):
        assert refit_curves(coefficients, basis, domain, basis, torch.tensor([new]), **extra).isfinite().all()
    for x, y in [(torch.nan * ramp, ones), (ramp, torch.nan * ones), (ramp, torch.inf * ones)]:
        with pytest.raises(DataError, match=r"are not finite at \(0, 0.*\): (nan|inf)\."):
            fit_curves(x, y, basis, domain, **extra)
    for ends in ([0.0, 0.0], [1.0, -1.0]):
        with pytest.raises(DataError, match="domain 0, .* to .*, has no finite width"):
            refit_curves(coefficients, basis, domain, basis, torch.tensor([ends]), **extra)
    with pytest.raises(DataError, match=r"the coefficients are not finite at \(0, 0, 0\): nan"):
        refit_curves(torch.nan * coefficients, basis, domain, basis, domain, **extra)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("optimizer", ["lm", "lbfgs", "adam"])
def test_fits_of_networks(name, optimizer):
    x, y = TABLES[name]
    network = KAN([2, 2, 1])
    network.fit((x, y), optimizer=optimizer, steps=4, progress=False)
    assert is_finite(network) and network(x).isfinite().all()


@pytest.mark.parametrize("message", REFUSED)
def test_tables_that_cannot_be_fitted_leave_the_network_alone(message):
    x, y = REFUSED[message]
    network = KAN([2, 2, 1])
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(DataError, match=message):
        network.fit((x, y), progress=False)
    assert all(torch.equal(new, old) for new, old in zip(network.parameters(), before, strict=True))
    with pytest.raises(ValueError, match=r"NaN|infinity|squares are too large"):
        KANRegressor(steps=1).fit(x.numpy(), y.numpy())


@pytest.mark.parametrize("name", TABLES)
def test_networks_are_pruned_named_and_fitted_as_estimators(name):
    x, y = TABLES[name]
    network = KAN([2, 2, 1])
    network.prune((x, y))
    assert is_finite(network)
    network.fit_symbolic(x)
    assert is_finite(network)
    if len(x) > 1:
        assert np.isfinite(KANRegressor((2,), steps=3).fit(x.numpy(), y.numpy()).predict(x.numpy())).all()


def test_estimators_take_inputs_of_any_size():
    for scale in (1e-300, 1e306):
        fitted = KANRegressor((2,), steps=5).fit(scale * X.numpy(), Y.numpy()[:, 0])
        assert fitted.score(scale * X.numpy(), Y.numpy()[:, 0]) > 0.9


@pytest.mark.parametrize("name", ["one row", "constant targets"])
def test_find_formula_of_a_constant(name):
    found = find_formula(TABLES[name], progress=False)
    assert float(found.formulas[0]) == float(f"{TABLES[name][1][0].item():.4g}")  # four digits by default


@pytest.mark.parametrize("scale", [1e-300, 1e-42, 1.0, 1e30, 1e200, 1e307])
def test_curves_of_any_size_get_the_same_names(scale):
    x = torch.linspace(-1, 1, 64, dtype=torch.float64).expand(3, -1)
    y = torch.stack([x[0] ** 2, (2 * x[0]).exp(), torch.full((64,), 0.3, dtype=torch.float64)])
    fits = fit_symbolic(x, scale * y)
    assert fits.names == ["x^2", "exp", "constant"]
    for numbers in (fits.a, fits.b, fits.c, fits.d, fits.r2):
        assert numbers.isfinite().all()
    assert torch.allclose(fits.evaluate(x) / scale, y, atol=1e-6)


def test_curves_that_cannot_be_named_are_refused():
    x = torch.linspace(-1, 1, 64, dtype=torch.float64).expand(2, -1)
    for bad in (torch.nan, torch.inf):
        y = x.clone()
        y[1, 3] = bad
        with pytest.raises(DataError, match="y has a value that is not finite in row 1"):
            fit_symbolic(x, y)
    for scale in (1e-310, 1.7e308):
        with pytest.raises(KansformerError, match="is too narrow or too wide for float64"):
            fit_symbolic(scale * x, x)
