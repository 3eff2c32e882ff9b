"""Penalties on curves: what they measure, in every basis, and that they pull."""

import pytest
import torch
from torch import nn

from kansformer.basis import BASES
from kansformer.errors import ConfigError
from kansformer.nn import KANLinear, LearnedActivation
from kansformer.nn.penalties import smoothness_penalty, sparsity_penalty


def test_sparsity_is_the_mean_size_of_a_curve():
    module = LearnedActivation(2, grid_size=4, order=1)
    with torch.no_grad():
        module.coefficients[0] = 3.0
    assert sparsity_penalty(module).item() == pytest.approx(1.5, abs=1e-5)


def test_sparsity_counts_every_edge_of_a_full_layer_as_a_curve():
    layer = KANLinear(3, 5, edges="full")
    with torch.no_grad():
        layer.coefficients.zero_()
        layer.coefficients[1, :, 2] = 15.0
    assert sparsity_penalty(layer).item() == pytest.approx(1.0, abs=1e-5)


def test_smoothness_of_a_parabola_is_its_second_derivative_squared():
    # T_2(2u - 1) = 8u² - 8u + 1, whose second derivative by u is 16.
    module = LearnedActivation(1, basis="chebyshev", order=2)
    with torch.no_grad():
        module.coefficients[0, 2] = 1.0
    assert smoothness_penalty(module).item() == pytest.approx(256.0, rel=1e-3)


@pytest.mark.parametrize("edges", ["channel", "low_rank", "full"])
@pytest.mark.parametrize("basis", sorted(BASES))
def test_straight_curves_are_smooth_and_bent_ones_pull_back(basis, edges):
    torch.manual_seed(0)
    layer = KANLinear(4, 3, basis=basis, edges=edges, rank=2)
    with torch.no_grad():
        layer.coefficients.zero_()
    assert smoothness_penalty(layer).item() == 0.0
    with torch.no_grad():
        layer.coefficients.normal_()
    before = smoothness_penalty(layer)
    (gradient,) = torch.autograd.grad(before, layer.coefficients)
    with torch.no_grad():
        layer.coefficients -= 1e-3 * gradient / gradient.norm()
    assert smoothness_penalty(layer) < before


def test_edges_of_low_rank_are_penalised_as_the_curves_that_they_are():
    torch.manual_seed(0)
    layer, full = KANLinear(4, 3, edges="low_rank", rank=2), KANLinear(4, 3, edges="full")
    with torch.no_grad():
        layer.coefficients.normal_()
        full.coefficients.copy_(layer.coefficients @ layer.mix)
    for penalty in (sparsity_penalty, smoothness_penalty):
        assert penalty(layer).item() == pytest.approx(penalty(full).item(), rel=1e-4)


def test_straight_curves_have_a_finite_slope():
    layer = LearnedActivation(3)
    sparsity_penalty(layer).backward()
    assert layer.coefficients.grad.isfinite().all()


@pytest.mark.parametrize("penalty", [sparsity_penalty, smoothness_penalty])
def test_a_model_without_curves_is_refused(penalty):
    with pytest.raises(ConfigError, match="no curves"):
        penalty(nn.Linear(2, 2))


@pytest.mark.parametrize("penalty", [sparsity_penalty, smoothness_penalty])
@pytest.mark.parametrize("edges", ["full", "low_rank"])
def test_penalties_are_computed_in_float32_under_autocast(penalty, edges):
    module = KANLinear(6, 5, edges=edges, rank=2)
    torch.nn.init.normal_(module.coefficients, std=1e-4)
    expected = penalty(module)
    gradient = torch.autograd.grad(expected, module.coefficients)[0]
    with torch.autocast("cpu", torch.float16):
        value = penalty(module)
    assert torch.equal(value, expected) and value.dtype == torch.float32
    assert torch.equal(torch.autograd.grad(value, module.coefficients)[0], gradient)


def test_smoothness_is_computed_in_float32_under_autocast():
    module = LearnedActivation(1, grid_size=12)
    with torch.no_grad():
        module.coefficients.copy_(torch.linspace(0, 1, 15).sin())
    expected = smoothness_penalty(module)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(smoothness_penalty(module), expected)
