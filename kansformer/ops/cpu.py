"""The CPU path in plain PyTorch: tokens go through the definition in chunks that fit the cache, and backward recomputes
the basis.

Nothing of size N·I·C lives: forward saves its inputs only, and a chunk's basis is gone before the next one starts.

Shape letters: N tokens, I inputs, O outputs, C coefficients, D denominator parameters.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from kansformer.basis import Basis
from kansformer.ops import cpu_local, reference
from kansformer.ops.gradients import gradients_of, gradients_of_definition, needs_definition
from kansformer.ops.precision import flat_curves, widened_curves, widened_edges

# Basis values per chunk: 1 MiB of float32 where only elementwise work follows, 8 MiB where a matrix product does.
CURVE_CHUNK = 2**18
EDGE_CHUNK = 2**21

# Tokens per chunk at most: gradients are summed within a chunk, and longer sums lose digits.
LONGEST_CHUNK = 1024


@widened_curves
@flat_curves
def apply_curves(
    x_NI: Tensor,
    coefficients_IC: Tensor,
    denominator_ID: Tensor | None,
    domain_I2: Tensor,
    basis: Basis,
    base_NI: Tensor | None = None,
    factor_NI: Tensor | None = None,
) -> Tensor:
    """`reference.curves` in chunks of tokens, B-splines by look-up."""
    if needs_definition(x_NI, coefficients_IC):
        y_NI = reference.curves(x_NI, coefficients_IC, denominator_ID, domain_I2, basis)
    elif cpu_local.serves(basis):
        y_NI = cpu_local.apply_curves(x_NI, coefficients_IC, domain_I2, basis)
    else:
        chunk = CURVE_CHUNK // max(1, coefficients_IC.numel())
        y_NI = _chunked(reference.curves, chunk, x_NI, coefficients_IC, denominator_ID, domain_I2, basis)
    y_NI = y_NI if base_NI is None else base_NI + y_NI
    return y_NI if factor_NI is None else y_NI * factor_NI


@widened_edges
def sum_edges(
    x_NI: Tensor,
    coefficients_ICO: Tensor,
    denominator_ID: Tensor | None,
    domain_I2: Tensor,
    basis: Basis,
    base_NO: Tensor | None = None,
) -> Tensor:
    """`reference.edges` in chunks of tokens."""
    if needs_definition(x_NI, coefficients_ICO):
        return reference.edges(x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO)
    chunk = EDGE_CHUNK // max(1, coefficients_ICO[..., 0].numel())
    y_NO = _chunked(reference.edges, chunk, x_NI, coefficients_ICO, denominator_ID, domain_I2, basis)
    return y_NO if base_NO is None else base_NO + y_NO


def _chunked(
    definition: Callable,
    chunk: int,
    x: Tensor,
    coefficients: Tensor,
    denominator: Tensor | None,
    domain: Tensor,
    basis: Basis,
) -> Tensor:
    chunk = min(chunk, LONGEST_CHUNK)
    if x.shape[0] <= chunk and not torch.is_grad_enabled():  # one token of a generating model: nothing to prepare
        return definition(x, coefficients, denominator, domain, basis)
    return _TokenChunks.apply(definition, max(1, chunk), basis, domain, x, coefficients, denominator)


class _TokenChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, definition, chunk, basis, domain, x, coefficients, denominator):
        ctx.definition, ctx.chunk, ctx.basis = definition, chunk, basis
        ctx.save_for_backward(domain, x, coefficients, denominator)
        pieces = [definition(piece, coefficients, denominator, domain, basis) for piece in x.split(chunk)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    @staticmethod
    def backward(ctx, gradient):
        domain, x, coefficients, denominator = ctx.saved_tensors
        wanted = ctx.needs_input_grad[4:]
        if torch.is_grad_enabled():
            definition = partial(ctx.definition, domain_I2=domain, basis=ctx.basis)
            tensors = (x, coefficients, denominator)
            return (None,) * 4 + gradients_of_definition(definition, tensors, wanted, gradient)

        parameters = tuple(
            None if t is None else t.detach().requires_grad_(need)
            for t, need in zip((coefficients, denominator), wanted[1:], strict=True)
        )
        x_pieces: list[Tensor] = []
        totals: list[Tensor | None] = [None, None]
        for piece, piece_gradient in zip(x.split(ctx.chunk), gradient.split(ctx.chunk), strict=True):
            with torch.enable_grad():
                piece = piece.detach().requires_grad_(wanted[0])
                output = ctx.definition(piece, *parameters, domain, ctx.basis)
            found = gradients_of(output, (piece, *parameters), wanted, piece_gradient)
            if found[0] is not None:
                x_pieces.append(found[0])
            for i, part in enumerate(found[1:]):
                if part is not None:
                    total = totals[i]
                    totals[i] = part if total is None else total.add_(part)
        return (None,) * 4 + (torch.cat(x_pieces) if wanted[0] else None, *totals)
