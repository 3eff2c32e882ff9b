"""The curve of every channel by the C++ kernel, fused with the activation it bends and the gate's product.

Shape letters: N tokens, I inputs, C coefficients, D denominator parameters.
"""

from collections.abc import Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

from kansformer.basis import EXTRAPOLATIONS, Basis
from kansformer.basis.bspline import SEGMENT_POLYNOMIALS
from kansformer.ops import cpu, reference
from kansformer.ops.activation import KnownActivation
from kansformer.ops.gradients import gradients_of_definition, needs_definition
from kansformer.ops.native import compiled
from kansformer.ops.native.build import library, pointer
from kansformer.ops.precision import widened_curves

FAMILIES = {"bspline": 0, "chebyshev": 1, "rational": 2}

FINEST_GRID = 64
"""The kernels compare with every interval of the grid; beyond this other ways are faster."""


ACTIVATIONS = {"zero": 0, "identity": 1, "relu": 2, "silu": 3, "gelu_tanh": 4, "tanh": 5}
"""Activation functions whose slope the kernels compute."""


def computes(activation: str, basis: Basis, x: Tensor) -> bool:
    """Whether `apply_curves` takes the activation by name. Forward asks PyTorch for it all the same, so every bit is
    its; backward then needs neither its output nor another pass."""
    return activation in ACTIVATIONS and x.dtype == torch.float32 and serves(basis)


def serves(basis: Basis) -> bool:
    """Whether the kernels know the basis."""
    return basis.name in FAMILIES and (basis.name != "bspline" or basis.grid_size <= FINEST_GRID)


@widened_curves
def apply_curves(
    x_NI: Tensor,
    coefficients_IC: Tensor,
    denominator_ID: Tensor | None,
    domain_I2: Tensor,
    basis: Basis,
    base_NI: Tensor | KnownActivation | None = None,
    factor_NI: Tensor | None = None,
) -> Tensor:
    """`reference.curves` in one pass over memory; what the kernel does not know goes the way of the `cpu` backend."""
    if isinstance(base_NI, KnownActivation):
        activation, base = base_NI, None
    else:
        activation, base = None, base_NI
    tensors = (x_NI, coefficients_IC, denominator_ID, domain_I2, base, factor_NI)
    known = x_NI.dtype == torch.float32 and serves(basis) and x_NI.numel() and coefficients_IC.numel()
    compiling = torch.compiler.is_compiling()
    if not known or compiling or needs_definition(*tensors):
        base = activation.function(x_NI) if activation else base
        fallback = compiled.apply_curves if known and compiling else cpu.apply_curves
        return fallback(x_NI, coefficients_IC, denominator_ID, domain_I2, basis, base, factor_NI)
    domain, x, coefficients = domain_I2.contiguous(), x_NI.contiguous(), coefficients_IC.contiguous()
    denominator, base, factor = (None if t is None else t.contiguous() for t in (denominator_ID, base, factor_NI))
    if activation:
        curves = (basis, domain, x, coefficients, denominator, factor)
        return _BentActivation.apply(activation, *curves) if torch.is_grad_enabled() else _bend(activation, *curves)
    if not torch.is_grad_enabled():  # one token of a generating model: every microsecond counts
        return evaluate(basis, domain, x, coefficients, denominator, base, factor)
    return _Curves.apply(basis, domain, x, coefficients, denominator, base, factor)


def evaluate(
    basis: Basis,
    domain: Tensor,
    x: Tensor,
    coefficients: Tensor,
    denominator: Tensor | None,
    base: Tensor | None,
    factor: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """(base + s(x)) · factor of contiguous float32 tensors, without a graph; `out` may be the base."""
    y = torch.empty_like(x) if out is None else out
    library().curves_forward(
        *map(pointer, (y, base, factor, x, coefficients, denominator, domain, segments(basis))),
        *x.shape,
        *_numbers(basis),
    )
    return y


class _Curves(torch.autograd.Function):
    @staticmethod
    def forward(ctx, basis, domain, x, coefficients, denominator, base, factor):
        ctx.basis, ctx.has_base = basis, base is not None
        # Only the gradient of the factor asks for the base.
        ctx.save_for_backward(domain, x, coefficients, denominator, None if factor is None else base, factor)
        return evaluate(basis, domain, x, coefficients, denominator, base, factor)

    @staticmethod
    def backward(ctx, gradient):
        saved = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            domain, x, coefficients, denominator, base, factor = saved
            tensors = (x, coefficients, denominator, base, factor)
            if ctx.has_base and base is None:  # a sum: its gradient is the output's
                found = gradients_of_definition(_without_base(domain, ctx.basis), tensors[:3], wanted[:3], gradient)
                return None, None, *found, gradient if wanted[3] else None, None
            definition = partial(_in_order, domain, ctx.basis)
            return None, None, *gradients_of_definition(definition, tensors, wanted, gradient)

        gradients = differentiate(ctx.basis, wanted, gradient, ctx.has_base, *saved)
        return None, None, *gradients


def differentiate(
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
        *x.shape,
        ACTIVATIONS[activation],
        *_numbers(basis),
    )
    if wanted[3] and factor is None:
        found[3] = gradient
    return found


def _bend(activation, basis, domain, x, coefficients, denominator, factor):
    """(σ(x) + s(x)) · factor, in the memory of σ(x) unless that is x itself."""
    base = activation.function(x)
    out = base if base.data_ptr() != x.data_ptr() and base.is_contiguous() else None
    return evaluate(basis, domain, x, coefficients, denominator, base.contiguous(), factor, out)


class _BentActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, activation, basis, domain, x, coefficients, denominator, factor):
        ctx.activation, ctx.basis = activation, basis
        ctx.save_for_backward(domain, x, coefficients, denominator, factor)
        return _bend(activation, basis, domain, x, coefficients, denominator, factor)

    @staticmethod
    def backward(ctx, gradient):
        domain, x, coefficients, denominator, factor = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():

            def definition(x, coefficients, denominator, factor):
                base = ctx.activation.function(x)
                return reference.curves(x, coefficients, denominator, domain, ctx.basis, base, factor)

            tensors = (x, coefficients, denominator, factor)
            return None, None, None, *gradients_of_definition(definition, tensors, wanted, gradient)

        dx, dcoefficients, ddenominator, _, dfactor = differentiate(
            ctx.basis,
            (*wanted[:3], False, wanted[3]),
            gradient,
            False,
            *(domain, x, coefficients, denominator, None, factor),
            activation=ctx.activation.name,
        )
        return None, None, None, dx, dcoefficients, ddenominator, dfactor


def _in_order(domain, basis, x, coefficients, denominator, base, factor):
    return reference.curves(x, coefficients, denominator, domain, basis, base, factor)


def _without_base(domain, basis):
    return lambda x, coefficients, denominator: reference.curves(x, coefficients, denominator, domain, basis)


def _numbers(basis: Basis) -> tuple[int, ...]:
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
