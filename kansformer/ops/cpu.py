"""The CPU path in plain PyTorch: tokens go through the definition in chunks that fit the cache, and backward recomputes
the basis.

Nothing of size N·I·C lives: forward saves its inputs only, and a chunk's basis is gone before the next one starts.

Shape letters: `...` any, N tokens, I inputs, O outputs, C coefficients, D denominator parameters.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from kansformer.ops import cpu_local, reference
from kansformer.ops.curves import Curves, flat
from kansformer.ops.gradients import gradients_of, gradients_of_definition, needs_definition, without_autocast

# Basis values per chunk: 1 MiB of float32 where only elementwise work follows, 8 MiB where a matrix product does.
CURVE_CHUNK = 2**18
EDGE_CHUNK = 2**21

# Tokens per chunk at most: gradients are summed within a chunk, and longer sums lose digits.
MAX_CHUNK = 1024


def serves(x: Tensor, curves: Curves, base: Tensor | str | None = None, factor: Tensor | None = None) -> bool:
    """Whether tensors can be cut into chunks."""
    return not (needs_definition(x, curves.coefficients) or curves.learn_domains())


def apply_curves(x: Tensor, curves: Curves, base: Tensor | None = None, factor: Tensor | None = None) -> Tensor:
    """`reference.apply_curves` in chunks of tokens, B-splines by look-up."""
    curves = curves.per_channel(x.shape[-1])
    if cpu_local.serves(curves.basis):
        y_NI = cpu_local.apply_curves(flat(x), curves)
    else:
        chunk = CURVE_CHUNK // max(1, curves.coefficients.numel())
        y_NI = _chunked(reference.apply_curves, chunk, flat(x), curves)
    y = y_NI.reshape(x.shape)
    y = y if base is None else base + y
    return y if factor is None else y * factor


def sum_edges(x_NI: Tensor, curves: Curves, base_NO: Tensor | None = None) -> Tensor:
    """`reference.sum_edges` in chunks of tokens."""
    inputs, width, _ = curves.coefficients.shape
    chunk = EDGE_CHUNK // max(1, inputs * width)
    y_NO = _chunked(reference.sum_edges, chunk, x_NI, curves)
    return y_NO if base_NO is None else base_NO + y_NO


def _chunked(definition: Callable[[Tensor, Curves], Tensor], chunk: int, x: Tensor, curves: Curves) -> Tensor:
    chunk = min(chunk, MAX_CHUNK)
    if x.shape[0] <= chunk and not torch.is_grad_enabled():  # one token of a generating model: nothing to prepare
        return definition(x, curves)
    coefficients, domain, denominator, basis = curves
    return _TokenChunks.apply(definition, max(1, chunk), basis, domain, x, coefficients, denominator)


class _TokenChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, definition, chunk, basis, domain, x, coefficients, denominator):
        ctx.definition, ctx.chunk, ctx.basis = definition, chunk, basis
        ctx.save_for_backward(domain, x, coefficients, denominator)
        curves = Curves(coefficients, domain, denominator, basis)
        pieces = [definition(piece, curves) for piece in x.split(chunk)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    @staticmethod
    def backward(ctx, gradient):
        domain, x, coefficients, denominator = ctx.saved_tensors
        needs_grad = ctx.needs_input_grad[4:]

        def definition(x, coefficients, denominator):
            return ctx.definition(x, Curves(coefficients, domain, denominator, ctx.basis))

        if torch.is_grad_enabled():
            return (None,) * 4 + gradients_of_definition(
                definition, (x, coefficients, denominator), needs_grad, gradient
            )

        parameters = tuple(
            None if t is None else t.detach().requires_grad_(need)
            for t, need in zip((coefficients, denominator), needs_grad[1:], strict=True)
        )
        x_pieces: list[Tensor] = []
        totals: list[Tensor | None] = [None, None]
        for piece, piece_gradient in zip(x.split(ctx.chunk), gradient.split(ctx.chunk), strict=True):
            with torch.enable_grad(), without_autocast(piece):
                piece = piece.detach().requires_grad_(needs_grad[0])
                output = definition(piece, *parameters)
            dx, *parts = gradients_of(output, (piece, *parameters), needs_grad, piece_gradient)
            if dx is not None:
                x_pieces.append(dx)
            for i, part in enumerate(parts):
                if part is not None:
                    total = totals[i]
                    totals[i] = part if total is None else total.add_(part)
        return (None,) * 4 + (torch.cat(x_pieces) if needs_grad[0] else None, *totals)
