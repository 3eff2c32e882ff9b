"""Which of several fits is told: one that is close, and no more complicated than it has to be.

A description length in bits per point (Rissanen, 1978): the residual costs log2(1 - R² + floor) / 2, each of k fitted
parameters log2(S) / 2S at S points, and every unit of complexity `SIMPLICITY`. The floor keeps residuals below the
rounding of the data from deciding.
"""

import math

import torch
from torch import Tensor

from kansformer.symbolic.symbol import SymbolLibrary

SIMPLICITY = 0.05
FLOORS = {torch.float32: 1e-11, torch.float64: 1e-13}


def costs(r2_FE: Tensor, library: SymbolLibrary, points: int, simplicity: float, floor: float) -> Tensor:
    """Bits per point of every fit, (F, E); the smallest is chosen.

    Args:
        r2_FE: R² on the points of the fit; -1 for what was not fitted.
        library: the functions.
        points: S, those of the fit.
        simplicity: bits per point that a unit of complexity costs.
        floor: smallest 1 - R² that means something.
    """
    per_parameter = 0.5 * math.log2(points) / points
    prices = [simplicity * s.complexity + per_parameter * (s.fit_scale + s.fit_shift) for s in library]
    bits = 0.5 * torch.log2((1 - r2_FE).clamp(min=0) + floor) + torch.tensor(prices, dtype=r2_FE.dtype)[:, None]
    return bits.masked_fill(r2_FE < 0, torch.inf)
