"""Fidelity of formulas to the model: at recorded inputs, and beyond what the bases explain by themselves.

An even grid over the whole range counts rare inputs as much as common ones, and where a base is a known function and
the learned curve small, every formula of the base looks good. So formulas are also judged at recorded inputs, once by
the variance of the edge and once by that of its learned curve alone.

Shape letters: E edges, S sample points, I inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kansformer.interp.recording import RecordedSlot
from kansformer.symbolic import SymbolicFits

# A learned curve that varies less than this, relative to its edge, is straight to rounding.
STRAIGHT = 1e-6
MIN_R2 = -1.0


@dataclass(frozen=True)
class Fidelity:
    """R² of formulas at recorded inputs, not below -1.

    Args:
        r2: share of the edge's variance there that the formula explains, (E,).
        r2_learned: share of the learned curve's variance that the formula explains beyond the base, a constant apart,
            (E,); 0 if it explains no more than the base alone.
        varies: whether the edge varies there at all, (E,); where it does not, the others have no meaning.
    """

    r2: Tensor
    r2_learned: Tensor
    varies: Tensor

    @classmethod
    def cat(cls, parts: Sequence[Fidelity]) -> Fidelity:
        """One table from several."""
        columns = zip(*((part.r2, part.r2_learned, part.varies) for part in parts), strict=True)
        return cls(*map(torch.cat, columns))


def recorded_points(recorded: RecordedSlot, points: int) -> Tensor:
    """Inputs of the sample at even ranks, so that each stands for the same share of the tokens; (I, S), float64."""
    sample_IS = recorded.sample.double().mT.sort(dim=1).values
    ranks = (torch.arange(points) + 0.5) * sample_IS.shape[1] / points
    return sample_IS[:, ranks.long()]


def fidelity(fits: SymbolicFits, x_ES: Tensor, y_ES: Tensor, learned_ES: Tensor, *, part: str = "edge") -> Fidelity:
    """Judge formulas of edges, or of their learned curves (`part`), by both at points."""
    y_ES, learned_ES = y_ES.double(), learned_ES.double()
    fitted_ES = y_ES if part == "edge" else learned_ES
    error_ES = fits.evaluate(x_ES.double()) - fitted_ES
    spread, learned_spread = _spread(y_ES), _spread(learned_ES)
    rounding = STRAIGHT**2 * y_ES.square().sum(-1) + torch.finfo(torch.float64).tiny
    return Fidelity(
        (1 - error_ES.square().sum(-1) / torch.maximum(spread, rounding)).nan_to_num(MIN_R2).clamp(min=MIN_R2),
        (1 - _spread(error_ES) / torch.maximum(learned_spread, rounding)).nan_to_num(MIN_R2).clamp(min=MIN_R2),
        spread > rounding,
    )


def _spread(values_ES: Tensor) -> Tensor:
    return (values_ES - values_ES.mean(-1, keepdim=True)).square().sum(-1)
