"""Calls of the kernels' learned activation: their tensors, and their results beside the definition's in float64."""

import math

import torch
from kan_kernels import definition
from kan_kernels.activation import learned_activation
from kan_kernels.bases import num_coefficients, num_denominator
from numerics import assert_close_to_float64

DOUBLE = torch.float64


def activation_call(
    device,
    shape=(7, 6),
    curves=None,
    dtype=torch.float32,
    basis="bspline",
    grid_size=5,
    order=3,
    extrapolation="linear",
    base="silu",
    factor=True,
    parameters=None,
    seed=0,
):
    """The tensors of one call by name, and its settings. Every curve has its own domain, which x leaves."""
    generator = torch.Generator().manual_seed(seed)
    curves = shape[-1] if curves is None else curves
    parameters = parameters or (DOUBLE if dtype == DOUBLE else torch.float32)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=DOUBLE)

    lower = -1 - normal(curves).abs()
    tensors = {
        "x": (1.5 * normal(*shape)).to(dtype),
        "coefficients": normal(curves, num_coefficients(basis, grid_size, order)).to(parameters),
        "domain": torch.stack([lower, lower + 2 + normal(curves).abs()], -1).to(parameters),
    }
    if basis == "rational":
        tensors["denominator"] = normal(curves, num_denominator(basis, order)).to(parameters)
    if factor:
        tensors["factor"] = normal(*shape).to(dtype)
    settings = dict(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    if base == "given":
        tensors["base"] = normal(*shape).to(dtype)
    else:
        settings["base"] = base
    return {name: t.to(device) for name, t in tensors.items()}, settings


def run(function, tensors, settings):
    """The output, and the gradients of everything but the domain, by name."""
    leaves = {name: t.detach().clone().requires_grad_(name != "domain") for name, t in tensors.items()}
    y = function(**leaves, **settings)
    ramp = torch.linspace(-1, 2, max(1, y.numel()), device=y.device)[: y.numel()].reshape(y.shape)
    ramp = (8 * ramp).round() / 8  # the same number in every dtype
    wanted = [name for name in leaves if name != "domain"]
    found = torch.autograd.grad(y, [leaves[name] for name in wanted], ramp.to(y.dtype))
    return y.detach(), dict(zip(wanted, found, strict=True))


def in_double(tensors):
    return {name: t.double() for name, t in tensors.items()}


def defined(coefficients, domain, x, **rest):
    return definition.learned_activation(x, coefficients, domain, **rest)


def check(tensors, settings, looser=1.0):
    dtype = tensors["x"].dtype
    y, gradients = run(learned_activation, tensors, settings)
    expected, expected_gradients = run(defined, in_double(tensors), settings)
    # σ, the sum and the product are each rounded to 16 bits, as PyTorch rounds them.
    roundings = math.sqrt(1 + (settings.get("base") not in (None, "identity", "zero")) + ("factor" in tensors))
    assert_close_to_float64(y, expected, dtype, looser=looser * (roundings if dtype.itemsize == 2 else 1))
    assert_close_to_float64(gradients, expected_gradients, dtype, gradient=True, looser=looser)
    assert y.dtype == dtype
    for name, gradient in gradients.items():
        assert gradient.dtype == tensors[name].dtype
