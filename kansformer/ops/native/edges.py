"""One B-spline per edge by the C++ kernels, which touch only the coefficients that are alive at an input.

Shape letters: N tokens, I inputs, O outputs, C coefficients.
"""

import torch
from torch import Tensor

from kansformer.basis import Basis
from kansformer.ops import cpu, reference
from kansformer.ops.gradients import gradients_of_definition, needs_definition
from kansformer.ops.native import edges_bf16
from kansformer.ops.native.build import library, pointer
from kansformer.ops.native.curves import FINEST_GRID, segments
from kansformer.ops.native.edges_bf16 import numbers
from kansformer.ops.precision import widened_edges


def serves(basis: Basis) -> bool:
    """Whether the kernels know the basis."""
    return basis.name == "bspline" and basis.grid_size <= FINEST_GRID


def sum_edges(
    x_NI: Tensor,
    coefficients_ICO: Tensor,
    denominator_ID: Tensor | None,
    domain_I2: Tensor,
    basis: Basis,
    base_NO: Tensor | None = None,
) -> Tensor:
    """`reference.sum_edges`; what the kernels do not know goes the way of the `cpu` backend."""
    tensors = (x_NI, coefficients_ICO, domain_I2, base_NO)
    if not serves(basis) or not x_NI.numel() or not coefficients_ICO.numel() or needs_definition(*tensors):
        return cpu.sum_edges(x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO)
    if base_NO is not None and base_NO.dtype == torch.bfloat16 and edges_bf16.form():
        return edges_bf16.sum_edges(x_NI, coefficients_ICO, domain_I2, basis, base_NO)
    return _sum_in_one_dtype(x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO)


@widened_edges
def _sum_in_one_dtype(x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO=None):
    if x_NI.dtype != torch.float32:
        return cpu.sum_edges(x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO)
    domain, x, coefficients, base = (
        None if t is None else t.contiguous() for t in (domain_I2, x_NI, coefficients_ICO, base_NO)
    )
    return _Edges.apply(basis, domain, x, coefficients, base)


class _Edges(torch.autograd.Function):
    @staticmethod
    def forward(ctx, basis, domain, x, coefficients, base):
        ctx.basis = basis
        ctx.save_for_backward(domain, x, coefficients)
        y = torch.empty(x.shape[0], coefficients.shape[2], dtype=x.dtype)
        library().edges_forward(
            *map(pointer, (y, base, x, coefficients, domain, segments(basis))), *numbers(x, coefficients, basis)
        )
        return y

    @staticmethod
    def backward(ctx, gradient):
        domain, x, coefficients = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        base_gradient = gradient if wanted[2] else None
        if torch.is_grad_enabled():

            def definition(x, coefficients):
                return reference.edges(x, coefficients, None, domain, ctx.basis)

            found = gradients_of_definition(definition, (x, coefficients), wanted[:2], gradient)
            return None, None, *found, base_gradient

        gradient = gradient.contiguous()
        sizes = numbers(x, coefficients, ctx.basis)
        dx = dcoefficients = None
        if wanted[0]:
            dx = torch.empty_like(x)
            library().edges_input_gradient(
                *map(pointer, (dx, gradient, x, coefficients, domain, segments(ctx.basis))), *sizes
            )
        if wanted[1]:
            dcoefficients = torch.empty_like(coefficients)
            library().edges_weight_gradient(
                *map(pointer, (dcoefficients, gradient, x, domain, segments(ctx.basis))), *sizes
            )
        return None, None, dx, dcoefficients, base_gradient
