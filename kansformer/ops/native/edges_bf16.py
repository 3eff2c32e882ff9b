"""Edges in bfloat16: weights and basis values are multiplied as such and added in float32, in one of two forms.

`pairs` is the way of float32, with the processor's instructions for pairs of bfloat16. `dense` is for a processor with
a matrix unit (AMX): all basis values of a chunk of tokens are written out, and matrix products do the rest.

Shape letters: N tokens, I inputs, O outputs, C coefficients.
"""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from kansformer.basis import EXTRAPOLATIONS, Basis
from kansformer.ops import reference
from kansformer.ops.gradients import gradients_of_definition
from kansformer.ops.native.build import library, pointer
from kansformer.ops.native.curves import segments

DENSE_CHUNK = 2**21
"""Basis values that the dense form writes out at a time: 4 MiB of bfloat16."""

LONGEST_CHUNK = 1024
"""Tokens in a chunk at most: a chunk's weight gradient is rounded to bfloat16 before chunks are added up."""


@cache
def form() -> str | None:
    """How this processor multiplies bfloat16: `dense`, `pairs`, or None where float32 is as fast."""
    if torch.cpu._is_amx_tile_supported():
        return "dense"
    return "pairs" if library().edges_bf16_supported() else None


def sum_edges(x_NI: Tensor, coefficients_ICO: Tensor, domain_I2: Tensor, basis: Basis, base_NO: Tensor) -> Tensor:
    """`reference.sum_edges` of B-splines onto a bfloat16 base; x float32, float16 or bfloat16."""
    coefficients = coefficients_ICO.to(torch.bfloat16).contiguous()
    domain = domain_I2.float().contiguous()
    return _Edges.apply(form() == "dense", basis, domain, x_NI.contiguous(), coefficients, base_NO.contiguous())


class _Edges(torch.autograd.Function):
    @staticmethod
    def forward(ctx, dense, basis, domain, x, coefficients, base):
        ctx.dense, ctx.basis = dense, basis
        ctx.save_for_backward(domain, x, coefficients)
        y = torch.empty_like(base)
        x = x.float()
        if dense:
            weights = coefficients.flatten(0, 1)
            for rows, e in _expanded(x, coefficients, domain, basis):
                torch.addmm(base[rows], e, weights, out=y[rows])
        else:
            library().edges_bf16_forward(
                *map(pointer, (y, base, x, coefficients, domain, segments(basis))), *numbers(x, coefficients, basis)
            )
        return y

    @staticmethod
    def backward(ctx, gradient):
        domain, x, coefficients = ctx.saved_tensors
        x_wanted, coefficients_wanted, base_wanted = ctx.needs_input_grad[3:]
        base_gradient = gradient if base_wanted else None
        if torch.is_grad_enabled():

            def definition(x, coefficients):
                return reference.sum_edges(x, coefficients, None, domain, ctx.basis).to(gradient.dtype)

            found = gradients_of_definition(definition, (x, coefficients), (x_wanted, coefficients_wanted), gradient)
            return None, None, None, *found, base_gradient

        gradient, wide = gradient.contiguous(), x.float()
        dx = torch.empty_like(wide) if x_wanted else None
        dcoefficients = torch.empty_like(coefficients, dtype=torch.float32) if coefficients_wanted else None
        backward = _backward_dense if ctx.dense else _backward_pairs
        backward(dx, dcoefficients, gradient, wide, coefficients, domain, ctx.basis)
        dx = None if dx is None else dx.to(x.dtype)
        dcoefficients = None if dcoefficients is None else dcoefficients.to(coefficients.dtype)
        return None, None, None, dx, dcoefficients, base_gradient


def _backward_pairs(dx, dcoefficients, gradient, x, coefficients, domain, basis):
    sizes = numbers(x, coefficients, basis)
    if dx is not None:
        library().edges_bf16_input_gradient(
            *map(pointer, (dx, gradient, x, coefficients, domain, segments(basis))), *sizes
        )
    if dcoefficients is not None:
        library().edges_bf16_weight_gradient(
            *map(pointer, (dcoefficients, gradient, x, domain, segments(basis))), *sizes
        )


def _backward_dense(dx, dcoefficients, gradient, x, coefficients, domain, basis):
    weights = coefficients.flatten(0, 1)
    if dcoefficients is not None:
        total = dcoefficients.zero_().flatten(0, 1)
        for rows, e in _expanded(x, coefficients, domain, basis):
            total += e.t() @ gradient[rows]
    if dx is not None:
        for rows in _chunks(x, coefficients):
            de = gradient[rows] @ weights.t()
            library().edges_contract(
                *map(pointer, (dx[rows], de, x[rows], domain, segments(basis))), *_numbers_of_chunk(x[rows], basis)
            )


def _expanded(x: Tensor, coefficients: Tensor, domain: Tensor, basis: Basis) -> Iterator[tuple[slice, Tensor]]:
    """The basis values (rows, I·C) of one chunk of tokens after the other, in the same memory."""
    width = coefficients.shape[0] * coefficients.shape[1]
    memory = None
    for rows in _chunks(x, coefficients):
        piece = x[rows]
        if memory is None or memory.shape[0] != piece.shape[0]:
            memory = torch.empty(piece.shape[0], width, dtype=torch.bfloat16)
        library().edges_expand(
            *map(pointer, (memory, piece, domain, segments(basis))), *_numbers_of_chunk(piece, basis)
        )
        yield rows, memory


def _chunks(x: Tensor, coefficients: Tensor) -> Iterator[slice]:
    chunk = DENSE_CHUNK // (coefficients.shape[0] * coefficients.shape[1])
    chunk = min(LONGEST_CHUNK, max(1, chunk))
    for begin in range(0, x.shape[0], chunk):
        yield slice(begin, begin + chunk)


def numbers(x: Tensor, coefficients: Tensor, basis: Basis) -> tuple[int, ...]:
    """The sizes and settings that a kernel of edges takes after its pointers."""
    extrapolation = EXTRAPOLATIONS.index(basis.extrapolation)
    return *x.shape, coefficients.shape[2], basis.grid_size, basis.order, extrapolation, torch.get_num_threads()


def _numbers_of_chunk(x: Tensor, basis: Basis) -> tuple[int, ...]:
    return *x.shape, basis.grid_size, basis.order, EXTRAPOLATIONS.index(basis.extrapolation), torch.get_num_threads()
