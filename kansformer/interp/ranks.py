"""Fewer components for the edges of `low_rank` layers.

Shape letters: I inputs, C coefficients, O outputs, R rank.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from kansformer.checks import check_integer
from kansformer.conversion.record import record_of
from kansformer.conversion.slots import find_curve_slots, without_adapters
from kansformer.conversion.transformers_patches import attach_record
from kansformer.errors import ConfigError
from kansformer.nn.curve_checks import check_not_fixed
from kansformer.nn.transaction import transaction


@torch.no_grad()
def reduce_rank(model: nn.Module, rank: int) -> dict[tuple[str, str], float]:
    """Give all `low_rank` edges of a model a lower rank, in place, with the closest curves of that rank.

    A layer's coefficients as one (I·C, O) matrix are replaced by the nearest of that rank (Eckart and Young, 1936). The
    model is smaller and faster, and saves as such.

    Args:
        model: converted, or with KAN modules.
        rank: the new R, from 1 to the present one.

    Returns:
        By (site, slot) the share of the squared coefficients that is lost, from 0 to 1.

    Raises:
        ConversionStateError: the model has no curves.
        ConfigError: no layer has `low_rank` edges, the curves are fixed, or one layer has a lower rank already.

    Examples:
        >>> from kansformer import KANLinear
        >>> from kansformer.interp import reduce_rank
        >>> model = torch.nn.Sequential(KANLinear(4, 3, edges="low_rank", rank=3))
        >>> lost = reduce_rank(model, 1)
        >>> 0 <= lost["", "0"] <= 1, model[0].mix.shape
        (True, torch.Size([1, 3]))
    """
    slots = [slot for slot in find_curve_slots(model) if slot.module.curves.edges == "low_rank"]
    if not slots:
        raise ConfigError("No layer of this model has low_rank edges, so there is no rank to reduce.")
    check_not_fixed(model, "reduce_rank")
    check_integer("rank", rank, 1, min(slot.module.curves.rank for slot in slots))
    lost = {}
    with transaction(model):
        for slot in slots:
            module, old, mix = slot.module, slot.module.coefficients, slot.module.mix
            assert mix is not None
            new, new_mix, lost[slot.site, slot.name] = _nearest(old, mix, rank)
            module.coefficients = nn.Parameter(new.to(old), requires_grad=old.requires_grad)
            module.mix = nn.Parameter(new_mix.to(mix), requires_grad=mix.requires_grad)
            module.curves = replace(module.curves, rank=rank)
        inner = without_adapters(model)
        record = record_of(inner)
        if record is not None:
            attach_record(inner, replace(record, config=replace(record.config, rank=rank)))
        return lost


def _nearest(coefficients_ICR: Tensor, mix_RO: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Factors of the nearest matrix of a rank, and the share of the squares that is lost.

    Rows of the mix are orthogonal and as long as in a new layer, also where the coefficients are zero: those can be
    trained then. Components beyond what the matrix can have keep rows of the old mix.
    """
    left, triangle = torch.linalg.qr(coefficients_ICR.double().flatten(0, 1))
    u, sizes, v = torch.linalg.svd(triangle @ mix_RO.double(), full_matrices=False)
    scale = (mix_RO.shape[1] / rank) ** 0.5
    coefficients = (left @ u[:, :rank]) * sizes[:rank] / scale
    mix = torch.cat([scale * v[:rank], mix_RO[: max(0, rank - len(v))].double()])
    coefficients = nn.functional.pad(coefficients, (0, rank - coefficients.shape[1]))
    total = float(sizes.square().sum())
    lost = float(sizes[rank:].square().sum()) / total if total else 0.0
    return coefficients.unflatten(0, coefficients_ICR.shape[:2]), mix, lost
