"""Give a feed-forward network a narrower hidden layer: its linear layers keep only some of their hidden channels.

Shape letters: d model width, m hidden channels before, H hidden channels kept.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kansformer.checks import check_integer
from kansformer.errors import ProofError, SlotError
from kansformer.nn.curves import copy_as
from kansformer.sites import Site, Slot
from kansformer.sites.parts import is_conv1d
from kansformer.sites.site import get_slot_target
from kansformer.sites.surgery import fill_slot, shadow, uses_of
from kansformer.sites.verify import below, find_call, undisturbed

LINEAR_SLOTS = ("gate", "up", "down")
NARROWABLE = ("plain", "gated")
SEED = 0


def with_hidden(site: Site, hidden: int) -> Site:
    """The description of a site once its hidden layer has that width. Nothing is changed.

    Raises:
        ConfigError: `hidden` is not a width, or wider than what is there.
        SlotError: the site is not made of two or three separate linear layers.
    """
    check_integer(f"hidden of {site.name}", hidden, 1, site.hidden)
    if site.kind not in NARROWABLE:
        raise SlotError(
            f"{site.name} is a feed-forward network of the kind {site.kind!r}, which cannot be narrowed; one of the "
            f"kinds {' and '.join(NARROWABLE)} can."
        )
    slots = {name: narrowed_slot(slot, hidden) for name, slot in site.slots.items()}
    return replace(site, hidden=hidden, slots=slots)


def narrowed_slot(slot: Slot, hidden: int) -> Slot:
    """The description of a slot in a site with that hidden width."""
    if slot.name in ("act", "down"):
        return replace(slot, features=hidden)
    return replace(slot, out_features=hidden) if slot.name in LINEAR_SLOTS else slot


def linear_layers(model: nn.Module, site: Site) -> dict[str, Any]:
    """The linear layers of a site by slot name: up and down, and gate where there is one."""
    return {name: get_slot_target(model, site.slots[name].path) for name in LINEAR_SLOTS if name in site.slots}


def check_narrowable(model: nn.Module, site: Site) -> None:
    """Check that the linear layers of a site are plain ones that belong to it alone.

    Raises:
        SlotError: one is of another class, or other parts of the model use it, too.
    """
    for name, layer in linear_layers(model, site).items():
        path = site.slots[name].path
        if type(layer) is not nn.Linear and not is_conv1d(layer):
            raise SlotError(
                f"{path} is a {type(layer).__module__}.{type(layer).__name__}, whose forward may depend on its "
                "width; only torch's Linear and transformers' Conv1D can be narrowed."
            )
        if len(uses_of(model, [layer])) > 1:
            raise SlotError(f"{path} is shared with other parts of the model, so it cannot be narrowed.")


def narrow_site(model: nn.Module, site: Site, channels_H: Tensor) -> None:
    """Replace the linear layers of a site by ones with these hidden channels only; to be called in a `transaction`.

    The new layers have weights of their own, with the channels in the given order. Those before the hidden layer have
    fewer outputs, the one after it fewer inputs.

    Raises:
        ConfigError, SlotError: as `with_hidden` and `check_narrowable`.
        ProofError: the block ran on random input before, and does not with fewer channels. Nothing was replaced.
    """
    with_hidden(site, len(channels_H))
    check_narrowable(model, site)
    new = {name: _narrowed_layer(layer, channels_H, name) for name, layer in linear_layers(model, site).items()}
    _check_that_it_runs(model, site, new)
    for name, layer in new.items():
        fill_slot(model, site.slots[name], layer)


def _narrowed_layer(layer: nn.Linear, channels_H: Tensor, slot: str) -> nn.Module:
    """The same layer with some of its outputs, or inputs if it is `down`; hooks, mode and flags stay."""
    narrow = copy_as(type(layer), layer)
    transposed, is_last = is_conv1d(layer), slot == "down"
    channels_H = channels_H.to(layer.weight.device)
    # A Linear's weight is (outputs, inputs), a Conv1D's (inputs, outputs).
    narrow.weight = _selected(layer.weight, channels_H, int(is_last != transposed))
    if layer.bias is not None:
        narrow.bias = _selected(layer.bias, None if is_last else channels_H, 0)
    names = {True: ("in_features", "nx"), False: ("out_features", "nf")}
    setattr(narrow, names[is_last][transposed], len(channels_H))
    return narrow


def _selected(parameter: Tensor, channels_H: Tensor | None, axis: int) -> nn.Parameter:
    values = parameter.detach()
    values = values.clone() if channels_H is None else values.index_select(axis, channels_H)
    return nn.Parameter(values, requires_grad=parameter.requires_grad)


def _check_that_it_runs(model: nn.Module, site: Site, new: dict[str, Any]) -> None:
    block = model.get_submodule(site.path)
    like = next(iter(new.values())).weight
    if not isinstance(like, Tensor) or like.is_meta:
        return
    inner = {name: below(site.slots[name], site.path) for name in new}
    narrow = shadow(block, list(inner.values()))
    for name, layer in new.items():
        fill_slot(narrow, inner[name], layer)
    with undisturbed(block):
        run = find_call(block, site, like, torch.Generator().manual_seed(SEED))
        if run is None:
            return
        try:
            run(narrow)
        except Exception as error:  # whatever the block raises says that it depends on its width
            raise ProofError(f"{site.name} does not run with a narrower hidden layer: {error}") from error
