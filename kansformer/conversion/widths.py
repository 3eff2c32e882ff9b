"""Give a feed-forward network a narrower hidden layer: its linear layers keep some hidden channels and lose the others.

Shape letters: d model width, m hidden channels before, H hidden channels kept.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kansformer.errors import ConfigError, ProofError, SlotError
from kansformer.nn.curves import copy_as
from kansformer.nn.transaction import transaction
from kansformer.sites import Site, Slot
from kansformer.sites.parts import is_conv1d
from kansformer.sites.probe import probes
from kansformer.sites.site import get_slot_target
from kansformer.sites.surgery import fill_slot, shadow
from kansformer.sites.verify import undisturbed

LINEAR_SLOTS = ("gate", "up", "down")
NARROWABLE = ("plain", "gated")
SEED = 0


def with_hidden(site: Site, hidden: int) -> Site:
    """The description of a site once its hidden layer has that width. Nothing is changed.

    Raises:
        ConfigError: `hidden` is no width, or wider than what is there.
        SlotError: the site is not made of two or three separate linear layers.
    """
    if not isinstance(hidden, int) or isinstance(hidden, bool) or not 1 <= hidden <= site.hidden:
        raise ConfigError(
            f"hidden must be a whole number from 1 to the {site.hidden} channels of {_name(site)}, got {hidden!r}."
        )
    if site.kind not in NARROWABLE:
        raise SlotError(
            f"{_name(site)} is a {site.kind} feed-forward network, whose hidden layer cannot be narrowed; one of the "
            f"kinds {' and '.join(NARROWABLE)} can."
        )
    slots = {name: _narrowed_slot(slot, hidden) for name, slot in site.slots.items()}
    return replace(site, hidden=hidden, slots=slots)


def linear_slots(site: Site) -> dict[str, Slot]:
    """The slots of a site that hold its linear layers: up and down, and gate where there is one."""
    return {name: site.slots[name] for name in LINEAR_SLOTS if name in site.slots}


def check_narrowable(model: nn.Module, site: Site) -> None:
    """See that the linear layers of a site are plain ones that belong to it alone.

    Raises:
        SlotError: one is of another class, or other parts of the model use it, too.
    """
    for slot in linear_slots(site).values():
        layer = get_slot_target(model, slot.path)
        if type(layer) is not nn.Linear and not is_conv1d(layer):
            raise SlotError(
                f"{slot.path} is a {type(layer).__module__}.{type(layer).__name__}, whose forward may depend on its "
                "width; only torch's Linear and transformers' Conv1D can be narrowed."
            )
        if sum(child is layer for module in model.modules() for child in module._modules.values()) > 1:
            raise SlotError(f"{slot.path} is shared with other parts of the model, so it cannot be narrowed.")


def narrow_site(model: nn.Module, site: Site, channels_H: Tensor) -> None:
    """Replace the linear layers of a site by ones with these hidden channels only, in place.

    The new layers have weights of their own; those before the hidden layer lose outputs, the one after it inputs.

    Args:
        model: the model.
        site: as found in it, before.
        channels_H: numbers of the hidden channels that stay, in their new order.

    Raises:
        SlotError: as `check_narrowable`.
        ProofError: the block ran on random input before, and does not with fewer channels. The model is as before.
    """
    check_narrowable(model, site)
    new = {}
    for name, slot in linear_slots(site).items():
        axis = "inputs" if name == "down" else "outputs"
        new[name] = _narrowed_layer(get_slot_target(model, slot.path), channels_H, axis)
    _check_that_it_runs(model, site, new)
    with transaction(model):
        for name, layer in new.items():
            fill_slot(model, site.slots[name], layer)


def _narrowed_layer(layer: Any, channels_H: Tensor, axis: str) -> nn.Module:
    """The same layer with these of its inputs or outputs; hooks, mode and flags stay."""
    narrow = copy_as(type(layer), layer)
    transposed = is_conv1d(layer)
    channels_H = channels_H.to(layer.weight.device)
    # A Linear's weight is (outputs, inputs), a Conv1D's (inputs, outputs).
    narrow.weight = _chosen(layer.weight, channels_H, int((axis == "inputs") != transposed))
    if axis == "outputs" and layer.bias is not None:
        narrow.bias = _chosen(layer.bias, channels_H, 0)
    elif layer.bias is not None:
        narrow.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=layer.bias.requires_grad)
    names = {"inputs": ("in_features", "nx"), "outputs": ("out_features", "nf")}
    setattr(narrow, names[axis][transposed], len(channels_H))
    return narrow


def _chosen(parameter: nn.Parameter, channels_H: Tensor, axis: int) -> nn.Parameter:
    values = parameter.detach().index_select(axis, channels_H)
    return nn.Parameter(values, requires_grad=parameter.requires_grad)


def _narrowed_slot(slot: Slot, hidden: int) -> Slot:
    if slot.name in ("act", "down"):
        return replace(slot, features=hidden)
    return replace(slot, out_features=hidden) if slot.name in LINEAR_SLOTS else slot


def _check_that_it_runs(model: nn.Module, site: Site, new: dict[str, nn.Module]) -> None:
    block = model.get_submodule(site.path)
    like = next(iter(new.values())).weight
    if not isinstance(like, Tensor) or like.is_meta:
        return
    prefix = f"{site.path}." if site.path else ""
    inner = {name: replace(site.slots[name], path=site.slots[name].path.removeprefix(prefix)) for name in new}
    narrow = shadow(block, list(inner.values()))
    for name, layer in new.items():
        fill_slot(narrow, inner[name], layer)
    generator = torch.Generator().manual_seed(SEED)
    with undisturbed(block):
        for arguments in probes(block, site, like, generator):
            try:
                block(*arguments)
            except Exception:  # noqa: S112 - wrong arguments fail in any way; the next candidate is tried
                continue
            try:
                narrow(*arguments)
            except Exception as error:  # whatever the block raises says that it depends on its width
                raise ProofError(f"{_name(site)} does not run with a narrower hidden layer: {error}") from error
            return


def _name(site: Site) -> str:
    return site.path or "The model"
