"""Edges in bfloat16: weights and basis values are multiplied as such and added in float32, in one of two forms.

`pairs` is the way of float32, with the processor's instructions for pairs of bfloat16. `dense` is for a processor with
a matrix unit (AMX): all basis values of a chunk of tokens are written out, and matrix products do the rest.

Shape letters: N tokens, I inputs, O outputs, C coefficients.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from kansformer.basis import EXTRAPOLATIONS, Basis
from kansformer.ops.gradients import constant_when_compiled
from kansformer.ops.native.build import library, pointer
from kansformer.ops.native.calls import numbers_of_edges, segments

DENSE_CHUNK = 2**21
"""Basis values that the dense form writes out at a time: 4 MiB of bfloat16."""

LONGEST_CHUNK = 1024
"""Tokens in a chunk at most: a chunk's weight gradient is rounded to bfloat16 before chunks are added up."""


@constant_when_compiled
def form() -> str | None:
    """How this processor multiplies bfloat16: `dense`, `pairs`, or None where float32 is as fast."""
    return _form()


@cache
def _form() -> str | None:
    if torch.cpu._is_amx_tile_supported():
        return "dense"
    return "pairs" if library().edges_bf16_supported() else None


def evaluate_edges(basis: Basis, domain: Tensor, x: Tensor, coefficients: Tensor, base: Tensor) -> Tensor:
    """base + Σ_i s_oi(x_i) of contiguous tensors, without a graph: x of any float dtype, domain float32, the others
    bfloat16."""
    y = torch.empty_like(base)
    x = x.float()
    if form() == "dense":
        weights = coefficients.flatten(0, 1)
        for rows, e in _expanded(x, coefficients, domain, basis):
            torch.addmm(base[rows], e, weights, out=y[rows])
    else:
        library().edges_bf16_forward(
            *map(pointer, (y, base, x, coefficients, domain, segments(basis))),
            *numbers_of_edges(x, coefficients, basis),
        )
    return y


def differentiate_edges(
    basis: Basis, wanted: Sequence[bool], gradient: Tensor, domain: Tensor, x: Tensor, coefficients: Tensor
) -> list[Tensor | None]:
    """Gradients of x and the coefficients, those that are wanted."""
    gradient, wide = gradient.contiguous(), x.float()
    dx = torch.empty_like(wide) if wanted[0] else None
    dcoefficients = torch.empty_like(coefficients, dtype=torch.float32) if wanted[1] else None
    backward = _backward_dense if form() == "dense" else _backward_pairs
    backward(dx, dcoefficients, gradient, wide, coefficients, domain, basis)
    return [
        None if found is None else found.to(t.dtype)
        for found, t in zip((dx, dcoefficients), (x, coefficients), strict=True)
    ]


def _backward_pairs(dx, dcoefficients, gradient, x, coefficients, domain, basis):
    sizes = numbers_of_edges(x, coefficients, basis)
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


def _numbers_of_chunk(x: Tensor, basis: Basis) -> tuple[int, ...]:
    return *x.shape, basis.grid_size, basis.order, EXTRAPOLATIONS.index(basis.extrapolation), torch.get_num_threads()
