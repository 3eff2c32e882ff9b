"""The C++ kernels as functions of contiguous float32 tensors, without a graph.

Shape letters: N tokens, I inputs, O outputs, C coefficients, D denominator parameters. Curves may be fewer than inputs:
then groups of neighbouring inputs share one.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from kansformer.basis import EXTRAPOLATIONS, Basis
from kansformer.basis.bspline import SEGMENT_POLYNOMIALS
from kansformer.ops.native.build import library, pointer

FAMILIES = {"bspline": 0, "chebyshev": 1, "rational": 2}

ACTIVATIONS = {"zero": 0, "identity": 1, "relu": 2, "silu": 3, "gelu_tanh": 4, "tanh": 5}
"""Activation functions whose slope the kernels compute."""


def evaluate_curves(
    basis: Basis,
    domain: Tensor,
    x: Tensor,
    coefficients: Tensor,
    denominator: Tensor | None,
    base: Tensor | None,
    factor: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """(base + s(x)) · factor; `out` may be the base."""
    y = torch.empty_like(x) if out is None else out
    library().curves_forward(
        *map(pointer, (y, base, factor, x, coefficients, denominator, domain, segments(basis))),
        *_sizes_of_curves(x, coefficients),
        *_numbers_of_curves(basis),
    )
    return y


def differentiate_curves(
    basis: Basis,
    wanted: Sequence[bool],
    gradient: Tensor,
    has_base: bool,
    domain: Tensor,
    x: Tensor,
    coefficients: Tensor,
    denominator: Tensor | None,
    base: Tensor | None,
    factor: Tensor | None,
    activation: str = "zero",
) -> list[Tensor | None]:
    """Gradients of x, coefficients, denominator, base and factor, those that are wanted.

    Without a factor the base itself is not needed, and its gradient is the output's. The base may also be an
    activation function of x; then it has no gradient of its own.
    """
    gradient = gradient.contiguous()
    places = (x, coefficients, denominator, factor if has_base else None, factor)
    found = [torch.empty_like(t) if need and t is not None else None for t, need in zip(places, wanted, strict=True)]
    dx, dcoefficients, ddenominator, dbase, dfactor = found
    library().curves_backward(
        *map(pointer, (dx, dbase, dfactor, dcoefficients, ddenominator, gradient, base, factor, x)),
        *map(pointer, (coefficients, denominator, domain, segments(basis))),
        *_sizes_of_curves(x, coefficients),
        ACTIVATIONS[activation],
        *_numbers_of_curves(basis),
    )
    if wanted[3] and factor is None:
        found[3] = gradient
    return found


def evaluate_edges(basis: Basis, domain: Tensor, x: Tensor, coefficients: Tensor, base: Tensor | None) -> Tensor:
    """base + Σ_i s_oi(x_i)."""
    y = torch.empty(x.shape[0], coefficients.shape[2], dtype=x.dtype)
    library().edges_forward(
        *map(pointer, (y, base, x, coefficients, domain, segments(basis))), *numbers_of_edges(x, coefficients, basis)
    )
    return y


def differentiate_edges(
    basis: Basis, wanted: Sequence[bool], gradient: Tensor, domain: Tensor, x: Tensor, coefficients: Tensor
) -> list[Tensor | None]:
    """Gradients of x and the coefficients, those that are wanted."""
    gradient = gradient.contiguous()
    sizes = numbers_of_edges(x, coefficients, basis)
    dx, dcoefficients = (
        torch.empty_like(t) if need else None for t, need in zip((x, coefficients), wanted, strict=True)
    )
    if dx is not None:
        library().edges_input_gradient(*map(pointer, (dx, gradient, x, coefficients, domain, segments(basis))), *sizes)
    if dcoefficients is not None:
        library().edges_weight_gradient(*map(pointer, (dcoefficients, gradient, x, domain, segments(basis))), *sizes)
    return [dx, dcoefficients]


def numbers_of_edges(x: Tensor, coefficients: Tensor, basis: Basis) -> tuple[int, ...]:
    """The sizes and settings that a kernel of edges takes after its pointers."""
    extrapolation = EXTRAPOLATIONS.index(basis.extrapolation)
    return *x.shape, coefficients.shape[2], basis.grid_size, basis.order, extrapolation, torch.get_num_threads()


def _sizes_of_curves(x: Tensor, coefficients: Tensor) -> tuple[int, int, int]:
    inputs = x.shape[-1]
    return x.numel() // inputs, inputs, coefficients.shape[0]


def _numbers_of_curves(basis: Basis) -> tuple[int, ...]:
    return (
        basis.num_coefficients,
        basis.num_denominator,
        FAMILIES[basis.name],
        basis.grid_size,
        basis.order,
        EXTRAPOLATIONS.index(basis.extrapolation),
        torch.get_num_threads(),
    )


def segments(basis: Basis) -> Tensor | None:
    """The polynomials of a B-spline's pieces, (K + 1, K + 1) float32; None for other bases."""
    return _segments(basis.order) if basis.name == "bspline" else None


@lru_cache
def _segments(order: int) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(SEGMENT_POLYNOMIALS[order], dtype=torch.float32, device="cpu")
