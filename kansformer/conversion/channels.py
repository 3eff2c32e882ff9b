"""Take hidden channels out of the feed-forward networks of a converted model, with their curves.

Shape letters: H hidden channels kept.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kansformer.conversion.checkpoint import record_of
from kansformer.conversion.convert import fill_recorded, remove_curves
from kansformer.conversion.drop import refuse_adapters
from kansformer.conversion.record import ConversionRecord, base_prefix
from kansformer.conversion.widths import narrow_site, with_hidden
from kansformer.errors import ConfigError, ConversionStateError, SlotError
from kansformer.nn.curves import curve_tensors
from kansformer.nn.transaction import snapshot, transaction
from kansformer.sites import Site, Slot, find_sites
from kansformer.sites.surgery import INPUT_CURVE


def converted_sites(model: nn.Module) -> list[Site]:
    """The feed-forward networks of a converted model, as `find_sites` finds them in a plain one.

    Raises:
        ConversionStateError: the model is not converted.
    """
    _slots_with_modules(model)
    put_back = snapshot(model)
    try:
        return find_sites(remove_curves(model))
    finally:
        put_back()


def keep_channels(model: nn.Module, channels: Mapping[str, Tensor]) -> nn.Module:
    """Keep some hidden channels of feed-forward networks and drop the others, in place.

    The curves go with their channels. Where a channel that goes was zero, or never mattered, the outputs stay the same.

    Args:
        model: converted.
        channels: numbers of the channels to keep, (H,), by path of the site as `converted_sites` says it.

    Returns:
        The same model. It saves as a converted model of format version 2 and cannot be reverted.

    Raises:
        ConversionStateError: the model is not converted.
        SlotError: there is no such site, or its layers cannot be narrowed.
        ConfigError: no channel is kept, or groups of channels share their curves there.
        ProofError: a block does not run with fewer channels. The model is left as it was after any error.
    """
    record, built = _slots_with_modules(model)
    prefix = base_prefix(model)
    with transaction(model):
        remove_curves(model)
        sites = {site.path: site for site in find_sites(model)}
        for path, kept_H in channels.items():
            if path not in sites:
                raise SlotError(f"No feed-forward network is at {path!r}. Choose from: {', '.join(list(sites)[:4])}.")
            with_hidden(sites[path], len(kept_H))
            if kept_H.min() < 0 or kept_H.max() >= sites[path].hidden or len(kept_H.unique()) < len(kept_H):
                raise ConfigError(
                    f"The channels to keep of {path} must be different numbers from 0 to {sites[path].hidden - 1}."
                )
            narrow_site(model, sites[path], kept_H)
        hidden_slots = {
            slot.path: kept_H
            for path, kept_H in channels.items()
            for slot in sites[path].slots.values()
            if slot.name != "input"
        }
        parts = [(module, _chosen_part(slot, module, hidden_slots.get(slot.path))) for slot, module in built]
        slots = tuple(
            replace(entry, features=len(hidden_slots[prefix + entry.path]))
            if entry.name in ("act", "down") and prefix + entry.path in hidden_slots
            else entry
            for entry in record.slots
        )
        widths = {**record.widths, **{path.removeprefix(prefix): len(kept_H) for path, kept_H in channels.items()}}
        fill_recorded(model, replace(record, slots=slots, widths=widths))
        for (_, new), (old, tensors) in zip(_slots_with_modules(model)[1], parts, strict=True):
            _load(new, old, tensors)
        return model


def _slots_with_modules(model: nn.Module) -> tuple[ConversionRecord, list[tuple[Slot, nn.Module]]]:
    record = record_of(model)
    if record is None:
        raise ConversionStateError("The model is not converted. Call kansformer.convert(model) first.")
    refuse_adapters(model)
    slots = [entry.to_slot(base_prefix(model)) for entry in record.slots]
    paths = [f"{slot.path}.{INPUT_CURVE}" if slot.name == "input" else slot.path for slot in slots]
    return record, [(slot, model.get_submodule(path)) for slot, path in zip(slots, paths, strict=True)]


def _chosen_part(slot: Slot, module: Any, kept_H: Tensor | None) -> dict[str, Tensor]:
    """The tensors of a module's curves, of the channels that stay."""
    tensors = {name: tensor.detach() for name, tensor in curve_tensors(module).items()}
    if kept_H is None:
        return tensors
    kept_H = kept_H.to(module.coefficients.device)
    if slot.name in ("act", "down"):
        if module.curves.edges == "group":
            raise ConfigError(
                f"Groups of channels share the curves at {slot.path}, so single channels cannot be taken out there."
            )
        per_input = ("coefficients", "denominator", "domain")
        return {n: values.index_select(0, kept_H) if n in per_input else values for n, values in tensors.items()}
    per_output = {"full": "coefficients", "low_rank": "mix"}.get(module.curves.edges)
    return {n: values.index_select(-1, kept_H) if n == per_output else values for n, values in tensors.items()}


def _load(new: Any, old: Any, tensors: Mapping[str, Tensor]) -> None:
    """The chosen tensors, in the dtype that they had, trained or frozen as they were; and the hooks."""
    for name, values in tensors.items():
        if name == "domain":
            new.domain = values.clone()
        else:
            setattr(new, name, nn.Parameter(values.clone(), requires_grad=getattr(old, name).requires_grad))
    for name, table in vars(old).items():
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) and table:
            vars(new)[name] = table
