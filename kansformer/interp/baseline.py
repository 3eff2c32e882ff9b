"""Random edges like those of a slot: what formulas make of them says how little their R² means.

Shape letters: E edges, S sample points, I inputs, O outputs, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kansformer.conversion.slots import CurveSlot
from kansformer.interp.edge_features import edge_features, edge_weights

MOST_CURVES, MOST_INPUTS, MOST_OUTPUTS = 2048, 64, 32
SEED = 0


class RandomEdges:
    """At most 2,048 edges with the bases of edges of a slot, drawn at random, and random learned curves.

    The coefficients are drawn with the mean square of those edges' own.

    Args:
        place: the slot.

    Attributes:
        inputs: the channels that the edges belong to, (I,), each with O edges.
    """

    @torch.no_grad()
    def __init__(self, place: CurveSlot) -> None:
        generator = torch.Generator().manual_seed(SEED)
        module, device = place.module, place.module.coefficients.device
        most_inputs, most_outputs = (MOST_INPUTS, MOST_OUTPUTS) if place.has_weights else (MOST_CURVES, 1)
        self.inputs = torch.randperm(module.in_features, generator=generator)[:most_inputs]
        outputs = torch.randperm(place.num_outputs, generator=generator)[:most_outputs]
        self._module = module
        self._weights_IOF = edge_weights(module, self.inputs.to(device), outputs.to(device)).cpu().double()
        learned = self._weights_IOF[..., 1:]
        drawn = torch.randn(learned.shape, generator=generator, dtype=learned.dtype)
        self._weights_IOF[..., 1:] = drawn * learned.square().mean(-1, keepdim=True).sqrt()

    @torch.no_grad()
    def at(self, x_IS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points, values and learned values, each (E, S), from points for every input of the slot."""
        x_IS = x_IS[self.inputs]
        device = self._module.coefficients.device
        features_ISF = edge_features(self._module, x_IS.mT.to(device), self.inputs.to(device)).transpose(0, 1).cpu()
        learned_IOS = self._weights_IOF[..., 1:] @ features_ISF[..., 1:].mT
        y_IOS = self._weights_IOF[..., :1] @ features_ISF[..., :1].mT + learned_IOS
        x_ES = x_IS.repeat_interleave(self._weights_IOF.shape[1], dim=0)
        return x_ES, y_IOS.flatten(0, 1), learned_IOS.flatten(0, 1)
