"""Fidelity of formulas to the model: at recorded inputs, beyond what the bases explain, and beside random curves.

An even grid over the whole range counts rare inputs as much as common ones, and where a base is a known function and
the learned curve small, every formula of the base looks good. So formulas are also judged at recorded inputs, once by
the variance of the edge and once by that of its learned curve alone. How well formulas fit random curves says how
little an R² means.

Shape letters: E edges, S sample points, I inputs, O outputs, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kansformer.conversion.slots import CurveSlot
from kansformer.interp.edge_features import ALL, edge_features, edge_weights, random_coefficients, values_and_learned
from kansformer.interp.recording import RecordedSlot
from kansformer.symbolic import SymbolicFits

# A learned curve that varies less than this, relative to its edge, is straight to rounding.
STRAIGHT = 1e-6
MIN_R2 = -1.0
# Of the random edges.
MAX_CURVES, MAX_INPUTS, MAX_OUTPUTS = 2048, 64, 32
SEED = 0


@dataclass(frozen=True)
class Fidelity:
    """R² of formulas at recorded inputs, not below -1.

    Args:
        r2: share of the edge's variance there that the formula explains, (E,).
        r2_learned: share of the learned curve's variance that the formula explains beyond the base, a constant apart,
            (E,); 0 if it explains no more than the base alone.
        varies: whether the edge varies there at all, (E,); where it does not, the others have no meaning.
        bends: whether the learned curve varies there by more than rounding, (E,); where it does not, as where it was
            never trained, `r2_learned` has no meaning.
    """

    r2: Tensor
    r2_learned: Tensor
    varies: Tensor
    bends: Tensor


def recorded_points(recorded: RecordedSlot, points: int, inputs: slice = ALL) -> Tensor:
    """Inputs of the sample at even ranks, so that each stands for the same share of the tokens; (I, S), float64."""
    ranks = ((torch.arange(points) + 0.5) * len(recorded.sample) / points).long()
    rows = recorded.sample[:, inputs].mT.contiguous().numpy()
    return torch.from_numpy(np.sort(rows, axis=1))[:, ranks].double()  # torch's sort takes twenty times as long


def fidelity(fits: SymbolicFits, x_ES: Tensor, y_ES: Tensor, learned_ES: Tensor, *, part: str = "edge") -> Fidelity:
    """Judge formulas of edges, or of their learned curves (`part`), by both at points."""
    y_ES, learned_ES = y_ES.double(), learned_ES.double()
    fitted_ES = y_ES if part == "edge" else learned_ES
    error_ES = fits.evaluate(x_ES.double()) - fitted_ES
    rounding_E = STRAIGHT**2 * y_ES.square().sum(-1) + torch.finfo(torch.float64).tiny

    def r2(error_E: Tensor, spread_E: Tensor) -> Tensor:
        return (1 - error_E / torch.maximum(spread_E, rounding_E)).nan_to_num(MIN_R2).clamp(min=MIN_R2)

    spread_E = _spread(y_ES)
    learned_spread_E = _spread(learned_ES)
    r2_learned = r2(_spread(error_ES), learned_spread_E)
    bends = learned_spread_E > rounding_E
    return Fidelity(r2(error_ES.square().sum(-1), spread_E), r2_learned, spread_E > rounding_E, bends)


def _spread(values_ES: Tensor) -> Tensor:
    return (values_ES - values_ES.mean(-1, keepdim=True)).square().sum(-1)


class RandomEdges:
    """At most 2,048 edges of a slot, drawn at random, with random learned curves whose mean square is their own."""

    @torch.no_grad()
    def __init__(self, slot: CurveSlot) -> None:
        generator = torch.Generator().manual_seed(SEED)
        self._module = slot.module
        max_inputs, max_outputs = (MAX_INPUTS, MAX_OUTPUTS) if slot.has_weights else (MAX_CURVES, 1)
        self._inputs = torch.randperm(self._module.in_features, generator=generator)[:max_inputs]
        outputs = torch.randperm(slot.num_outputs, generator=generator)[:max_outputs]
        device = self._module.coefficients.device
        self._weights_IOF = edge_weights(slot, self._inputs.to(device), outputs.to(device)).cpu().double()
        self._weights_IOF[..., 1:] = random_coefficients(self._weights_IOF[..., 1:], generator)

    @torch.no_grad()
    def at(self, x_IS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points, values and learned values, each (E, S), from points for every input of the slot."""
        x_IS, device = x_IS[self._inputs], self._module.coefficients.device
        features_SIF = edge_features(self._module, x_IS.mT.to(device), self._inputs.to(device))
        y_IOS, learned_IOS = values_and_learned(self._weights_IOF, features_SIF.transpose(0, 1).cpu())
        x_ES = x_IS.repeat_interleave(self._weights_IOF.shape[1], dim=0)
        return x_ES, y_IOS.flatten(0, 1), learned_IOS.flatten(0, 1)
