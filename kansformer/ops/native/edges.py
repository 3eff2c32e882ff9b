"""One B-spline per edge by the C++ kernels, which touch only the coefficients that are alive at an input.

Shape letters: N tokens, I inputs, O outputs, C coefficients.
"""

import torch
from torch import Tensor

from kansformer.basis import Basis
from kansformer.ops import cpu, reference
from kansformer.ops.gradients import gradients_of_definition, is_compiled, needs_definition
from kansformer.ops.native import compiled, edges_bf16
from kansformer.ops.native.compiled import kernels_of
from kansformer.ops.native.curves import FINEST_GRID
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
    if not known or (not is_compiled() and needs_definition(*tensors)):
        return cpu.sum_edges(x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO)
    if base_NO is not None and base_NO.dtype == torch.bfloat16 and edges_bf16.form():
        return _run(basis, domain_I2.float(), x_NI, coefficients_ICO.to(torch.bfloat16), base_NO)
    return _sum_in_one_dtype(x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO)


@widened_edges
def _sum_in_one_dtype(x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO=None):
    if x_NI.dtype != torch.float32:
        return cpu.sum_edges(x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO)
    return _run(basis, domain_I2, x_NI, coefficients_ICO, base_NO)


def _run(basis: Basis, domain: Tensor, x: Tensor, coefficients: Tensor, base: Tensor | None) -> Tensor:
    run = compiled.sum_edges if is_compiled() else _Edges.apply
    base = None if base is None else base.contiguous()
    return run(basis, domain.contiguous(), x.contiguous(), coefficients.contiguous(), base)


class _Edges(torch.autograd.Function):
    @staticmethod
    def forward(ctx, basis, domain, x, coefficients, base):
        ctx.basis = basis
        ctx.save_for_backward(domain, x, coefficients)
        return kernels_of(coefficients).evaluate_edges(basis, domain, x, coefficients, base)

    @staticmethod
    def backward(ctx, gradient):
        domain, x, coefficients = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        base_gradient = gradient if wanted[2] else None
        if torch.is_grad_enabled() or needs_definition(gradient):

            def definition(x, coefficients):
                return reference.sum_edges(x, coefficients, None, domain, ctx.basis).to(gradient.dtype)

            found = gradients_of_definition(definition, (x, coefficients), wanted[:2], gradient)
        else:
            differentiate = kernels_of(coefficients).differentiate_edges
            found = differentiate(ctx.basis, wanted[:2], gradient, domain, x, coefficients)
        return None, None, *found, base_gradient
