"""Edges of a stand-alone network: their places, and those that are formulas, c·f(a·x + b) + d with trainable numbers.

Shape letters: `...` any, N samples, I inputs, O outputs, E edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from kansformer.errors import ConfigError, SlotError
from kansformer.nn import KANLinear
from kansformer.symbolic import Symbol
from kansformer.symbolic.symbol import symbol_values

if TYPE_CHECKING:
    from kansformer.kan.network import KAN


@dataclass(frozen=True)
class Edge:
    """An edge of a stand-alone network: layer, input node and output, counted from 0.

    A product node multiplies two outputs of its layer, which come after the sums: with s sums, product k multiplies the
    outputs s + 2k and s + 2k + 1.

    Args:
        layer: 0 for the one behind the inputs.
        input: node before the layer.
        output: of the layer.

    Examples:
        >>> from kansformer.kan import KAN, Edge
        >>> model = KAN([2, 1])
        >>> list(model.edges())
        [Edge(layer=0, input=0, output=0), Edge(layer=0, input=1, output=0)]
        >>> [str(edge) for edge in model.remove_edge(Edge(layer=0, input=1, output=0)).edges()]
        ['(0, 0 -> 0)']
    """

    layer: int
    input: int
    output: int

    def __str__(self) -> str:
        return f"({self.layer}, {self.input} -> {self.output})"


EdgeLike: TypeAlias = Edge | tuple[int, int, int]
"""An edge, or its layer, input and output as a tuple."""


class SymbolicEdges(nn.Module):
    """The edges of one layer that are formulas; none at first.

    Args:
        outputs: O.
        dtype: of the parameters.

    Attributes:
        symbols: f of every edge, E of them.
        inputs, outputs_of: channel numbers of every edge, (E,), buffers.
        affine: a, b, c and d of every edge, (E, 4).
        frozen: which edges keep their numbers in every fit, (E,), a buffer that `state_dict` leaves out.
    """

    inputs: Tensor
    outputs_of: Tensor
    frozen: Tensor

    def __init__(self, outputs: int, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.outputs = outputs
        self.symbols: tuple[Symbol, ...] = ()
        for name in ("inputs", "outputs_of"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.long))
        self.register_buffer("frozen", torch.zeros(0, dtype=torch.bool), persistent=False)
        self.affine = nn.Parameter(torch.zeros(0, 4, dtype=dtype))

    def __len__(self) -> int:
        return len(self.symbols)

    def find(self, input: int, output: int) -> int | None:
        """The number of an edge here, or None."""
        rows = ((self.inputs == input) & (self.outputs_of == output)).nonzero()
        return int(rows[0]) if len(rows) else None

    @torch.no_grad()
    def add(self, input: int, output: int, symbol: Symbol, affine: Sequence[float], *, trainable: bool = True) -> None:
        """Add an edge; one that is a formula already gets the new one."""
        self.keep((self.inputs != input) | (self.outputs_of != output))
        self.replace(
            (*self.symbols, symbol),
            torch.cat([self.inputs, self.inputs.new_tensor([input])]),
            torch.cat([self.outputs_of, self.inputs.new_tensor([output])]),
            torch.cat([self.affine, self.affine.new_tensor([affine])]),
            torch.cat([self.frozen, self.frozen.new_tensor([not trainable])]),
        )

    @torch.no_grad()
    def keep(self, chosen: Tensor) -> None:
        """Keep the chosen edges, a mask (E,)."""
        symbols = tuple(symbol for symbol, stays in zip(self.symbols, chosen.tolist(), strict=True) if stays)
        self.replace(symbols, self.inputs[chosen], self.outputs_of[chosen], self.affine[chosen], self.frozen[chosen])

    def replace(
        self, symbols: tuple[Symbol, ...], inputs: Tensor, outputs_of: Tensor, affine: Tensor, frozen: Tensor
    ) -> None:
        """Replace all edges."""
        self.symbols, self.inputs, self.outputs_of, self.frozen = symbols, inputs, outputs_of, frozen
        self.affine = nn.Parameter(affine.detach().clone(), requires_grad=self.affine.requires_grad)

    def renumber(self, inputs: Tensor | None = None, outputs: Tensor | None = None) -> None:
        """Follow a layer that keeps some inputs or outputs (masks), all used here among them."""
        if inputs is not None:
            self.inputs = (inputs.cumsum(0) - 1)[self.inputs]
        if outputs is not None:
            self.outputs_of, self.outputs = (outputs.cumsum(0) - 1)[self.outputs_of], int(outputs.sum())

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) to the sums at the nodes, (..., O)."""
        total = x.new_zeros(*x.shape[:-1], self.outputs)
        return total.index_add(-1, self.outputs_of, self.values(x)) if len(self) else total

    def values(self, x: Tensor) -> Tensor:
        """Every edge, (..., E); NaN where a·x + b lies outside f's domain."""
        return self._columns(x, lambda symbol, z, a, b, c, d, x: c * symbol_values(symbol, z) + d)

    def slopes(self, x: Tensor) -> Tensor:
        """Derivative of every edge by its input, (..., E)."""
        return self._columns(x, lambda symbol, z, a, b, c, d, x: c * a * symbol.slope(z, symbol_values(symbol, z)))

    def partials(self, x: Tensor) -> Tensor:
        """Derivatives of every edge by a, b, c and d, (..., E, 4)."""

        def of_one(symbol: Symbol, z: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, x: Tensor) -> Tensor:
            f = symbol_values(symbol, z)
            slope = c * symbol.slope(z, f)
            return torch.stack([slope * x, slope, f, torch.ones_like(f)], dim=-1)

        return self._columns(x, of_one, dim=-2)

    def _columns(self, x: Tensor, of_one: Callable[..., Tensor], dim: int = -1) -> Tensor:
        columns = []
        for symbol, i, (a, b, c, d) in zip(self.symbols, self.inputs.tolist(), self.affine, strict=True):
            z = a * x[..., i] + b
            if not symbol.branches:
                z = torch.where((z > symbol.domain[0]) & (z < symbol.domain[1]), z, torch.nan)
            columns.append(of_one(symbol, z, a, b, c, d, x[..., i]))
        return torch.stack(columns, dim=dim)

    def edges(self) -> Iterator[tuple[int, int, Symbol, Tensor]]:
        """Input, output, f and (a, b, c, d) of every edge."""
        return zip(self.inputs.tolist(), self.outputs_of.tolist(), self.symbols, self.affine.detach(), strict=True)

    def extra_repr(self) -> str:
        return ", ".join(f"{i}->{o}: {symbol.name}" for i, o, symbol, _ in self.edges())


