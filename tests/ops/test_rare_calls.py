"""Calls that few make: learned domains, no outputs, small numbers in a gate, and one curve for very many channels."""

import pytest
import torch
from numerics import assert_close_to_float64

from kansformer import KANLinear, LearnedActivation, set_backend


@pytest.fixture(params=["auto", "native", "cpu", "reference"])
def backend(request):
    set_backend(request.param)
    yield request.param
    set_backend(None)


@pytest.mark.parametrize("kind", [lambda: LearnedActivation(4), lambda: KANLinear(4, 3)])
def test_a_domain_can_be_learned_by_every_backend(kind, backend):
    module = kind()
    torch.nn.init.normal_(module.coefficients, generator=torch.Generator().manual_seed(0))
    module.domain.requires_grad_()
    module(torch.linspace(-1, 1, 24).reshape(6, 4)).sum().backward()
    assert module.domain.grad.abs().min() > 0


def test_a_layer_without_outputs(backend):
    assert KANLinear(4, 1)(torch.randn(2, 4)).shape == (2, 1)
    with pytest.warns(UserWarning, match="zero-element"):
        assert KANLinear(4, 0)(torch.randn(2, 4)).shape == (2, 0)


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
def test_the_factor_s_gradient_beside_a_small_tanh(scale):
    x = scale * torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    factor = torch.ones_like(x).requires_grad_()
    module = LearnedActivation(16, base="tanh")
    (gradient,) = torch.autograd.grad(module.gated(x, factor).sum(), factor)
    assert_close_to_float64(gradient, x.double().tanh(), torch.float32)


def test_one_curve_for_very_many_channels_keeps_its_digits():
    channels = 65536
    module = LearnedActivation(channels, edges="group", groups=1)
    x = torch.randn(2, channels, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    gradients = []
    for backend, dtype in (("native", torch.float32), ("reference", torch.float64)):
        set_backend(backend)
        curves = module.to(dtype)
        gradients.append(torch.autograd.grad(curves(x.to(dtype)).sum(), curves.coefficients)[0])
    set_backend(None)
    assert_close_to_float64(*gradients, torch.float32, gradient=True)
