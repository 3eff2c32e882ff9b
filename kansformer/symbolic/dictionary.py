"""The coarse search: every curve against thousands of candidate functions, in one matrix product.

With centred curves and candidates of length 1, the R² of the best c·f + d is the squared scalar product. Where a
function has a partner, both are made orthogonal and the squares add up.

Shape letters: E edges, S sample points, F functions, A candidates, P pairs of a curve and a function.
"""

from functools import lru_cache

import torch
from torch import Tensor

from kansformer.errors import ConfigError
from kansformer.ops.backend import runs_kernels
from kansformer.ops.native.symbols import search_candidates
from kansformer.symbolic.symbol import Symbol, SymbolLibrary, symbol_values

# Rows that vary less than this, relative to their size, are constants to rounding: candidates, and curves in float32.
MIN_VARIATION, MIN_VARIATION_FLOAT64 = 1e-6, 1e-12
# Curves that are multiplied at once: their products fit the cache.
CHUNK = 256
# Candidates are kept for grids of points that agree to this number of decimals; they are only where a search begins.
DECIMALS = 9


class Dictionary:
    """The candidates of a library on one grid of points.

    Args:
        library: the functions.
        u_S: points in [-1, 1], float64.

    Raises:
        ConfigError: a function has no finite candidate that varies on these points.
    """

    def __init__(self, library: SymbolLibrary, u_S: Tensor) -> None:
        self.library = library
        points = tuple(u_S.double().round(decimals=DECIMALS).tolist())
        pairs, atoms, steps = zip(*(_atoms_of(symbol, points) for symbol in library), strict=True)
        self.steps = [number for number, is_step in enumerate(steps) if is_step]
        """Numbers of the functions that are flat but for jumps, which are placed between points and not refined."""
        self._pairs: tuple[Tensor, ...] = pairs
        self._sizes = [len(block) for block in atoms]
        self._atoms_AS = torch.cat(atoms)

    def candidates(self) -> tuple[Tensor, Tensor, Tensor]:
        """All candidates without partners' ones, (A, S), their pairs (a, b), and the functions' numbers, (A,)."""
        blocks = [
            block[: len(pairs)] for pairs, block in zip(self._pairs, self._atoms_AS.split(self._sizes), strict=True)
        ]
        numbers = [torch.full((len(pairs),), number) for number, pairs in enumerate(self._pairs)]
        return torch.cat(blocks), torch.cat(self._pairs), torch.cat(numbers)

    def search(self, y_ES: Tensor) -> "Closest":
        """The best candidate of every function for every curve; curves centred and of length 1, float32."""
        if runs_kernels():
            has_partner = [symbol.partner is not None for symbol in self.library]
            return Closest(self, y_ES, *search_candidates(y_ES, self._atoms_AS, self._sizes, has_partner))
        return Closest(self, y_ES, torch.cat([self.best_r2(part) for part in y_ES.split(CHUNK)], dim=1), None)

    def best_r2(self, y_ES: Tensor) -> Tensor:
        """R² of the best candidate of every function for every curve, (F, E); curves centred and of length 1."""
        products_AE = self._atoms_AS @ y_ES.mT
        return torch.stack(list(map(_best, self.library, products_AE.split(self._sizes))))

    def start(self, function: int, y_ES: Tensor) -> tuple[Tensor, Tensor]:
        """a and b of the best candidate of one function for every curve, (E,) each."""
        squares_EA = (y_ES @ self._atoms_AS.split(self._sizes)[function].mT).square_()
        a, b = self._pairs[function][_by_pair(self.library[function], squares_EA.mT).mT.argmax(dim=1)].unbind(-1)
        return a, b


class Closest:
    """The best candidates of a `Dictionary` for curves.

    Args:
        dictionary: that was searched.
        y_ES: the curves.
        r2_FE: R² of the best candidate of every function.
        best_FE: its number among those of the function; None where it is looked for when asked.
    """

    def __init__(self, dictionary: Dictionary, y_ES: Tensor, r2_FE: Tensor, best_FE: Tensor | None) -> None:
        self.dictionary, self.y_ES, self.r2_FE, self.best_FE = dictionary, y_ES, r2_FE, best_FE

    def start(self, function_P: Tensor, row_P: Tensor) -> Tensor:
        """a and b of the best candidates of pairs of a function and a curve, sorted by functions; (2, P), float64."""
        pairs = self.dictionary._pairs
        if self.best_FE is not None:
            first_F = torch.tensor([0, *map(len, pairs[:-1])]).cumsum(0)
            return torch.cat(pairs)[first_F[function_P] + self.best_FE[function_P, row_P]].mT
        counts = function_P.bincount(minlength=len(pairs)).tolist()
        starts = [self.dictionary.start(f, self.y_ES[rows]) for f, rows in enumerate(row_P.split(counts)) if len(rows)]
        return torch.cat([torch.stack(start) for start in starts], dim=1)


def _best(symbol: Symbol, products_AE: Tensor) -> Tensor:
    if symbol.partner is not None:
        return _by_pair(symbol, products_AE.square()).amax(dim=0)
    # An index beside the maximum would take ten times as long.
    return torch.maximum(products_AE.amax(dim=0), -products_AE.amin(dim=0)).square()


def _by_pair(symbol: Symbol, squares_AE: Tensor) -> Tensor:
    """Explained squares of every pair (a, b): with a partner, of the two candidates that belong together."""
    if symbol.partner is None:
        return squares_AE
    half = len(squares_AE) // 2
    return squares_AE[:half] + squares_AE[half:]


@lru_cache(maxsize=256)
def _atoms_of(symbol: Symbol, points: tuple[float, ...]) -> tuple[Tensor, Tensor, bool]:
    """Pairs (a, b); their candidates, then those of the partner if there is one, in float32; and if f is a step."""
    u_S = torch.tensor(points, dtype=torch.float64)
    pairs = symbol.candidates().to(torch.float64)
    z_AS = pairs[:, :1] * u_S + pairs[:, 1:]
    is_step = not (symbol.fit_scale or symbol.fit_shift or symbol.slope(z_AS, symbol_values(symbol, z_AS)).any())
    if is_step:  # a jump at 0, between every two points
        between_S = (u_S[1:] + u_S[:-1]) / 2
        pairs = torch.cat([pairs, torch.stack([torch.ones_like(between_S), -between_S], dim=-1)])
        z_AS = pairs[:, :1] * u_S + pairs[:, 1:]
    inside = ((z_AS > symbol.domain[0]) & (z_AS < symbol.domain[1])).all(-1)
    atoms, varies = normalised(symbol_values(symbol, z_AS))
    usable = inside & varies
    if not usable.any():
        raise ConfigError(f"The function {symbol.name!r} is not finite, or does not vary, for any of its candidates.")
    if symbol.partner is None:
        return pairs[usable], atoms[usable].float(), is_step
    partner = symbol.partner.function(z_AS[usable])
    partner = partner - partner.mean(-1, keepdim=True)
    along = (partner * atoms[usable]).sum(-1, keepdim=True)
    partners, _ = normalised(partner - along * atoms[usable])
    return pairs[usable], torch.cat([atoms[usable], partners]).float(), is_step


def normalised(values: Tensor, min_variation: float = MIN_VARIATION) -> tuple[Tensor, Tensor]:
    """Rows of mean 0 and length 1, and which of them are finite and vary; the others have no meaning."""
    centred = values - values.mean(-1, keepdim=True)
    length = centred.norm(dim=-1, keepdim=True)
    varies = length[:, 0].isfinite() & (length[:, 0] > min_variation * values.norm(dim=-1))
    return centred / length, varies
