"""Load a converted model with transformers' tensor parallelism (`tp_plan`): which of its rules hold beside curves.

A rule splits a linear layer's weight among processes; the layer's curves would have to be split with it. So a
feed-forward network with curves is kept whole in every process, with a warning, and everything else is split.
"""

import warnings
from collections.abc import Mapping

import torch
from torch import nn

from kansformer.conversion.record import get_setting
from kansformer.errors import ConversionStateError
from kansformer.nn.curves import curved_modules
from kansformer.sites import Site

SELF_CONTAINED = ("colwise", "rowwise", "packed_colwise", "packed_rowwise", "local_params")
"""Rules of one linear layer. A network keeps its function when all of its layers are without them."""


def is_one_of_several() -> bool:
    """Whether this process shares its work with others."""
    group = torch.distributed
    return group.is_available() and group.is_initialized() and group.get_world_size() > 1


def check_not_split(model: nn.Module, *, has_curves: bool) -> None:
    """Check that a model is not split by tensor parallelism, unless its rules were made for its curves.

    Raises:
        ConversionStateError: it is.
    """
    size = get_setting(model, "_tp_size")
    if size is not None and size > 1 and not has_curves:
        raise ConversionStateError(
            f"The model is split among {size} processes by tensor parallelism, so it cannot be converted or get its "
            "curves. Convert it in one process and save it; tp_plan needs transformers 5.24 then."
        )


def keep_networks_whole(model: nn.Module, sites: list[Site], plan: Mapping[str, str]) -> dict[str, str]:
    """A tensor-parallel plan without the rules for feed-forward networks that have curves.

    Args:
        model: rebuilt, its weights not yet loaded.
        sites: its feed-forward networks, as they were found before.
        plan: rule by path of a module or parameter.

    Raises:
        ConversionStateError: a network has a rule that is not about one linear layer, such as that of experts.
    """
    curved = {path for path, _ in curved_modules(model)}
    whole: set[str] = set()
    for site in sites:
        paths = {slot.path for slot in site.slots.values()}
        if curved & {path for slot in site.slots.values() for path in (slot.path, slot.curve_path)}:
            whole |= paths | ({site.path} if site.kind in ("fused", "experts") else set())
    lost = sorted(curved - {path for path in curved for owner in whole if f"{path}.".startswith(f"{owner}.")})
    if lost:
        raise ConversionStateError(
            f"The checkpoint has curves at {lost[0]}, which tensor parallelism could not follow. Load it without "
            "tp_plan and tp_size."
        )
    left, dropped = {}, {}
    for name, rule in plan.items():
        inside = any(f"{name}.".startswith(f"{owner}.") for owner in whole)
        (dropped if inside else left)[name] = rule
    for name, rule in dropped.items():
        if rule not in SELF_CONTAINED:
            raise ConversionStateError(
                f"The checkpoint has curves in {name}, which tensor parallelism would split by the rule {rule!r}, and "
                "its curves could not follow. Load it without tp_plan and tp_size."
            )
    if dropped:
        warnings.warn(
            f"{len(whole)} modules of feed-forward networks with curves are not split by tensor parallelism, for "
            f"instance {min(dropped)}: every process keeps them whole. The other weights are split.",
            stacklevel=2,
        )
    return left