def check_edge(model: KAN, edge: EdgeLike) -> Edge:
    """Check that an edge exists, and return it.

    Raises:
        SlotError: it does not.
        ConfigError: `edge` is not an `Edge` or three integers.
    """
    numbers = (edge.layer, edge.input, edge.output) if isinstance(edge, Edge) else edge
    if not isinstance(numbers, tuple) or len(numbers) != 3 or not all(isinstance(n, Integral) for n in numbers):
        raise ConfigError(f"An edge is Edge(layer, input, output) or such a tuple of integers, got {edge!r:.120}.")
    edge = Edge(*map(int, numbers))
    if not 0 <= edge.layer < len(model.layers):
        raise SlotError(f"There is no layer {edge.layer}: choose from 0 to {len(model.layers) - 1}.")
    edges = model.alive[edge.layer].nonzero().tolist()
    if [edge.input, edge.output] not in edges:
        known = ", ".join(f"{i} -> {o}" for i, o in edges[:8])
        raise SlotError(f"The edge {edge} is not there, or was pruned. Layer {edge.layer} has: {known}.")
    return edge


def cut_edges(model: KAN, index: int, gone_IO: Tensor) -> None:
    """Remove edges of a layer and what they add to its outputs, in place."""
    clear_edges(model.layers[index], gone_IO)
    formulas = model.formulas[index]
    formulas.keep(~gone_IO[formulas.inputs, formulas.outputs_of])
    model.alive[index].masked_fill_(gone_IO, False)


@torch.no_grad()
def clear_edges(layer: KANLinear, gone_IO: Tensor) -> None:
    """Set curves of a layer to zero, in place."""
    layer.weight[gone_IO.mT] = 0
    layer.coefficients.transpose(1, 2)[gone_IO] = 0


def only_edge(model: KAN, edge: Edge) -> Tensor:
    """A mask (I, O) of the edges of a layer, with this one alone."""
    mask_IO = torch.zeros_like(model.alive[edge.layer])
    mask_IO[edge.input, edge.output] = True
    return mask_IO
