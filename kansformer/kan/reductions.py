"""Two combinations of the inputs that a target, times powers of inputs, depends on: y·factor = F(u, v).

Laws of nature do not know units, so that few combinations of their variables matter (Buckingham, 1914). For all pairs
of inputs, differences, sums, products and ratios, F is one linear fit by products of splines.

Shape letters: N samples, I inputs, R factors, C coefficients.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import sympy
import torch
from torch import Tensor

from kansformer.kan.linear_fits import coefficients, products
from kansformer.kan.structures import (
    RECIPROCALS,
    Column,
    Splines,
    combinations,
    power_factors,
    sampled,
)
from kansformer.symbolic import SymbolLibrary

# Samples that are looked at, grids of the first fits and of the second ones, whose one axis is fine, and pairs that
# get a second fit.
MAX_ROWS, COARSE, FINE, SECOND_FITS = 400, 2, 18, 120
MIN_INPUTS, MAX_INPUTS, RIDGE = 3, 6, 1e-6


@dataclass(frozen=True)
class Reduction:
    """y·factor = F(u, v).

    Args:
        columns: u and v.
        factor: by which the target is multiplied, of the inputs.
        error: RMSE of y, as by cross-validation (Golub et al., 1979), relative to its deviation.
    """

    columns: tuple[Column, Column]
    factor: Column
    error: float


def find_reductions(
    x: Tensor, y: Tensor, names: Sequence[str], library: SymbolLibrary, deadline: float
) -> list[Reduction]:
    """Reductions of inputs (N, I) and targets (N,), the best first; none of few or many inputs."""
    inputs, y = sampled(x, y, names, MAX_ROWS)
    if not MIN_INPUTS <= len(inputs) <= MAX_INPUTS or "x" not in library.names:
        return []
    columns = [*inputs, *combinations(list(itertools.combinations(inputs, 2)), library)]
    search = _Search(y, _factors(inputs, library))
    coarse_fits = [search.fit(pair, (COARSE, COARSE)) for pair in itertools.combinations(columns, 2)]
    result = list[Reduction]()
    for coarse in sorted(coarse_fits, key=lambda r: r.error)[:SECOND_FITS]:
        if time.monotonic() >= deadline:
            break
        fits = [search.fit(coarse.columns, grids) for grids in ((COARSE, FINE), (FINE, COARSE))]
        result.append(min(coarse, *fits, key=lambda r: r.error))
    return sorted(result, key=lambda r: r.error)


def _factors(inputs: Sequence[Column], library: SymbolLibrary) -> list[Column]:
    """1, powers of inputs, and products and ratios of two of them."""
    pairs = [
        Column(a.expression * b.expression, a.values * b.values, a.operations + b.operations)
        for a, b in itertools.combinations(power_factors(inputs, library, RECIPROCALS), 2)
        if a.expression.free_symbols != b.expression.free_symbols
    ]
    return [Column(sympy.Integer(1), torch.ones_like(inputs[0].values)), *power_factors(inputs, library), *pairs]


class _Search:
    """Fits of a target times all factors at once."""

    def __init__(self, y: Tensor, factors: Sequence[Column]) -> None:
        self.factors = factors
        self.factors_NR = torch.stack([factor.values for factor in factors], dim=1)
        self.y, self.target_NR = y.unsqueeze(-1), y.unsqueeze(-1) * self.factors_NR
        self.splines = {grid: Splines(grid) for grid in (COARSE, FINE)}
        self.deviation = float(y.std(correction=0)) or 1.0

    def fit(self, pair: tuple[Column, Column], grids: tuple[int, int]) -> Reduction:
        """The best factor for products of splines of two columns on grids of these sizes."""
        first, second = (self.splines[grid].design((column,)) for grid, column in zip(grids, pair, strict=True))
        basis_NC = products(first, second)
        fitted_NR = basis_NC @ coefficients(basis_NC, self.target_NR, RIDGE)
        error_R = (fitted_NR / self.factors_NR - self.y).square().mean(dim=0).sqrt() / self.deviation
        error_R = error_R * len(self.y) / max(len(self.y) - basis_NC.shape[1], 1)
        best = int(error_R.nan_to_num(torch.inf).argmin())
        return Reduction(pair, self.factors[best], float(error_R[best]))
