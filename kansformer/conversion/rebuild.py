"""Give a freshly made plain model the slots that a checkpoint's record names; weights are loaded afterwards."""

from dataclasses import replace

import torch
from torch import nn

from kansformer.config import QUANT_METHOD, WEIGHTLESS_SLOTS
from kansformer.conversion.build import build_slot
from kansformer.conversion.convert import install
from kansformer.conversion.narrow import narrow_site
from kansformer.conversion.record import (
    ConversionRecord,
    base_prefix,
    config_of,
    get_setting,
    quantization_method,
    recorded_target,
    rooted_slot,
)
from kansformer.errors import CheckpointError, ConfigError, SlotError
from kansformer.sites import Slot, find_sites
from kansformer.sites.parts import is_activation, linear_shape

SPARE_NUMBERS = 2**20
"""Numbers that curves may have beyond twice those of their files: of small ones, each tensor is compared later."""


def rebuild(model: nn.Module, record: ConversionRecord, *, max_numbers: int | None = None) -> None:
    """Put empty slots into a plain model, as a record says. After an error the model is half rebuilt.

    Layers that the record calls narrower are narrowed first. `max_numbers` are those that the checkpoint's files hold
    in all, as far as it is known.

    Raises:
        CheckpointError: the model has no such path, or its layer cannot take these curves or that width, or
            the curves would have far more numbers than the files, which is checked before memory is allocated.
    """
    narrow_as_recorded(model, record)
    fill_recorded(model, record, max_numbers=max_numbers)


def fill_recorded(model: nn.Module, record: ConversionRecord, *, max_numbers: int | None = None) -> None:
    """`rebuild` of a model whose layers have the recorded widths already."""
    built = []
    needed: dict[int, int] = {}
    for entry in record.slots:
        slot = rooted_slot(model, entry)
        target = recorded_target(model, slot)
        shape = check_slot(model, slot, target)
        spec = record.config.curve_spec(slot.name)
        try:
            # Several paths may lead to the same layer, whose curves are there once.
            key = len(needed) if slot.name in WEIGHTLESS_SLOTS else id(target)
            needed[key] = spec.num_parameters(slot.features, shape[1] if shape else None)
            if max_numbers is not None and sum(needed.values()) > 2 * max_numbers + SPARE_NUMBERS:
                raise CheckpointError(
                    f"The checkpoint's settings ask for curves of {sum(needed.values()):,} numbers up to {slot.path}, "
                    f"and its files hold {max_numbers:,} in all. It was changed after it was saved, or saved "
                    "incompletely."
                )
            built.append((slot, build_slot(model, slot, spec)))
        except (ConfigError, SlotError) as error:
            raise CheckpointError(f"The checkpoint's curves do not fit at {slot.path}: {error}") from error
    install(model, built, record)


def from_part(model: nn.Module, record: ConversionRecord) -> ConversionRecord:
    """The record of a freshly made model that was read from the config of a part, which alone was converted.

    transformers looks for it in the config of the text model, too. The part's own is removed; any other record is
    returned as it is.
    """
    for place, part in model.named_modules():
        config = config_of(part)
        if config is None or type(config) is type(config_of(model)):  # its own, which has the record by now
            continue
        if quantization_method(get_setting(config, "quantization_config")) != QUANT_METHOD:
            continue
        start = f"{place}.".removeprefix(base_prefix(model))
        slots = tuple(replace(slot, path=start + rooted_slot(part, slot).path) for slot in record.slots)
        widths = {f"{start}{base_prefix(part)}{path}": width for path, width in record.widths.items()}
        del config.quantization_config
        return replace(record, slots=slots, widths=widths)
    return record


def check_slot(model: nn.Module, slot: Slot, target: object) -> tuple[int, int] | None:
    """Check what stands in a recorded slot of a plain model.

    Returns:
        (in, out) of the linear layer there, None for a slot without weights.

    Raises:
        CheckpointError: nothing is there, or something that cannot take the recorded curves.
    """
    if target is None:
        raise CheckpointError(
            f"The checkpoint has curves at {slot.path}, but {type(model).__name__} has no such module."
            + _way_out(model)
        )
    if slot.name == "act" and not is_activation(target):
        raise CheckpointError(f"The checkpoint has an activation at {slot.path}, which is {target!r:.40} here.")
    if slot.name in WEIGHTLESS_SLOTS:
        return None
    shape = linear_shape(target) if isinstance(target, nn.Module) else None
    if shape is None or shape[0] != slot.features:
        raise CheckpointError(
            f"The checkpoint has curves for {slot.features} inputs at {slot.path}, where this model has "
            f"{type(target).__name__} with {shape[0] if shape else 'no'} inputs."
        )
    return shape


def _way_out(model: nn.Module) -> str:
    names = get_setting(get_setting(model, "config"), "architectures")
    if not isinstance(names, list) or not names or type(model).__name__ in names:
        return ""
    return f" It was saved from {names[0]!s:.80}: load that class, and take the part that you need."


def narrow_as_recorded(model: nn.Module, record: ConversionRecord) -> None:
    """Narrow the feed-forward networks of a plain model that the record calls narrower.

    Raises:
        CheckpointError: there is none at a recorded path, or it cannot have that width.
    """
    prefix = base_prefix(model)
    sites = {site.path: site for site in find_sites(model)} if record.widths else {}
    for path, hidden in record.widths.items():
        site = sites.get(prefix + path) or sites.get(path)
        if site is None:
            raise CheckpointError(
                f"The checkpoint has a feed-forward network with {hidden} hidden channels at {prefix}{path}, but "
                f"{type(model).__name__} has none there."
            )
        try:
            narrow_site(model, site, torch.arange(hidden))
        except (ConfigError, SlotError) as error:
            raise CheckpointError(f"The checkpoint's width does not fit at {site.path}: {error}") from error
