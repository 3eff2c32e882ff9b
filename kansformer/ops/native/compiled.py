"""The C++ kernels as operators that a compiler keeps whole in its graph; without one they are called directly, which is
faster for small tensors.

Shape letters: N tokens, I inputs, O outputs, P curves, C coefficients, D denominator parameters.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kansformer.basis import Basis
from kansformer.ops.native import calls, edges_bf16


def apply_curves(
    x: Tensor,
    coefficients_PC: Tensor,
    denominator_PD: Tensor | None,
    domain_P2: Tensor,
    basis: Basis,
    base: Tensor | None,
    factor: Tensor | None,
) -> Tensor:
    """`reference.apply_curves` of float32 tensors, differentiable once."""
    return _curves(x, coefficients_PC, denominator_PD, base, factor, domain_P2, *_settings(basis))


def sum_edges(basis: Basis, domain: Tensor, x: Tensor, coefficients: Tensor, base: Tensor | None) -> Tensor:
    """`evaluate_edges` of the module that `kernels_of` names; differentiable once."""
    return _edges(x, coefficients, base, domain, *_settings(basis))


def _settings(basis: Basis) -> tuple[str, int, int, str]:
    return basis.name, basis.grid_size, basis.order, basis.extrapolation


def _basis(name: str, grid_size: int, order: int, extrapolation: str) -> Basis:
    return Basis(name=name, grid_size=grid_size, order=order, extrapolation=extrapolation)


def _contiguous(*tensors: Tensor | None) -> tuple[Any, ...]:
    return tuple(None if t is None else t.contiguous() for t in tensors)


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _or_empty(x: Tensor, found: list[Tensor | None]) -> list[Tensor]:
    """An operator returns tensors only, and none of its inputs."""
    return [x.new_empty(0) if t is None else t for t in found]


@torch.library.custom_op("kansformer::curves", mutates_args=(), device_types="cpu")
def _curves(
    x: Tensor,
    coefficients: Tensor,
    denominator: Tensor | None,
    base: Tensor | None,
    factor: Tensor | None,
    domain: Tensor,
    name: str,
    grid_size: int,
    order: int,
    extrapolation: str,
) -> Tensor:
    basis = _basis(name, grid_size, order, extrapolation)
    return calls.evaluate_curves(basis, *_contiguous(domain, x, coefficients, denominator, base, factor))


@_curves.register_fake
def _(x, coefficients, denominator, base, factor, domain, *settings):
    return _like(x)


@torch.library.custom_op("kansformer::curves_backward", mutates_args=(), device_types="cpu")
def _curves_backward(
    gradient: Tensor,
    x: Tensor,
    coefficients: Tensor,
    denominator: Tensor | None,
    base: Tensor | None,
    factor: Tensor | None,
    domain: Tensor,
    name: str,
    grid_size: int,
    order: int,
    extrapolation: str,
    wanted: list[bool],
) -> list[Tensor]:
    basis = _basis(name, grid_size, order, extrapolation)
    # Without a factor the base's gradient is the output's, and is not this operator's to return.
    wanted = [*wanted[:3], wanted[3] and factor is not None, wanted[4]]
    tensors = _contiguous(domain, x, coefficients, denominator, base, factor)
    return _or_empty(x, calls.differentiate_curves(basis, wanted, gradient, base is not None, *tensors))


@_curves_backward.register_fake
def _(gradient, x, coefficients, denominator, base, factor, domain, *settings_and_wanted):
    wanted = settings_and_wanted[-1]
    places = (x, coefficients, denominator, factor if base is not None else None, factor)
    found = [_like(t) if need and t is not None else None for t, need in zip(places, wanted, strict=True)]
    return _or_empty(x, found)


@torch.library.custom_op("kansformer::edges", mutates_args=(), device_types="cpu")
def _edges(
    x: Tensor,
    coefficients: Tensor,
    base: Tensor | None,
    domain: Tensor,
    name: str,
    grid_size: int,
    order: int,
    extrapolation: str,
) -> Tensor:
    basis = _basis(name, grid_size, order, extrapolation)
    return kernels_of(coefficients).evaluate_edges(basis, *_contiguous(domain, x, coefficients, base))


@_edges.register_fake
def _(x, coefficients, base, domain, *settings):
    return coefficients.new_empty(x.shape[0], coefficients.shape[2])


@torch.library.custom_op("kansformer::edges_backward", mutates_args=(), device_types="cpu")
def _edges_backward(
    gradient: Tensor,
    x: Tensor,
    coefficients: Tensor,
    domain: Tensor,
    name: str,
    grid_size: int,
    order: int,
    extrapolation: str,
    wanted: list[bool],
) -> list[Tensor]:
    basis = _basis(name, grid_size, order, extrapolation)
    tensors = _contiguous(domain, x, coefficients)
    return _or_empty(x, kernels_of(coefficients).differentiate_edges(basis, wanted, gradient, *tensors))


@_edges_backward.register_fake
def _(gradient, x, coefficients, domain, *settings_and_wanted):
    wanted = settings_and_wanted[-1]
    places = zip((x, coefficients), wanted, strict=True)
    return _or_empty(x, [_like(t) if need else None for t, need in places])


def kernels_of(coefficients: Tensor) -> ModuleType:
    """The module with `evaluate_edges` and `differentiate_edges` for coefficients of this dtype."""
    return edges_bf16 if coefficients.dtype == torch.bfloat16 else calls


def _save_curves(ctx, inputs, output):
    *tensors, ctx.name, ctx.grid_size, ctx.order, ctx.extrapolation = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_curves(ctx, gradient):
    x, coefficients, denominator, base, factor, domain = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:5])
    settings = (ctx.name, ctx.grid_size, ctx.order, ctx.extrapolation)
    found = _curves_backward(gradient, x, coefficients, denominator, base, factor, domain, *settings, wanted)
    if wanted[3] and factor is None:
        found[3] = gradient
    return *(t if need else None for t, need in zip(found, wanted, strict=True)), None, *(None,) * 4


def _save_edges(ctx, inputs, output):
    x, coefficients, _, domain, ctx.name, ctx.grid_size, ctx.order, ctx.extrapolation = inputs
    ctx.save_for_backward(x, coefficients, domain)


def _differentiate_edges(ctx, gradient):
    wanted = list(ctx.needs_input_grad[:3])
    settings = (ctx.name, ctx.grid_size, ctx.order, ctx.extrapolation)
    dx, dcoefficients = _edges_backward(gradient, *ctx.saved_tensors, *settings, wanted[:2])
    found = (dx, dcoefficients, gradient)
    return *(t if need else None for t, need in zip(found, wanted, strict=True)), None, *(None,) * 4


_curves.register_autograd(_differentiate_curves, setup_context=_save_curves)
_edges.register_autograd(_differentiate_edges, setup_context=_save_edges)
