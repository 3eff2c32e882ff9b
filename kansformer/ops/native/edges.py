"""One B-spline per edge by the C++ kernels, which touch only the coefficients that are alive at an input.

Shape letters: N tokens, I inputs, O outputs, C coefficients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kansformer.basis import Basis
from kansformer.ops import cpu, reference
from kansformer.ops.gradients import gradients_of_definition, needs_definition
from kansformer.ops.native import compiled, edges_bf16
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
    known = serves(basis) and x_NI.numel() and coefficients_ICO.numel()
    if not known or (not torch.compiler.is_compiling() and needs_definition(*tensors)):
        return cpu.sum_edges(x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO)
    if base_NO is not None and base_NO.dtype == torch.bfloat16 and edges_bf16.form():
        return edges_bf16.sum_edges(x_NI, coefficients_ICO, domain_I2, basis, base_NO)
    return _sum_in_one_dtype(x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO)


@widened_edges
def _sum_in_one_dtype(x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO=None):
    if x_NI.dtype != torch.float32:
        return cpu.sum_edges(x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO)
    domain, x, coefficients = domain_I2.contiguous(), x_NI.contiguous(), coefficients_ICO.contiguous()
    base = None if base_NO is None else base_NO.contiguous()
    if torch.compiler.is_compiling():
        return compiled.edges(basis, domain, x, coefficients, base)
    return _Edges.apply(basis, domain, x, coefficients, base)


def evaluate(basis: Basis, domain: Tensor, x: Tensor, coefficients: Tensor, base: Tensor | None) -> Tensor:
    """base + Σ_i s_oi(x_i) of contiguous float32 tensors, without a graph."""
    y = torch.empty(x.shape[0], coefficients.shape[2], dtype=x.dtype)
    library().edges_forward(
        *map(pointer, (y, base, x, coefficients, domain, segments(basis))), *numbers(x, coefficients, basis)
    )
    return y


def differentiate(
    basis: Basis, wanted: Sequence[bool], gradient: Tensor, domain: Tensor, x: Tensor, coefficients: Tensor
) -> list[Tensor | None]:
    """Gradients of x and the coefficients, those that are wanted."""
    gradient = gradient.contiguous()
    sizes = numbers(x, coefficients, basis)
    dx, dcoefficients = (
        torch.empty_like(t) if need else None for t, need in zip((x, coefficients), wanted, strict=True)
    )
    if dx is not None:
        library().edges_input_gradient(*map(pointer, (dx, gradient, x, coefficients, domain, segments(basis))), *sizes)
    if dcoefficients is not None:
        library().edges_weight_gradient(*map(pointer, (dcoefficients, gradient, x, domain, segments(basis))), *sizes)
    return [dx, dcoefficients]


class _Edges(torch.autograd.Function):
    @staticmethod
    def forward(ctx, basis, domain, x, coefficients, base):
        ctx.basis = basis
        ctx.save_for_backward(domain, x, coefficients)
        return evaluate(basis, domain, x, coefficients, base)

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

        return None, None, *differentiate(ctx.basis, wanted[:2], gradient, domain, x, coefficients), base_gradient
