"""One closed form from many curves: planted ones come back, and what has none is refused."""

import math

import pytest
import torch
from torch.nn import functional as F

from kansformer.discover import ActivationCurves, discover_activation
from kansformer.discover.activation import ActivationTerm
from kansformer.discover.functions import ELEMENTARY
from kansformer.discover.sums import Sum, SumFitter
from kansformer.errors import ConfigError, DataError, ShapeError

X = torch.linspace(-5, 5, 160, dtype=torch.float64)


def noisy_curves(function, *, curves=64, differ=0.1, noise=0.05, seed=0):
    """Curves around a function that differ smoothly, and whose inputs lie elsewhere each and at some places never."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    centre, width = random(curves, 1) - 0.5, 0.6 + 0.8 * random(curves, 1)
    weights = torch.poisson(60 * torch.exp(-0.5 * ((X - centre) / width) ** 2), generator=generator)
    wave = torch.sin(X * (1 + random(curves, 1)) + 6.3 * random(curves, 1))
    each = differ * 3.4 * (random(curves, 1) - 0.5) * wave
    rough = noise * torch.randn(curves, len(X), generator=generator, dtype=torch.float64)
    return ActivationCurves(X, function(X) + each + rough, weights)


def test_a_planted_form_comes_back_with_its_numbers():
    curves = noisy_curves(lambda x: F.silu(x) - 0.5 * torch.cos(1.25 * x + 0.75) - 0.25 * x)
    result = discover_activation(curves, name="planted", source="a test")
    activation = result.activation
    (term,) = activation.terms
    assert (activation.name, activation.base, activation.source) == ("planted", "silu", "a test")
    assert term.function == "cos" and activation.constant == 0
    found = torch.tensor([term.factor, term.scale, term.shift, activation.slope])
    torch.testing.assert_close(found, torch.tensor([-0.5, 1.25, 0.75, -0.25]), rtol=0.04, atol=0)
    assert len(activation.formula) <= 53  # few digits
    assert activation.errors.explained > 0.97 and activation.errors.rmse < 0.04
    assert 0.03 < curves.spread < 0.15 and activation.errors.explained_of_each <= 1 - curves.spread + 0.02
    assert [len(form.terms) for form in result.candidates][:2] == [0, 1]
    explained = [form.errors.explained for form in result.candidates]
    assert explained[0] < 0.2 and explained == sorted(explained)  # a longer form that is worse is left out
    assert activation.formula in str(result) and "differs from curve to curve" in str(result)


def test_exact_numbers_come_back_exactly_from_curves_without_noise():
    def form(x):
        return F.silu(x) + torch.exp(-((2 * x - 1) ** 2)) - 0.5 * x

    curves = noisy_curves(form, differ=0.0, noise=0.0, curves=8)
    result = discover_activation(curves, name="exact", max_terms=1)
    assert result.activation.terms == (ActivationTerm(function="gaussian", factor=1.0, scale=2.0, shift=-1.0),)
    assert (result.activation.slope, result.activation.constant) == (-0.5, 0.0) and result.spread < 1e-20


def test_two_terms_of_one_curve_without_weights():
    y = 0.25 * X**2 - 1.5 * torch.tanh(X - 0.5)
    result = discover_activation(
        ActivationCurves(X, y[None], base="zero"), name="two", max_terms=2, functions=["x^2", "tanh"],
        min_explained=0.9999,
    )  # fmt: skip
    assert result.activation.formula == "-1.5*tanh(x - 0.5) + 0.25*x**2"


def test_a_shape_without_a_closed_form_is_refused_with_figures():
    curves = noisy_curves(lambda x: F.silu(x) + 0.5 * ((3 * x) % 1))
    with pytest.raises(DataError, match=r"up to 2 terms explains 95% of the mean of these 64 curves. .* on unseen"):
        discover_activation(curves, name="saw", max_terms=2)


def test_a_form_that_fits_the_seen_curves_only_is_refused():
    # The curves that judge, every fourth, have another shape.
    curves = noisy_curves(lambda x: F.silu(x) + torch.tanh(x), curves=16)
    y = curves.y.clone()
    y[2::4] = F.silu(X) - torch.tanh(X)
    with pytest.raises(DataError, match="No closed form"):
        discover_activation(ActivationCurves(X, y, curves.weights), name="a", max_terms=1, functions=["tanh"])


def test_curves_and_points_that_judge_do_not_move_the_numbers():
    curves = noisy_curves(lambda x: F.silu(x) + torch.tanh(x), curves=16)
    y = curves.y.clone()
    y[2::4] += 0.5 * torch.tanh(X)
    y[:, 2::4] -= 0.25
    before, after = (
        discover_activation(
            ActivationCurves(X, values), name="a", max_terms=1, min_explained=0.0, functions=["tanh"]
        ).candidates[1]
        for values in (curves.y, y)
    )
    assert before.formula == after.formula and before.terms
    assert after.errors.rmse > before.errors.rmse + 0.1


def test_the_line_vanishes_from_one_noisy_curve_that_has_none():
    noise = 0.05 * torch.randn(len(X), dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    curves = ActivationCurves(X, (torch.tanh(2 * X - 1) + noise)[None], base="zero")
    activation = discover_activation(curves, name="a", max_terms=1, functions=["tanh"]).activation
    assert (activation.slope, activation.constant) == (0.0, 0.0)
    assert activation.terms == (ActivationTerm(function="tanh", factor=1.0, scale=2.0, shift=-1.0),)


def test_phases_are_small_and_scales_positive():
    curves = noisy_curves(lambda x: 0.5 * torch.cos(1.3 * x + 0.75), differ=0, noise=0)
    fitter = SumFitter(X[40:120], curves.y[:, 40:120], curves.weights[:, 40:120])
    fitted = fitter.fit(Sum().with_term("cos", -1.3, 4 * torch.pi + torch.pi - 0.7).with_numbers({2: -0.4}))
    assert fitter.snapped(fitted).sum.terms == (ActivationTerm(function="cos", factor=0.5, scale=1.3, shift=0.75),)


def test_a_snapped_form_fits_as_well_whatever_its_standard_errors(monkeypatch):
    curves = noisy_curves(lambda x: 0.5 * torch.tanh(2.2 * x - 0.6) + 0.3, differ=0.3, noise=0.02)
    fitter = SumFitter(X[40:120], curves.y[:, 40:120], curves.weights[:, 40:120])
    fitted = fitter.fit(Sum().with_term("tanh", 2.0, -0.5).with_numbers({2: 0.4}))
    monkeypatch.setattr(SumFitter, "_errors_from_curves", lambda self, form: torch.ones(len(form.free)).double())
    assert fitter.snapped(fitted).error <= math.hypot(fitted.error, 1.1 * fitter.noise)


@pytest.mark.parametrize(
    ("functions", "numbers", "visible"),
    [
        (("silu", "tanh"), (0, 0, -1660, 0.000863, 0, 1.32, 0.953, 0), False),  # a parabola, and hardly that
        (("tanh",), (0, 0, 300, 0.01, 0), False),
        (("softplus",), (0, 0, 1, 1, 12), False),
        (("gaussian",), (0, 0, 1, 200, 0), False),  # between two points
        (("tanh", "cos"), (0, 0, 1.32, 0.953, 0, 0.2, 1.3, 0.7), True),
        (("silu",), (0, 0, -2, 0.2, 0), True),
        (("x^2",), (0, 0, 1e-6, 1, 0), True),
        ((), (1, 2), True),
    ],
)
def test_terms_that_are_lines_in_disguise_are_not_taken(functions, numbers, visible):
    fitter = SumFitter(X, torch.tanh(X)[None], torch.exp(-0.5 * X**2)[None])
    assert fitter.is_visible(Sum(functions, tuple(map(float, numbers)))) == visible


def test_a_growing_cosine_is_found():
    curves = noisy_curves(lambda x: x * torch.cos(x))
    activation = discover_activation(ActivationCurves(X, curves.y, curves.weights, "zero"), name="found").activation
    (term,) = activation.terms
    assert term.function == "x*cos" and activation.errors.explained > 0.97
    assert (term.factor, term.scale, term.shift) == pytest.approx((1, 1, 0), abs=0.05)


def test_candidates_are_ranked_by_what_they_explain_and_terms_by_their_factor():
    fitter = SumFitter(X, torch.tanh(X)[None], torch.ones_like(X)[None])
    (best,) = fitter.extended(Sum(), ["x^3", "tanh", "relu^2"], 1)
    assert best.functions == ("tanh",)
    terms = Sum(("cos", "tanh"), (0.0, 0.0, 0.1, 1.0, 0.0, -2.0, 1.0, 0.0)).terms
    assert [term.function for term in terms] == ["tanh", "cos"]


@pytest.mark.parametrize("function", ELEMENTARY)
def test_slopes_by_the_numbers_are_those_of_autograd(function):
    numbers = torch.tensor([0.3, -0.2, 0.7, 1.3, -0.4], dtype=torch.float64)
    slopes_SC = torch.autograd.functional.jacobian(
        lambda n: n[0] * X + n[1] + n[2] * ELEMENTARY[function].value_(n[3] * X + n[4]), numbers
    )
    form = Sum((function,), tuple(numbers.tolist()))
    for place, slopes_S in enumerate(slopes_SC.mT):
        torch.testing.assert_close(form.slope_of(place, X), slopes_S)


def test_the_spread_is_the_share_that_no_single_function_explains():
    shape = torch.sin(X) + 3
    same = ActivationCurves(X, torch.stack([shape, shape]), base="zero")
    opposite = ActivationCurves(X, torch.stack([shape, 6 - shape]), base="zero")
    half = ActivationCurves(X, torch.stack([2 * shape - 3, 0 * shape + 3]), base="zero")
    assert (same.spread, opposite.spread) == pytest.approx((0.0, 1.0)) and half.spread == pytest.approx(0.5)
    weights = torch.stack([torch.ones_like(X), torch.zeros_like(X)])  # of the second no input occurs
    assert ActivationCurves(X, torch.stack([shape, 6 - shape]), weights, "zero").spread == pytest.approx(0.0)


def test_standard_errors_are_those_of_other_draws_of_curves():
    estimates, errors = [], []
    for seed in range(24):
        curves = noisy_curves(lambda x: 0.5 * torch.tanh(2 * x), noise=0.01, seed=seed)
        fitter = SumFitter(X[40:120], curves.y[:, 40:120], curves.weights[:, 40:120])
        fitted = fitter.fit(Sum().with_term("tanh", 1.5, 0.1).with_numbers({2: 0.4}))
        estimates.append(torch.tensor(fitted.sum.numbers))
        errors.append(torch.tensor(fitted.deviations))
    ratio = torch.stack(errors).median(dim=0).values / torch.stack(estimates).std(dim=0)
    assert ((ratio > 0.5) & (ratio < 2)).all(), ratio


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X, X), ShapeError, r"points \(S,\), values \(curves, S\)"),
        ((X, X[None], torch.ones(2, len(X))), ShapeError, "got .160,., .1, 160. and .2, 160."),
        ((X[:8], X[None, :8]), ShapeError, "a curve and 16 points"),
        ((X, X[None].log()), DataError, "y has a value that is not finite"),
        ((-X, X[None]), DataError, "must ascend"),
        ((X, X[None], X[None]), DataError, "Weights must be at least 0, got -5"),
        ((X, X[None], (X[None] > 4.5).double()), DataError, "Only 8 points have weight"),
        ((X, X[None], None, "swish"), ConfigError, "Unknown base 'swish'"),
    ],
)
def test_tables_that_are_none_of_curves_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ActivationCurves(*arguments)


def test_arguments_out_of_range():
    curves = ActivationCurves(X, F.silu(X)[None])
    with pytest.raises(DataError, match="The 1 curves are their base 'silu'"):
        discover_activation(curves, name="a")
    with pytest.raises(ConfigError, match="max_terms must be a whole number from 1 to 4, got 0"):
        discover_activation(curves, name="a", max_terms=0)
    with pytest.raises(ConfigError, match="Unknown function 'log'"):
        discover_activation(curves, name="a", functions=["log"])
    with pytest.raises(ConfigError, match="functions is empty"):
        discover_activation(curves, name="a", functions=[])


def test_a_learned_constant_is_found():
    curves = ActivationCurves(X, (F.silu(X) + 0.3).expand(8, -1))
    found = discover_activation(curves, name="raised").activation
    assert found.constant == pytest.approx(0.3, abs=1e-6) and not found.terms
    assert found.errors.explained == pytest.approx(1) and found.errors.explained_of_each == pytest.approx(1)
    with pytest.raises(DataError, match="nothing was learned on top"):
        discover_activation(ActivationCurves(X, F.silu(X).expand(8, -1)), name="same")
