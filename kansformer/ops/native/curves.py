"""The curve of every channel by the C++ kernel, fused with the activation it bends and the gate's product.

Shape letters: `...` any, I inputs, P curves (one per input, or per group of neighbouring inputs), C coefficients,
D denominator parameters.
"""

import torch
from torch import Tensor

from kansformer.basis import Basis
from kansformer.ops import cpu, reference
from kansformer.ops.activation import KnownActivation
from kansformer.ops.gradients import gradients_of_definition, is_compiled, needs_definition
from kansformer.ops.native import compiled
from kansformer.ops.native.calls import ACTIVATIONS, FAMILIES, differentiate_curves, evaluate_curves
from kansformer.ops.precision import widened_curves

FINEST_GRID = 64
"""The kernels make a table of every interval of the grid for each channel; a finer grid's would not fit a cache."""


def computes(activation: str, basis: Basis, x: Tensor) -> bool:
    """Whether `apply_curves` takes the activation by name. Forward asks PyTorch for it all the same, so every bit is
    its; backward then needs neither its output nor another pass."""
    return activation in ACTIVATIONS and x.dtype == torch.float32 and serves(basis)


def serves(basis: Basis) -> bool:
    """Whether the kernels know the basis."""
    return basis.name in FAMILIES and (basis.name != "bspline" or basis.grid_size <= FINEST_GRID)


@widened_curves
def apply_curves(
    x: Tensor,
    coefficients_PC: Tensor,
    denominator_PD: Tensor | None,
    domain_P2: Tensor,
    basis: Basis,
    base: Tensor | KnownActivation | None = None,
    factor: Tensor | None = None,
) -> Tensor:
    """`reference.apply_curves` in one pass over memory; what the kernel does not know goes as in the `cpu` backend."""
    activation = None
    if isinstance(base, KnownActivation):
        # The last bit of PyTorch's own function may depend on how its input lies in memory.
        activation, base = (base, None) if x.is_contiguous() else (None, base.function(x))
    tensors = (x, coefficients_PC, denominator_PD, domain_P2, base, factor)
    known = x.dtype == torch.float32 and serves(basis) and x.numel() and coefficients_PC.numel()
    compiling = is_compiled()
    if not known or compiling or needs_definition(*tensors):
        base = activation.function(x) if activation else base
        fallback = compiled.apply_curves if known and compiling else cpu.apply_curves
        return fallback(x, coefficients_PC, denominator_PD, domain_P2, basis, base, factor)
    domain, x, coefficients = domain_P2.contiguous(), x.contiguous(), coefficients_PC.contiguous()
    denominator, base, factor = (None if t is None else t.contiguous() for t in (denominator_PD, base, factor))
    if activation:
        curves = (basis, domain, x, coefficients, denominator, factor)
        return _BentActivation.apply(activation, *curves) if torch.is_grad_enabled() else _bend(activation, *curves)
    if not torch.is_grad_enabled():  # one token of a generating model: every microsecond counts
        return evaluate_curves(basis, domain, x, coefficients, denominator, base, factor)
    return _Curves.apply(basis, domain, x, coefficients, denominator, base, factor)


def _bend(activation, basis, domain, x, coefficients, denominator, factor):
    """(σ(x) + s(x)) · factor, in the memory of σ(x) unless that is x itself."""
    base = activation.function(x)
    out = base if base.data_ptr() != x.data_ptr() and base.is_contiguous() else None
    return evaluate_curves(basis, domain, x, coefficients, denominator, base.contiguous(), factor, out)


class _Curves(torch.autograd.Function):
    @staticmethod
    def forward(ctx, basis, domain, x, coefficients, denominator, base, factor):
        ctx.basis, ctx.has_base = basis, base is not None
        # Only the gradient of the factor asks for the base.
        ctx.save_for_backward(domain, x, coefficients, denominator, None if factor is None else base, factor)
        return evaluate_curves(basis, domain, x, coefficients, denominator, base, factor)

    @staticmethod
    def backward(ctx, gradient):
        domain, x, coefficients, denominator, base, factor = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled() or needs_definition(gradient):
            summed = ctx.has_base and base is None  # then the base's gradient is the output's

            def definition(x, coefficients, denominator, base, factor):
                return reference.apply_curves(x, coefficients, denominator, domain, ctx.basis, base, factor)

            tensors = (x, coefficients, denominator, base, factor)
            asked = (*wanted[:3], wanted[3] and not summed, wanted[4])
            found = list(gradients_of_definition(definition, tensors, asked, gradient))
            if summed and wanted[3]:
                found[3] = gradient
            return None, None, *found
        curves = (domain, x, coefficients, denominator)
        return None, None, *differentiate_curves(ctx.basis, wanted, gradient, ctx.has_base, *curves, base, factor)


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
        if torch.is_grad_enabled() or needs_definition(gradient):

            def definition(x, coefficients, denominator, factor):
                base = ctx.activation.function(x)
                return reference.apply_curves(x, coefficients, denominator, domain, ctx.basis, base, factor)

            tensors = (x, coefficients, denominator, factor)
            return None, None, None, *gradients_of_definition(definition, tensors, wanted, gradient)

        dx, dcoefficients, ddenominator, _, dfactor = differentiate_curves(
            ctx.basis,
            (*wanted[:3], False, wanted[3]),
            gradient,
            False,
            *(domain, x, coefficients, denominator, None, factor),
            activation=ctx.activation.name,
        )
        return None, None, None, dx, dcoefficients, ddenominator, dfactor
