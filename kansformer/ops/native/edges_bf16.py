"""Edges in bfloat16: weights and basis values are multiplied as such and added in float32, in one of two forms.

`pairs` is the way of float32, with the processor's instructions for pairs of bfloat16. `dense` is for a processor with
a matrix unit (AMX): all basis values of a chunk of tokens are written out, and matrix products do the rest.

Shape letters: N tokens, I inputs, O outputs, C coefficients.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from kansformer.ops.gradients import constant_when_compiled
from kansformer.ops.native.kernels import Settings, call, sizes_of_edges
from kansformer.ops.native.library import library

DENSE_CHUNK = 2**21
"""Basis values that the dense form writes out at a time: 4 MiB of bfloat16."""

MAX_CHUNK = 1024
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


def evaluate_edges(
    settings: Settings, x_NI: Tensor, coefficients_ICO: Tensor, base_NO: Tensor | None, domain_I2: Tensor
) -> Tensor:
    """base + Σ_i s_oi(x_i): x of any float dtype, domain float32, the others bfloat16."""
    if base_NO is None:
        raise AssertionError("edges in bfloat16 are summed onto a base")
    y_NO, x_NI = torch.empty_like(base_NO, memory_format=torch.contiguous_format), x_NI.float()
    tensors = dict(y=y_NO, base=base_NO, x=x_NI, coefficients=coefficients_ICO, domain=domain_I2)
    if form() == "dense":
        weights = coefficients_ICO.flatten(0, 1)
        for rows, e in _expanded(x_NI, coefficients_ICO, domain_I2, settings):
            torch.addmm(base_NO[rows], e, weights, out=y_NO[rows])
    else:
        call(library().edges_bf16_forward, settings, sizes_of_edges(x_NI, coefficients_ICO), tensors)
    return y_NO


def differentiate_edges(
    settings: Settings,
    needs_grad: Sequence[bool],
    gradient_NO: Tensor,
    x_NI: Tensor,
    coefficients_ICO: Tensor,
    domain_I2: Tensor,
) -> list[Tensor | None]:
    """Gradients of x and the coefficients, those that are wanted."""
    gradient, x = gradient_NO.contiguous(), x_NI.float().contiguous()
    coefficients = coefficients_ICO.contiguous()
    dx = torch.empty_like(x) if needs_grad[0] else None
    da = torch.empty_like(coefficients, dtype=torch.float32) if needs_grad[1] else None
    if form() == "dense":
        _backward_dense(dx, da, gradient, x, coefficients, domain_I2, settings)
    else:
        sizes = sizes_of_edges(x, coefficients)
        tensors = dict(gradient=gradient, x=x, coefficients=coefficients, domain=domain_I2)
        if dx is not None:
            call(library().edges_bf16_input_gradient, settings, sizes, {"dx": dx, **tensors})
        if da is not None:
            call(library().edges_bf16_weight_gradient, settings, sizes, {"dcoefficients": da, **tensors})
    return [None if dx is None else dx.to(x_NI.dtype), None if da is None else da.to(coefficients.dtype)]


def _backward_dense(dx, da, gradient, x, coefficients, domain, settings):
    weights = coefficients.flatten(0, 1)
    if da is not None:
        total = da.zero_().flatten(0, 1)
        for rows, e in _expanded(x, coefficients, domain, settings):
            total += e.t() @ gradient[rows]
    if dx is not None:
        for rows in _chunks(x, coefficients):
            de = gradient[rows] @ weights.t()
            sizes = (len(de), x.shape[1], 0, 0)
            call(library().edges_contract, settings, sizes, dict(dx=dx[rows], gradient=de, x=x[rows], domain=domain))


def _expanded(x: Tensor, coefficients: Tensor, domain: Tensor, settings: Settings) -> Iterator[tuple[slice, Tensor]]:
    """The basis values (rows, I·C) of one chunk of tokens after the other, in the same memory."""
    width = coefficients.shape[0] * coefficients.shape[1]
    memory = None
    for rows in _chunks(x, coefficients):
        piece = x[rows]
        if memory is None or memory.shape[0] != piece.shape[0]:
            memory = torch.empty(piece.shape[0], width, dtype=torch.bfloat16, device="cpu")
        call(library().edges_expand, settings, (*piece.shape, 0, 0), dict(y=memory, x=piece, domain=domain))
        yield rows, memory


def _chunks(x: Tensor, coefficients: Tensor) -> Iterator[slice]:
    chunk = DENSE_CHUNK // (coefficients.shape[0] * coefficients.shape[1])
    chunk = min(MAX_CHUNK, max(1, chunk))
    for begin in range(0, x.shape[0], chunk):
        yield slice(begin, begin + chunk)
