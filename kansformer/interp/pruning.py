"""Straighten the least important curves, and remove straight curves from the model.

Shape letters: I inputs, O outputs, P curves of the input axis, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kansformer.conversion.channels import converted_sites, keep_channels, sites_with_same_channels
from kansformer.conversion.convert import drop_slots
from kansformer.conversion.narrow import with_hidden
from kansformer.conversion.record import narrowed_paths
from kansformer.conversion.replace import largest, measure_channels
from kansformer.conversion.slots import CurveSlot, find_curve_slots
from kansformer.errors import ConfigError, DataError
from kansformer.interp.edits import check_same_grid
from kansformer.interp.scores import EdgeScores
from kansformer.nn.curve_checks import check_not_fixed, check_not_shared
from kansformer.nn.curves import Curved
from kansformer.sites import Site

if TYPE_CHECKING:
    import pandas


@dataclass
class PruneResult:
    """The result of `prune`; `undo()` reverts it.

    Args:
        straightened: learned curves that are zero now and were not before.
        curves: learned curves of the model.
        threshold: the highest score that was straightened.

    Examples:
        >>> from kansformer import KANLinear
        >>> from kansformer.interp import edge_scores, prune
        >>> model = torch.nn.Sequential(KANLinear(4, 3))
        >>> scores = edge_scores(model, {"input": torch.randn(64, 4)}, attribution=False)
        >>> result = prune(model, scores, sparsity=0.25, by="learned_variance")
        >>> result.straightened, result.curves
        (3, 12)
        >>> result.undo()
    """

    straightened: int
    curves: int
    threshold: float
    _before: list[tuple[Curved, nn.Parameter, Tensor, Tensor, Tensor]]

    @torch.no_grad()
    def undo(self) -> None:
        """Put the coefficients of the curves that were straightened back, to the bit; the others stay.

        Raises:
            DataError: a layer has another grid now, so the old coefficients mean nothing there; or a curve that was
                straightened was changed again. The model is left as it was.
        """
        for module, parameter, domain, _, straightened in self._before:
            check_same_grid(module, parameter, domain)
            if torch.where(straightened, parameter, 0.0).any():
                raise DataError("A curve that was straightened has been changed, so this cannot be undone any more.")
        self._put_back()

    def _put_back(self) -> None:
        for _, parameter, _, values, straightened in self._before:
            parameter.copy_(torch.where(straightened, values, parameter))
        self._before = []


@torch.no_grad()
def prune(
    model: nn.Module,
    scores: Mapping[tuple[str, str], EdgeScores],
    *,
    sparsity: float,
    by: str = "learned_attribution",
    whole_slots: bool = False,
) -> PruneResult:
    """Make the curves with the lowest scores straight, in place, everywhere in the model at once.

    The base of every edge stays, so an activation becomes the plain one again and an edge its weight. Curves that
    several edges share (`channel`, `group`, and the components of `low_rank`) have the sum of their edges' scores.

    Args:
        model: converted, or with KAN modules.
        scores: of `edge_scores`, for all of its slots.
        sparsity: share of the model's learned curves to straighten, from 0 to 1.
        by: `learned_attribution`, which follows the loss, or `learned_variance`, which needs no labels.
        whole_slots: straighten all curves of a slot or none, the slots with the lowest sums of scores first and no more
            curves than `sparsity` says; `drop_straight_curves` then makes the model smaller and faster.

    Returns:
        What was done, with `undo`.

    Raises:
        ConfigError: a setting is out of range, a slot has no such score, or the curves are fixed or shared by layers.

    Examples:
        >>> from kansformer import KANLinear
        >>> from kansformer.interp import edge_scores, prune
        >>> model = torch.nn.Sequential(KANLinear(4, 3))
        >>> scores = edge_scores(model, {"input": torch.randn(64, 4)}, attribution=False)
        >>> result = prune(model, scores, sparsity=0.5, by="learned_variance")
        >>> int(model[0].coefficients.any(dim=1).sum())  # learned curves that are left, of 12
        6
    """
    if not 0 <= sparsity <= 1:
        raise ConfigError(f"sparsity must be from 0 to 1, got {sparsity!r}.")
    if by not in ("learned_attribution", "learned_variance"):
        raise ConfigError(f"Unknown score {by!r}. Choose learned_attribution or learned_variance.")
    slots = find_curve_slots(model)
    check_not_fixed(model, "prune")
    check_not_shared({slot.path: slot.module for slot in slots}, "prune")
    per_curve = [_curve_scores(slot, scores, by) for slot in slots]
    count = sum(score.numel() for score in per_curve)
    straight = (_least_slots if whole_slots else _least_curves)(per_curve, round(sparsity * count))
    if not straight.any():
        return PruneResult(0, count, 0.0, [])
    threshold = float(torch.cat(per_curve)[straight].max())
    result = PruneResult(0, count, threshold, [])
    try:
        for slot, flags in zip(slots, straight.split([score.numel() for score in per_curve]), strict=True):
            coefficients = slot.module.coefficients  # (P, C), (I, C, O) or (I, C, R)
            flags = flags.reshape(coefficients[:, 0].shape).to(coefficients.device)
            result.straightened += int((coefficients.any(1) & flags).sum())
            before = (slot.module.domain.clone(), coefficients.detach().clone())
            result._before.append((slot.module, coefficients, *before, flags.unsqueeze(1)))
            coefficients.mul_(~flags.unsqueeze(1))
        return result
    except BaseException:
        result._put_back()
        raise


def sparsity_curve(
    model: nn.Module,
    scores: Mapping[tuple[str, str], EdgeScores],
    evaluate: Callable[[], float],
    *,
    levels: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0),
    by: str = "learned_attribution",
    whole_slots: bool = False,
) -> pandas.DataFrame:
    """The loss at several sparsities; the model is afterwards as it was.

    Args:
        model, scores, by, whole_slots: as in `prune`.
        evaluate: gives the model's loss as it is when called.
        levels: sparsities.

    Returns:
        One row per level: sparsity, straightened, loss.

    Raises:
        ConfigError: as `prune`; the model is as it was.

    Examples:
        >>> from kansformer import KANLinear
        >>> from kansformer.interp import edge_scores, sparsity_curve
        >>> model, x = torch.nn.Sequential(KANLinear(4, 3)), torch.randn(64, 4)
        >>> scores, before = edge_scores(model, {"input": x}, attribution=False), model(x)
        >>> loss = lambda: (model(x) - before).square().mean().item()
        >>> sparsity_curve(model, scores, loss, levels=[0, 0.5, 1], by="learned_variance")["straightened"].tolist()
        [0, 6, 12]
    """
    import pandas

    rows = []
    for level in levels:
        result = prune(model, scores, sparsity=level, by=by, whole_slots=whole_slots)
        try:
            rows.append({"sparsity": level, "straightened": result.straightened, "loss": evaluate()})
        finally:
            result.undo()
    return pandas.DataFrame(rows)


def drop_straight_curves(model: nn.Module) -> list[tuple[str, str]]:
    """Put the plain layers back into every slot whose curves are all straight, in place.

    The model computes the same, is smaller and faster, and saves as a converted model with fewer slots; with none
    left it is plain again. Of a model whose channels were pruned one slot stays, which its checkpoint needs.

    Args:
        model: converted.

    Returns:
        (site, slot) of the dropped curves.

    Raises:
        ConversionStateError: the model was not made by `convert`, or has adapters.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import convert
        >>> from kansformer.interp import drop_straight_curves
        >>> model = convert(Sequential(Linear(4, 8), SiLU(), Linear(8, 4)))
        >>> drop_straight_curves(model)
        [('', 'act')]
        >>> model[1]
        SiLU()
    """
    slots = find_curve_slots(model)
    straight = [slot for slot in slots if not slot.module.coefficients.any()]
    if len(straight) == len(slots) and narrowed_paths(model):
        straight = straight[1:]
    drop_slots(model, [slot.path for slot in straight])
    return [(slot.site, slot.name) for slot in straight]


def prune_channels(
    model: nn.Module,
    batches: Mapping[str, Tensor] | Iterable[Mapping[str, Tensor]],
    *,
    share: float,
    multiple_of: int = 8,
) -> dict[str, int]:
    """Remove the hidden channels that add least, in place: every network becomes narrower by about the same share.

    A channel adds the root mean square of what arrives at the last layer times the norm of its weights there, as Wanda
    scores single weights (Sun et al., 2024). The model is smaller and faster, saves as a converted model, and wants
    some training to recover. Networks of two or three separate linear layers only, and not where groups of channels
    share curves. Layers that share one curve per channel keep the same channels: those that add most in all of them
    together.

    Args:
        model: converted.
        batches: what the model is called with, one batch or several.
        share: share of the channels of each network to remove, from 0 to below 1.
        multiple_of: the new widths are rounded up to a multiple of this, which is faster in kernels.

    Returns:
        The new hidden width by path of the network.

    Raises:
        ConversionStateError, SlotError, ConfigError, ProofError: as `kansformer.conversion.channels.keep_channels`.
        DataError: no token reaches a network.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import convert
        >>> from kansformer.interp import prune_channels
        >>> model = convert(Sequential(Linear(4, 16), SiLU(), Linear(16, 4)))
        >>> prune_channels(model, {"input": torch.randn(64, 4)}, share=0.5)
        {'': 8}
        >>> model[2]
        Linear(in_features=8, out_features=4, bias=True)
    """
    if not 0 <= share < 1:
        raise ConfigError(f"share must be from 0 to below 1, got {share!r}.")
    sites = converted_sites(model)
    widths = {site.path: _new_width(site, share, multiple_of) for site in sites}
    for site in sites:
        with_hidden(site, widths[site.path])  # raises where it cannot be
    scores = measure_channels(model, sites, batches)
    if same := sites_with_same_channels(model, sites):
        summed_m = torch.stack([scores[path] / scores[path].sum() for path in same]).sum(dim=0)
        scores |= dict.fromkeys(same, summed_m)
    keep_channels(model, {site.path: largest(scores[site.path], widths[site.path]) for site in sites})
    return widths


def _new_width(site: Site, share: float, multiple: int) -> int:
    width = max(multiple, math.ceil((1 - share) * site.hidden / multiple) * multiple)
    width += multiple * (width == site.width)  # a square layer would not be known as a feed-forward network again
    return min(width, site.hidden)


def _least_curves(per_curve: list[Tensor], limit: int) -> Tensor:
    scores = torch.cat(per_curve)
    straight = torch.zeros(len(scores), dtype=torch.bool)
    straight[scores.argsort(stable=True)[:limit]] = True
    return straight


def _least_slots(per_curve: list[Tensor], limit: int) -> Tensor:
    straight = [torch.zeros(score.numel(), dtype=torch.bool) for score in per_curve]
    for index in torch.stack([score.sum() for score in per_curve]).argsort(stable=True).tolist():
        limit -= straight[index].numel()
        if limit < 0:
            break
        straight[index][:] = True
    return torch.cat(straight)


def _curve_scores(slot: CurveSlot, scores: Mapping[tuple[str, str], EdgeScores], by: str) -> Tensor:
    """One score per learned curve: (P,), (I, O) or (I, R), flat."""
    slot_scores = scores.get((slot.site, slot.name))
    values_IO = None if slot_scores is None else slot_scores.columns().get(by)
    if values_IO is None:
        raise ConfigError(f"{slot.site}/{slot.name} has no {by}. Make the scores of this model by edge_scores.")
    edges, coefficients = slot.module.curves.edges, slot.module.coefficients
    if edges == "full":
        return values_IO.flatten()
    if edges == "low_rank":  # an edge's score is shared out among its components by their size in it
        assert slot.module.mix is not None
        size_IRO = coefficients.norm(dim=1).unsqueeze(-1) * slot.module.mix.abs()
        share_IRO = size_IRO / size_IRO.sum(dim=1, keepdim=True).clamp(min=torch.finfo(size_IRO.dtype).tiny)
        return torch.einsum("iro,io->ir", share_IRO.cpu().double(), values_IO.double()).flatten()
    return values_IO.sum(dim=1).reshape(len(coefficients), -1).sum(dim=1)
