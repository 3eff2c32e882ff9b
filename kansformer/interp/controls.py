"""Controls of an edit: the same edges at their base alone, or with random curves, and a random choice of as many.

What a control keeps too says nothing about the edit: an edge whose learned curve is small is kept by any formula.

Shape letters: N tokens, E edges, F features.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kansformer.checks import check_seed
from kansformer.conversion.slots import CurveSlot, EdgeRef, find_curve_slot
from kansformer.interp.edge_features import edge_bases, pair_weights, random_coefficients, weighted_values
from kansformer.interp.edits import Function, replace_edges
from kansformer.interp.scores import EdgeScores


def base_alone(model: nn.Module, edges: Sequence[EdgeRef]) -> AbstractContextManager[nn.Module]:
    """The model with edges at their base, without what was learned, for the length of the context.

    Raises:
        SlotError: an edge does not exist.
    """

    def bases(slot: CurveSlot, inputs: Tensor, outputs: Tensor) -> Function:
        return lambda x_EN: edge_bases(slot, x_EN.mT, inputs.to(x_EN.device), outputs.to(x_EN.device)).mT

    return replace_edges(model, list(edges), bases)


def random_curves(model: nn.Module, edges: Sequence[EdgeRef], *, seed: int = 0) -> AbstractContextManager[nn.Module]:
    """The model with random learned curves of equal size around the bases of edges, for the length of the context.

    The coefficients of an edge are drawn from a normal distribution with the mean square of its own.

    Raises:
        SlotError: an edge does not exist.
    """
    check_seed(seed)

    def drawn(slot: CurveSlot, inputs: Tensor, outputs: Tensor) -> Function:
        device = slot.module.coefficients.device
        inputs, outputs = inputs.to(device), outputs.to(device)
        weights_EF = pair_weights(slot, inputs, outputs).detach().clone()
        weights_EF[:, 1:] = random_coefficients(weights_EF[:, 1:], torch.Generator().manual_seed(seed))
        return lambda x_EN: weighted_values(slot.module, x_EN.mT, inputs, weights_EF).mT

    return replace_edges(model, list(edges), drawn)


def random_edges(model: nn.Module, edges: Sequence[EdgeRef], *, seed: int = 0) -> list[EdgeRef]:
    """As many edges of each slot as in a list, drawn at random: a control of `ablate`.

    Raises:
        SlotError: a slot does not exist.
    """
    generator = torch.Generator().manual_seed(check_seed(seed))
    counts: dict[tuple[str, str], int] = {}
    for ref in dict.fromkeys(edges):
        counts[ref.site, ref.slot] = counts.get((ref.site, ref.slot), 0) + 1
    chosen = []
    for (site, name), count in counts.items():
        slot = find_curve_slot(model, site, name)
        for number in torch.randperm(slot.num_edges, generator=generator)[:count].tolist():
            edge_input, output = divmod(number, slot.num_outputs)
            chosen.append(EdgeRef(site, name, edge_input, output if slot.has_weights else edge_input))
    return chosen


def random_scores(scores: Mapping[tuple[str, str], EdgeScores], *, seed: int = 0) -> dict[tuple[str, str], EdgeScores]:
    """Scores drawn at random in the place of a model's: `prune` by them straightens as many curves, any of them.

    Curves of channels and groups have one number each, shared out among their edges. Of low-rank edges small components
    still go first, since `prune` shares an edge's score out by their size.
    """
    generator = torch.Generator().manual_seed(check_seed(seed))

    def draw(slot: CurveSlot, values_IO: Tensor) -> Tensor:
        if not slot.module.curves.is_per_channel:
            return torch.rand(values_IO.shape, generator=generator, dtype=torch.float64)
        curves = len(slot.module.coefficients)
        edges = values_IO.numel() // curves
        drawn_P = torch.rand(curves, generator=generator, dtype=torch.float64) / edges
        return drawn_P.repeat_interleave(edges).reshape(values_IO.shape)

    result = {}
    for key, of_slot in scores.items():
        drawn: dict[str, Any] = {name: draw(of_slot.slot, values) for name, values in of_slot.columns().items()}
        result[key] = replace(of_slot, **drawn)
    return result
