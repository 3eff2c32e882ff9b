"""The coarse search: every curve against thousands of candidate functions, in one matrix product.

With centred curves and candidates of length 1, the R² of the best c·f + d is the squared scalar product. Where a
function has a partner, both are made orthogonal and the squares add up.

Shape letters: E edges, S sample points, F functions, A candidates.
"""

import torch
from torch import Tensor

from kansformer.errors import ConfigError
from kansformer.symbolic.symbol import Symbol, SymbolLibrary

# Candidates that vary less than this, relative to their size, are constants to rounding.
SMALLEST_VARIATION = 1e-6


class Dictionary:
    """The candidates of a library on one grid of points.

    Args:
        library: the functions.
        u_S: points in [-1, 1], float64.
        dtype: of the products.

    Raises:
        ConfigError: a function has no finite candidate that varies on these points.
    """

    def __init__(self, library: SymbolLibrary, u_S: Tensor, dtype: torch.dtype) -> None:
        self.library = library
        atoms: list[Tensor] = []
        self._slices: list[slice] = []
        self._pairs: list[Tensor] = []
        start = 0
        for symbol in library:
            pairs, blocks = _atoms_of(symbol, u_S)
            stop = start + sum(len(block) for block in blocks)
            self._slices.append(slice(start, stop))
            self._pairs.append(pairs)
            atoms += blocks
            start = stop
        self._atoms_AS = torch.cat(atoms).to(dtype)

    def best(self, y_ES: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best candidate of every function for every curve.

        Args:
            y_ES: centred curves of length 1.

        Returns:
            a, b and R², each (F, E).
        """
        products_AE = self._atoms_AS @ y_ES.mT
        fits = [
            _best_of(symbol, pairs, products_AE[rows])
            for symbol, pairs, rows in zip(self.library, self._pairs, self._slices, strict=True)
        ]
        a, b, r2 = zip(*fits, strict=True)
        return torch.stack(a), torch.stack(b), torch.stack(r2)


def _best_of(symbol: Symbol, pairs: Tensor, products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count = len(pairs)
    squares = products.square()
    if symbol.partner is not None:
        squares = squares[:count] + squares[count:]
    r2, index = squares.max(dim=0) if count > 1 else (squares[0], products.new_zeros(products.shape[1]).long())
    a, b = pairs[index].unbind(-1)
    return a, b, r2


def _atoms_of(symbol: Symbol, u_S: Tensor) -> tuple[Tensor, list[Tensor]]:
    pairs = symbol.candidates().to(torch.float64)
    z_AS = pairs[:, :1] * u_S + pairs[:, 1:]
    inside = ((z_AS > symbol.domain[0]) & (z_AS < symbol.domain[1])).all(-1)
    atoms, varies = _unit(symbol.function(z_AS))
    usable = inside & varies
    if not usable.any():
        raise ConfigError(f"The function {symbol.name!r} is not finite, or does not vary, for any of its candidates.")
    if symbol.partner is None:
        return pairs[usable], [atoms[usable]]
    partner = symbol.partner.function(z_AS[usable])
    partner = partner - partner.mean(-1, keepdim=True)
    along = (partner * atoms[usable]).sum(-1, keepdim=True)
    partners, _ = _unit(partner - along * atoms[usable])
    return pairs[usable], [atoms[usable], partners]


def _unit(values: Tensor) -> tuple[Tensor, Tensor]:
    centred = values - values.mean(-1, keepdim=True)
    length = centred.norm(dim=-1, keepdim=True)
    varies = values.isfinite().all(-1) & (length[:, 0] > SMALLEST_VARIATION * values.norm(dim=-1))
    return centred / length, varies
