"""The dry run of a swap: which sites and slots would take curves, and what that costs."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import nn

from kansformer.config import QUANT_METHOD, KANConfig, select_layers
from kansformer.conversion.widths import check_narrowable, linear_slots, with_hidden
from kansformer.errors import ConfigError, ConversionStateError, NoSiteError, SlotError
from kansformer.nn.curves import curved_modules
from kansformer.sites import Site, Slot, find_sites
from kansformer.sites.parts import CONVOLUTIONS, stacks_of
from kansformer.sites.site import get_slot_target


@dataclass(frozen=True)
class PlannedSite:
    """A site with the slots that will take curves.

    Args:
        site: what was found.
        slots: those of the config's slots that the site has.
        added_parameters: trainable numbers that the curves add.
        removed_parameters: of its linear layers, where the hidden layer becomes narrower.
    """

    site: Site
    slots: tuple[Slot, ...]
    added_parameters: int
    removed_parameters: int = 0


@dataclass(frozen=True)
class ConversionPlan:
    """What `convert` would do. `str(plan)` is a table.

    Args:
        config: which curves.
        sites: the sites that would change, as they would be afterwards.
        skipped: path and reason of the sites in the chosen layers that have none of the config's slots.
        parameters_before, parameters_after: numbers of parameters; a shared one counts once.
        bytes_before, bytes_after: their size in memory.
    """

    config: KANConfig
    sites: tuple[PlannedSite, ...]
    skipped: tuple[tuple[str, str], ...]
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        groups = Counter(_row(planned) for planned in self.sites)
        rows: list[tuple[str, ...]] = [("sites", "where", "kind", "slots", "d", "m", "curve parameters each")]
        rows += [(str(count), *row) for row, count in groups.items()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        growth = self.parameters_after / max(1, self.parameters_before)
        lines.append(
            f"parameters {self.parameters_before:,} -> {self.parameters_after:,} ({growth:.4f}x), "
            f"bytes {self.bytes_before:,} -> {self.bytes_after:,}"
        )
        reasons = Counter(reason for _, reason in self.skipped)
        lines += [f"{count} sites stay as they are: {reason}" for reason, count in reasons.items()]
        return "\n".join(lines)


def plan_conversion(model: nn.Module, config: KANConfig, *, hidden: int | None = None) -> ConversionPlan:
    """Find the sites and slots that `convert` would change, without changing anything.

    Args:
        model: a transformer; on the meta device too.
        config: which curves, and where.
        hidden: the new hidden width of these sites, for `replace_feed_forwards`; None keeps all widths.

    Returns:
        The plan.

    Raises:
        ConversionStateError: the model is converted already, or quantised by someone else.
        NoSiteError: the model has no feed-forward network that kansformer knows.
        SlotError: no site has any of the slots, or one cannot be narrowed.
        ConfigError: a layer does not exist, or the groups do not divide a width, or `hidden` is no width of a site.
    """
    check_convertible(model)
    found = find_sites(model)
    if not found:
        raise NoSiteError(_why_no_site(model))
    planned, skipped = [], []
    for site in _in_layers(found, config.layers):
        removed = 0
        if hidden is not None:
            site, removed = _narrowed(model, site, hidden)
        slots = tuple(site.slots[name] for name in config.slots if name in site.slots)
        if not slots:
            skipped.append((site.path, _why_no_slot(site, config.slots)))
            continue
        try:
            added = sum(config.curve_spec(s.name).num_parameters(s.features, s.out_features) for s in slots)
        except ConfigError as error:
            raise ConfigError(f"{site.path}: {error}") from error
        planned.append(PlannedSite(site, slots, added, removed))
    for name in config.slots:
        if not any(slot.name == name for p in planned for slot in p.slots):
            if name not in found[0].slots:
                found[0].slot(name)  # raises, with the reason
            raise SlotError(f"None of the {len(found)} sites in layers={config.layers!r} has a slot {name!r}.")
    parameters = list(model.parameters())
    before, size = sum(p.numel() for p in parameters), sum(p.numel() * p.element_size() for p in parameters)
    floating = next((p for p in parameters if p.is_floating_point()), None)
    added = sum(p.added_parameters - p.removed_parameters for p in planned)
    return ConversionPlan(
        config=config,
        sites=tuple(planned),
        skipped=tuple(skipped),
        parameters_before=before,
        parameters_after=before + added,
        bytes_before=size,
        bytes_after=size + added * (floating.element_size() if floating is not None else 4),
    )


def check_convertible(model: nn.Module) -> None:
    """Refuse a model that is converted already or that someone else's quantiser owns.

    Raises:
        ConversionStateError: it is.
    """
    for path, _ in curved_modules(model):
        raise ConversionStateError(
            f"The model has curves already, for instance at {path or 'its root'}. Call revert(model) first to "
            "convert it with other settings."
        )
    for path, module in model.named_modules():
        if hasattr(module, "_hf_hook"):
            raise ConversionStateError(
                f"accelerate moves the weights of {path or 'the model'} between devices, so it cannot be converted in "
                "place. Load the model onto one device and convert it, save it, and load the result with device_map; "
                "or pass quantization_config=KANConfig(...) to from_pretrained, which converts before that."
            )
    quantization = getattr(getattr(model, "config", None), "quantization_config", None)
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization.quant_method
        if method == QUANT_METHOD:  # a plain model made from_config, with the config of a converted one
            return
        raise ConversionStateError(
            f"The model is quantised with {getattr(method, 'value', method)!r}. Load it dequantised "
            "(for GGUF files: quantization_config=GgufConfig(dequantize=True)), convert it, and quantise the result."
        )


def _in_layers(sites: list[Site], layers) -> list[Site]:
    depths: dict[str, int] = {}
    for site in sites:
        depths[site.stack] = max(depths.get(site.stack, 0), site.layer + 1)
    chosen, errors = {}, []
    for stack, depth in depths.items():
        try:
            chosen[stack] = select_layers(layers, depth)
        except ConfigError as error:
            errors.append(f"{stack or 'the model'}: {error}")
    if not chosen:  # a layer that one of several stacks has is enough
        raise ConfigError(" ".join(errors))
    return [site for site in sites if site.layer in chosen.get(site.stack, ())]


def _narrowed(model: nn.Module, site: Site, hidden: int) -> tuple[Site, int]:
    narrow = with_hidden(site, hidden)
    check_narrowable(model, site)
    # A bias after the last layer stays whole; those before the hidden layer go with their channels.
    removed = 0
    for name, slot in linear_slots(site).items():
        layer: Any = get_slot_target(model, slot.path)
        per_channel = site.width + (name != "down" and layer.bias is not None)
        removed += (site.hidden - hidden) * per_channel
    return narrow, removed


def _row(planned: PlannedSite) -> tuple[str, ...]:
    site = planned.site
    where = re.sub(r"\b\d+\b", "*", site.path) or "(the model)"
    slots = ",".join(slot.name for slot in planned.slots)
    return where, site.kind, slots, str(site.width), str(site.hidden), f"{planned.added_parameters:,}"


def _why_no_slot(site: Site, names: tuple[str, ...]) -> str:
    reasons = {site.missing.get(name, f"a {site.kind} feed-forward network has no slot {name!r}") for name in names}
    return "; ".join(sorted(reasons))


def _why_no_site(model: nn.Module) -> str:
    name = type(model).__name__
    convolutions = sum(isinstance(module, CONVOLUTIONS) for module in model.modules())
    linears = sum(isinstance(module, nn.Linear) for module in model.modules())
    if convolutions > linears:
        return (
            f"{name} is a convolutional network ({convolutions} convolutions, {linears} linear layers): it has no "
            "feed-forward network to convert."
        )
    experts = [path for path, module in model.named_modules() if len(stacks_of(module)) >= 2]
    if experts:
        return (
            f"{name} keeps its feed-forward networks as stacks of experts, for instance at {experts[0]}, whose "
            "activation is written out inside the forward, where no module can replace it."
        )
    return (
        f"{name} has no feed-forward network that kansformer recognises: linear layers d → m → d with an activation "
        f"between them. It has {linears} linear layers and {convolutions} convolutions."
    )
