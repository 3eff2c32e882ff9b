"""Random edges like those of a slot: how well formulas fit them says how little an R² means.

Shape letters: E edges, S sample points, I inputs, O outputs, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kansformer.conversion.slots import CurveSlot
from kansformer.interp.edge_features import edge_features, edge_weights, values_and_learned

MAX_CURVES, MAX_INPUTS, MAX_OUTPUTS = 2048, 64, 32
SEED = 0


class RandomEdges:
    """At most 2,048 edges with the bases of edges of a slot, drawn at random, and random learned curves.

    The coefficients are drawn with the mean square of those edges' own.

    Args:
        slot: the slot.

    Attributes:
        inputs: the channels that the edges belong to, (I,), each with O edges.
    """

    @torch.no_grad()
    def __init__(self, slot: CurveSlot) -> None:
        generator = torch.Generator().manual_seed(SEED)
        self._module = slot.module
        self._device = self._module.coefficients.device
        max_inputs, max_outputs = (MAX_INPUTS, MAX_OUTPUTS) if slot.has_weights else (MAX_CURVES, 1)
        self.inputs = torch.randperm(self._module.in_features, generator=generator)[:max_inputs]
        outputs = torch.randperm(slot.num_outputs, generator=generator)[:max_outputs]
        weights_IOF = edge_weights(self._module, self.inputs.to(self._device), outputs.to(self._device))
        self._weights_IOF = weights_IOF.cpu().double()
        learned = self._weights_IOF[..., 1:]
        drawn = torch.randn(learned.shape, generator=generator, dtype=learned.dtype)
        self._weights_IOF[..., 1:] = drawn * learned.square().mean(-1, keepdim=True).sqrt()

    @torch.no_grad()
    def at(self, x_IS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points, values and learned values, each (E, S), from points for every input of the slot."""
        x_IS = x_IS[self.inputs]
        features_SIF = edge_features(self._module, x_IS.mT.to(self._device), self.inputs.to(self._device))
        y_IOS, learned_IOS = values_and_learned(self._weights_IOF, features_SIF.transpose(0, 1).cpu())
        x_ES = x_IS.repeat_interleave(self._weights_IOF.shape[1], dim=0)
        return x_ES, y_IOS.flatten(0, 1), learned_IOS.flatten(0, 1)
