"""The CPU path: tokens go through the definition in chunks that fit the cache, and backward recomputes the basis.

Nothing of size N·I·C lives: forward saves its inputs only, and a chunk's basis is gone before the next one starts.

Shape letters: N tokens, I inputs, O outputs, C coefficients, D denominator parameters.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from kansformer.basis import Basis
from kansformer.ops import cpu_local, reference

# Basis values per chunk: 1 MiB of float32 where only elementwise work follows, 8 MiB where a matrix product does.
CURVE_CHUNK = 2**18
EDGE_CHUNK = 2**21


def apply_curves(
    x_NI: Tensor, coefficients_IC: Tensor, denominator_ID: Tensor | None, domain_I2: Tensor, basis: Basis
) -> Tensor:
    """`reference.apply_curves` in chunks of tokens, B-splines by look-up."""
    if _traced():
        return reference.apply_curves(x_NI, coefficients_IC, denominator_ID, domain_I2, basis)
    if cpu_local.serves(basis):
        return cpu_local.apply_curves(x_NI, coefficients_IC, domain_I2, basis)
    chunk = CURVE_CHUNK // max(1, coefficients_IC.numel())
    return _chunked(reference.apply_curves, chunk, x_NI, coefficients_IC, denominator_ID, domain_I2, basis)


def sum_edges(
    x_NI: Tensor, coefficients_ICO: Tensor, denominator_ID: Tensor | None, domain_I2: Tensor, basis: Basis
) -> Tensor:
    """`reference.sum_edges` in chunks of tokens."""
    if _traced():
        return reference.sum_edges(x_NI, coefficients_ICO, denominator_ID, domain_I2, basis)
    chunk = EDGE_CHUNK // max(1, coefficients_ICO[..., 0].numel())
    return _chunked(reference.sum_edges, chunk, x_NI, coefficients_ICO, denominator_ID, domain_I2, basis)


def _traced() -> bool:
    # Compilers fuse and tile the definition themselves; torch.func cannot look into an autograd function.
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def _chunked(
    definition: Callable,
    chunk: int,
    x: Tensor,
    coefficients: Tensor,
    denominator: Tensor | None,
    domain: Tensor,
    basis: Basis,
) -> Tensor:
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
        if torch.is_grad_enabled():  # double backward: the graph of the definition itself
            tensors = (x, coefficients, denominator)
            output = ctx.definition(x, coefficients, denominator, domain, ctx.basis)
            return (None,) * 4 + _gradients(output, tensors, wanted, gradient, create_graph=True)

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
            found = _gradients(output, (piece, *parameters), wanted, piece_gradient)
            x_pieces.append(found[0])
            for i, part in enumerate(found[1:]):
                if part is not None:
                    total = totals[i]
                    totals[i] = part if total is None else total.add_(part)
        return (None,) * 4 + (torch.cat(x_pieces) if wanted[0] else None, *totals)


def _gradients(output, tensors, wanted, gradient, create_graph=False):
    """Gradients in the order of `tensors`, None for those that nobody wants."""
    targets = [t for t, need in zip(tensors, wanted, strict=True) if need]
    found = iter(torch.autograd.grad(output, targets, gradient, create_graph=create_graph))
    return tuple(next(found) if need else None for need in wanted)
