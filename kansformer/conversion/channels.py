"""Remove hidden channels from the feed-forward networks of a converted model, with their curves.

Shape letters: H hidden channels kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from kansformer.conversion.convert import remove_curves
from kansformer.conversion.narrow import narrow_site, narrowed_slot, with_hidden
from kansformer.conversion.rebuild import fill_recorded
from kansformer.conversion.record import ConversionRecord, base_prefix, record_of, rooted_slot, uncompiled
from kansformer.conversion.slots import check_no_adapters, recorded_modules, tie_and_freeze
from kansformer.errors import ConfigError, ConversionStateError, SlotError
from kansformer.nn.curve_checks import sharing_error
from kansformer.nn.curves import Curved, curve_tensors
from kansformer.nn.transaction import snapshot, transaction, undone_afterwards
from kansformer.sites import Site, Slot, find_sites

HIDDEN_SLOTS = ("act", "down")
"""Whose inputs are the hidden channels."""


def converted_sites(model: nn.Module) -> list[Site]:
    """The feed-forward networks of a converted model, as `find_sites` finds them in a plain one.

    Raises:
        ConversionStateError: the model is not converted.
    """
    model = uncompiled(model)
    _check_converted(model)
    with undone_afterwards() as undo:
        undo.callback(snapshot(model))
        remove_curves(model)
        return find_sites(model)


def keep_channels(model: nn.Module, channels: Mapping[str, Tensor]) -> nn.Module:
    """Keep some hidden channels of feed-forward networks and remove the others, in place.

    The curves go with their channels. Where a removed channel was zero, or never mattered, the outputs stay the same.

    Args:
        model: converted.
        channels: numbers of the channels to keep, (H,), by path of the site as in `converted_sites`.

    Returns:
        The same model. It saves as a converted model of format version 2 and cannot be reverted.

    Raises:
        ConversionStateError: the model is not converted.
        SlotError: there is no such site, or its layers cannot be narrowed.
        ConfigError: no channel is kept, groups of channels share their curves there, or layers with the same curve per
            channel keep other channels.
        ProofError: a block does not run with fewer channels. The model is left as it was after any error.
    """
    given, model = model, uncompiled(model)
    record = _check_converted(model)
    curved = recorded_modules(model, record)
    prefix = base_prefix(model)
    with transaction(model):
        remove_curves(model)
        sites = {site.path: site for site in find_sites(model)}
        kept_by_slot: dict[str, Tensor] = {}
        for path, kept_H in channels.items():
            if path not in sites:
                raise SlotError(f"No feed-forward network is at {path!r}. Choose from: {', '.join(list(sites)[:4])}.")
            site = sites[path]
            with_hidden(site, len(kept_H))
            if kept_H.min() < 0 or kept_H.max() >= site.hidden or len(kept_H.unique()) < len(kept_H):
                raise ConfigError(
                    f"The channels to keep of {path} must be different numbers from 0 to {site.hidden - 1}."
                )
            narrow_site(model, site, kept_H)
            kept_by_slot |= {slot.path: kept_H for slot in site.slots.values() if slot.name != "input"}
        if record.config.share == "model":
            _check_same_channels(curved, kept_by_slot)
        slots, tensors = [], []
        for entry, (slot, module) in zip(record.slots, curved, strict=True):
            kept = kept_by_slot.get(slot.path) if slot.name != "input" else None
            tensors.append(_selected_tensors(slot, module, kept))
            slots.append(entry if kept is None else replace(narrowed_slot(entry, len(kept)), out_features=None))
        widths = {**record.widths, **{path.removeprefix(prefix): len(kept_H) for path, kept_H in channels.items()}}
        new_record = replace(record, slots=tuple(slots), widths=widths)
        fill_recorded(model, new_record)
        for (_, old), (_, new), values in zip(curved, recorded_modules(model, new_record), tensors, strict=True):
            _load(new, old, values)
        tie_and_freeze(model, new_record)
        return given


def sites_with_same_channels(model: nn.Module, sites: Sequence[Site]) -> list[str]:
    """Paths of those sites of a converted model that share one curve per hidden channel, so must keep the same ones."""
    record = record_of(model)
    if record is None or record.config.share != "model":
        return []
    shared = {rooted_slot(model, slot).path for slot in record.slots if slot.name in HIDDEN_SLOTS}
    return [site.path for site in sites if shared & {slot.path for slot in site.slots.values()}]


def _check_converted(model: nn.Module) -> ConversionRecord:
    record = record_of(model)
    if record is None:
        raise ConversionStateError("The model is not converted. Call kansformer.convert(model) first.")
    check_no_adapters(model)
    return record


def _check_same_channels(curved: Sequence[tuple[Slot, Curved]], kept_by_slot: Mapping[str, Tensor]) -> None:
    """Check that layers which share one curve per hidden channel keep the same channels."""
    for name in HIDDEN_SLOTS:
        paths = [slot.path for slot, _ in curved if slot.name == name]
        kept = [kept_by_slot[path].tolist() if path in kept_by_slot else None for path in paths]
        for path, channels in zip(paths, kept, strict=True):
            if channels != kept[0]:
                raise sharing_error(
                    "Keeping other channels",
                    paths[0],
                    path,
                    "Keep the same channels, in the same order, in all of them.",
                )


def _selected_tensors(slot: Slot, module: Curved, kept_H: Tensor | None) -> dict[str, Tensor]:
    """The tensors of a module's curves, reduced to the channels that stay."""
    tensors = curve_tensors(module)
    if kept_H is None:
        return tensors
    edges = module.curves.edges
    if slot.name in HIDDEN_SLOTS:
        if edges == "group":
            raise ConfigError(
                f"Groups of channels share the curves at {slot.path}, so single channels cannot be taken out there."
            )
        axes = dict.fromkeys(("coefficients", "denominator", "domain"), 0)
    else:
        axes = {"full": {"coefficients": -1}, "low_rank": {"mix": -1}}.get(edges, {})
    kept_H = kept_H.to(tensors["coefficients"].device)
    return {n: values.index_select(axes[n], kept_H) if n in axes else values for n, values in tensors.items()}


def _load(new: Curved, old: Curved, tensors: Mapping[str, Tensor]) -> None:
    """Set the selected tensors in the dtype that they had, trained or frozen as they were; and move the hooks."""
    before = curve_tensors(old)
    for name, tensor in tensors.items():
        values = tensor.detach().clone()
        new_tensor = values if name == "domain" else nn.Parameter(values, requires_grad=before[name].requires_grad)
        setattr(new, name, new_tensor)
    for name, table in vars(old).items():
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) and table:
            vars(new)[name] = table
