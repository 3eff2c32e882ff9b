"""Edges that are formulas: c·f(a·x + b) + d with a fixed f and trainable numbers.

Shape letters: `...` any, N samples, I inputs, O outputs, E edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from kansformer.symbolic import Symbol

A, B, C, D = range(4)


class SymbolicEdges(nn.Module):
    """The edges of one layer that are formulas; none at first.

    Args:
        outputs: O.
        dtype, device: of the parameters.

    Attributes:
        symbols: f of every edge, E of them.
        inputs, outputs_of: channel numbers of every edge, (E,), buffers.
        affine: a, b, c and d of every edge, (E, 4).
    """

    inputs: Tensor
    outputs_of: Tensor

    def __init__(self, outputs: int, *, dtype: torch.dtype, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.outputs = outputs
        self.symbols: tuple[Symbol, ...] = ()
        self.register_buffer("inputs", torch.zeros(0, dtype=torch.long, device=device))
        self.register_buffer("outputs_of", torch.zeros(0, dtype=torch.long, device=device))
        self.affine = nn.Parameter(torch.zeros(0, 4, dtype=dtype, device=device))

    def __len__(self) -> int:
        return len(self.symbols)

    def find(self, input: int, output: int) -> int | None:
        """The number of an edge here, or None."""
        rows = ((self.inputs == input) & (self.outputs_of == output)).nonzero()
        return int(rows[0]) if len(rows) else None

    @torch.no_grad()
    def add(self, input: int, output: int, symbol: Symbol, affine: Sequence[float]) -> None:
        """Add an edge, or give an edge that is a formula already the new one."""
        self.remove(input, output)
        self._append(symbol, self.inputs.new_tensor([input, output]), self.affine.new_tensor([affine]))

    def append(self, symbol: Symbol) -> None:
        """Make room for one more edge, whose place and numbers are loaded afterwards."""
        self._append(symbol, self.inputs.new_zeros(2), self.affine.detach().new_zeros(1, 4))

    def _append(self, symbol: Symbol, place_2: Tensor, row_14: Tensor) -> None:
        self.restore(
            (*self.symbols, symbol),
            torch.cat([self.inputs, place_2[:1]]),
            torch.cat([self.outputs_of, place_2[1:]]),
            torch.cat([self.affine.detach(), row_14]),
        )

    @torch.no_grad()
    def remove(self, input: int, output: int) -> None:
        """Remove an edge, if it is a formula here."""
        index = self.find(input, output)
        if index is not None:
            self.keep(torch.arange(len(self), device=self.inputs.device) != index)

    @torch.no_grad()
    def keep(self, chosen: Tensor) -> None:
        """Keep the chosen edges, a mask (E,)."""
        symbols = tuple(symbol for symbol, stays in zip(self.symbols, chosen.tolist(), strict=True) if stays)
        self.restore(symbols, self.inputs[chosen], self.outputs_of[chosen], self.affine.detach()[chosen])

    def renumber(self, inputs: Tensor | None, outputs: Tensor | None) -> None:
        """Follow a layer that keeps some inputs or outputs, masks, all that are used here among them."""
        if inputs is not None:
            self.inputs = (inputs.cumsum(0) - 1)[self.inputs]
        if outputs is not None:
            self.outputs_of, self.outputs = (outputs.cumsum(0) - 1)[self.outputs_of], int(outputs.sum())

    def snapshot(self) -> tuple[tuple[Symbol, ...], Tensor, Tensor, Tensor]:
        """The edges and a copy of their numbers, for `restore`."""
        return self.symbols, self.inputs, self.outputs_of, self.affine.detach().clone()

    def restore(self, symbols: tuple[Symbol, ...], inputs: Tensor, outputs_of: Tensor, affine: Tensor) -> None:
        """Replace all edges."""
        self.symbols, self.inputs, self.outputs_of = symbols, inputs, outputs_of
        self.affine = nn.Parameter(affine.clone(), requires_grad=self.affine.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) to the sums at the nodes, (..., O)."""
        total = x.new_zeros(*x.shape[:-1], self.outputs)
        return total.index_add(-1, self.outputs_of, self.values(x)) if len(self) else total

    def values(self, x: Tensor) -> Tensor:
        """Every edge, (..., E); NaN where a·x + b lies outside f's domain."""
        return self._columns(x, lambda symbol, z, a, b, c, d, x: c * symbol.function(z) + d)

    def slopes(self, x: Tensor) -> Tensor:
        """Derivative of every edge by its input, (..., E)."""
        return self._columns(x, lambda symbol, z, a, b, c, d, x: c * a * symbol.slope(z, symbol.function(z)))

    def partials(self, x: Tensor) -> Tensor:
        """Derivatives of every edge by a, b, c and d, (..., E, 4)."""

        def of_one(symbol: Symbol, z: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, x: Tensor) -> Tensor:
            f = symbol.function(z)
            slope = c * symbol.slope(z, f)
            return torch.stack([slope * x, slope, f, torch.ones_like(f)], dim=-1)

        return self._columns(x, of_one, dim=-2)

    def _columns(self, x: Tensor, of_one: Callable[..., Tensor], dim: int = -1) -> Tensor:
        columns = []
        for symbol, i, (a, b, c, d) in zip(self.symbols, self.inputs.tolist(), self.affine, strict=True):
            z = a * x[..., i] + b
            inside = (z > symbol.domain[0]) & (z < symbol.domain[1])
            columns.append(of_one(symbol, torch.where(inside, z, torch.nan), a, b, c, d, x[..., i]))
        return torch.stack(columns, dim=dim)

    def edges(self) -> Iterator[tuple[int, int, Symbol, Tensor]]:
        """Input, output, f and (a, b, c, d) of every edge."""
        return zip(self.inputs.tolist(), self.outputs_of.tolist(), self.symbols, self.affine.detach(), strict=True)

    def extra_repr(self) -> str:
        return ", ".join(f"{i}->{o}: {symbol.name}" for i, o, symbol, _ in self.edges())
