"""The dry run of a swap: which sites and slots would take curves, and what that costs."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from kansformer.config import MODULE_FILTERS, QUANT_METHOD, KANConfig, matches_module, select_layers
from kansformer.conversion.found_curves import FoundCurves, find_curves
from kansformer.conversion.narrow import check_narrowable, linear_layers, with_hidden
from kansformer.conversion.record import check_compiled_in_place, get_setting, quantization_method, record_of
from kansformer.conversion.slots import check_no_adapters_before_curves, check_not_dispatched
from kansformer.errors import ConfigError, ConversionStateError, NoSiteError, SlotError
from kansformer.nn.curves import curved_modules
from kansformer.sites import Site, Slot, find_sites
from kansformer.sites.parts import CONVOLUTIONS, linear_shape, linears_of, stacks_of
from kansformer.wording import counted


@dataclass(frozen=True)
class ConversionPlan:
    """What `convert` would do. `str(plan)` is a table.

    Args:
        config: which curves.
        sites: those that would change, as they would be afterwards.
        skipped: path and reason of the sites in the chosen layers that have none of the config's slots.
        parameters_before, parameters_after: numbers of parameters; a shared one counts once.
        bytes_before, bytes_after: their size in memory.
        curves: those that the slots get, found before; None for straight ones.
    """

    config: KANConfig
    sites: tuple[Site, ...]
    skipped: tuple[tuple[str, str], ...]
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    curves: FoundCurves | None = None

    def slots_of(self, site: Site) -> tuple[Slot, ...]:
        """The slots of a site that take curves: those of the config's slots that it has."""
        return _chosen_slots(self.config, site)

    def __str__(self) -> str:
        groups = Counter(_row(self.config, site) for site in self.sites)
        unit = "curve parameters " + ("shared by all" if self.config.share == "model" else "each")
        rows: list[tuple[str, ...]] = [("sites", "where", "kind", "slots", "d", "m", unit)]
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
        for reason, count in reasons.items():
            lines.append(f"{counted(count, 'site')} {'stays as it is' if count == 1 else 'stay as they are'}: {reason}")
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
        ConversionStateError: the model is converted already, has adapters, or is quantised by someone else.
        NoSiteError: the model has no feed-forward network that kansformer knows.
        SlotError: no site has any of the slots, or one cannot be narrowed.
        ConfigError: a layer does not exist, `target_modules` or `exclude_modules` match nothing or leave nothing, the
            groups do not divide a width, `hidden` is not a width for a site, layers of different widths were to share
            their curves, or `curves` are not there, contradict other settings or do not fit.
        CheckpointError: the file of `curves` is not one.

    Examples:
        >>> from transformers import GPT2Config, GPT2Model
        >>> from kansformer import KANConfig, plan_conversion
        >>> plan = plan_conversion(GPT2Model(GPT2Config(n_embd=8, n_layer=4, n_head=2)), KANConfig(layers="2:"))
        >>> print(plan)
        sites  where    kind   slots  d  m   curve parameters each
        -----  -------  -----  -----  -  --  ---------------------
        2      h.*.mlp  plain  act    8  32  256
        parameters 413,752 -> 414,264 (1.0012x), bytes 1,655,008 -> 1,657,056
    """
    check_model(model)
    check_config(config)
    check_convertible(model)
    curves = None if config.curves is None else find_curves(config.curves)
    config = config if curves is None else curves.config_for(config)
    sites = find_sites(model)
    if not sites:
        raise NoSiteError(_why_no_site(model))
    planned, skipped, added = [], [], 0
    in_layers = _in_layers(sites, config.layers)
    _check_filters(config, in_layers)
    for site in in_layers:
        if not _slots_of_kind(config, site):
            skipped.append((site.path, _why_no_slot(site, config.slots)))
            continue
        if not _chosen_slots(config, site):
            continue
        if hidden is not None:
            narrow = with_hidden(site, hidden)
            added -= _removed_parameters(model, site, hidden)
            site = narrow
        try:
            own = _curve_parameters(config, _chosen_slots(config, site))
        except ConfigError as error:
            raise ConfigError(f"{site.name}: {error}") from error
        added += own if config.share == "slot" else 0
        planned.append(site)
    chosen = [slot for site in planned for slot in _chosen_slots(config, site)]
    if config.share == "model":
        added += _curve_parameters(config, _first_of_each(chosen))
    for name in config.slots:
        if not any(slot.name == name for slot in chosen):
            sites[0].slot(name)  # raises, with the reason
            if any(name in site.slots for site in in_layers):
                raise ConfigError(
                    f"{_filters(config)} leaves no slot {name!r}, which slots={config.slots!r} asks for. Take it "
                    "out of the slots, or name a module that has it."
                )
            where = f"{counted(len(sites), 'site')} in layers={config.layers!r}"
            raise SlotError(f"None of the {where} has a slot {name!r}.")
    if curves is not None:
        curves.check_fit(config, chosen)
    parameters = list(model.parameters())
    before, size = sum(p.numel() for p in parameters), sum(p.numel() * p.element_size() for p in parameters)
    floating = next((p for p in parameters if p.is_floating_point()), None)
    return ConversionPlan(
        config=config,
        sites=tuple(planned),
        skipped=tuple(skipped),
        parameters_before=before,
        parameters_after=before + added,
        bytes_before=size,
        bytes_after=size + added * (floating.element_size() if floating is not None else 4),
        curves=curves,
    )


def check_model(model: object) -> None:
    """Check that a model was given.

    Raises:
        ConfigError: something else, such as its name.
    """
    if isinstance(model, nn.Module):
        return
    if isinstance(model, (str, Path)):
        given = f"the name {str(model)!r}. Load it first: AutoModelForCausalLM.from_pretrained({str(model)!r})"
    else:
        given = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
    raise ConfigError(f"The model must be a torch.nn.Module, such as one of transformers; got {given}.")


def check_config(config: object) -> None:
    """Check that the settings are a `KANConfig`.

    Raises:
        ConfigError: they are not.
    """
    if not isinstance(config, KANConfig):
        advice = " Write KANConfig(**config)." if isinstance(config, dict) else ""
        raise ConfigError(f"config must be a KANConfig, such as KANConfig(slots=('act',)); got {config!r:.80}.{advice}")


def how_to_revert(model: nn.Module) -> str:
    """The call that takes the curves out of a model, or out of the part of it that was converted."""
    place = next((place for place, part in model.named_modules() if record_of(part) is not None), "")
    return f"revert(model.get_submodule({place!r}))" if place else "revert(model)"


def check_convertible(model: nn.Module) -> None:
    """Refuse a model that is converted already, has adapters or compiled parts, or is someone else's quantiser's.

    Raises:
        ConversionStateError: it is.
    """
    if first := next(curved_modules(model), None):
        raise ConversionStateError(
            f"The model has curves already, for instance at {first[0] or 'its root'}. Call {how_to_revert(model)} "
            "first to convert it with other settings."
        )
    check_no_adapters_before_curves(model)
    check_compiled_in_place(path for path, _ in model.named_modules())
    check_not_dispatched(
        model,
        "it cannot be converted in place. Load the model onto one device and convert it, save it, and load the result "
        "with device_map; or pass quantization_config=KANConfig(...) to from_pretrained, which converts before that.",
    )
    quantization = get_setting(get_setting(model, "config"), "quantization_config")
    method = quantization_method(quantization)
    # Ours is in the config of a plain model that its class was called for, with the config of a converted one.
    if quantization is not None and method != QUANT_METHOD:
        raise ConversionStateError(
            f"The model is quantised with {method!r}. Load it dequantised (for GGUF files: "
            "quantization_config=GgufConfig(dequantize=True)), convert it, and quantise the result."
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


def _removed_parameters(model: nn.Module, site: Site, hidden: int) -> int:
    """Numbers that the linear layers of a site lose with their channels; a bias after the last layer stays."""
    check_narrowable(model, site)
    layers = linear_layers(model, site).items()
    return sum((site.hidden - hidden) * (site.width + (name != "down" and x.bias is not None)) for name, x in layers)


def _slots_of_kind(config: KANConfig, site: Site) -> tuple[Slot, ...]:
    """The slots of a site by their kind alone, whatever their modules are called."""
    return tuple(site.slots[name] for name in config.slots if name in site.slots)


def _chosen_slots(config: KANConfig, site: Site) -> tuple[Slot, ...]:
    target, exclude = config.target_modules, config.exclude_modules
    return tuple(
        slot
        for slot in _slots_of_kind(config, site)
        if (target is None or _matches(target, site, slot)) and (exclude is None or not _matches(exclude, site, slot))
    )


def _matches(modules: tuple[str, ...] | str, site: Site, slot: Slot) -> bool:
    return matches_module(modules, slot.path) or matches_module(modules, site.path)


def _check_filters(config: KANConfig, sites: list[Site]) -> None:
    """Check that every name in `target_modules` and `exclude_modules` means a slot, and that some slots are left.

    Raises:
        ConfigError: one does not; the message lists what there is.
    """
    slots = [(site, slot) for site in sites for slot in _slots_of_kind(config, site)]
    if not slots:
        return  # which is an error of its own
    names = dict.fromkeys(path.rpartition(".")[2] for site, slot in slots for path in (slot.path, site.path) if path)
    choices = f"Choose from: {', '.join(names)}; in full, such as {slots[0][1].path!r}."
    kinds = f"the slots {', '.join(config.slots)}" if len(config.slots) > 1 else f"the slot {config.slots[0]}"
    for field in MODULE_FILTERS:
        modules = getattr(config, field)
        for part in (modules,) if isinstance(modules, str) else modules or ():
            if not any(_matches(part if part is modules else (part,), site, slot) for site, slot in slots):
                raise ConfigError(f"{field}: {part!r:.200} matches no module of {kinds}. {choices}")
    if not any(_chosen_slots(config, site) for site in sites):
        raise ConfigError(f"{_filters(config)} leaves no module of {kinds}. {choices}")


def _filters(config: KANConfig) -> str:
    given = {field: getattr(config, field) for field in MODULE_FILTERS if getattr(config, field) is not None}
    return ", ".join(f"{field}={modules!r:.200}" for field, modules in given.items())


def _first_of_each(slots: list[Slot]) -> list[Slot]:
    """The first slot of every name, whose curves the others share.

    Raises:
        ConfigError: another one has another width.
    """
    first: dict[str, Slot] = {}
    for slot in slots:
        owner = first.setdefault(slot.name, slot)
        if owner.features != slot.features:
            raise ConfigError(
                f"share='model' needs layers of one width: {owner.path} has {owner.features} channels and {slot.path} "
                f"{slot.features}. Choose layers of one width by layers or target_modules, or share='slot'."
            )
    return list(first.values())


def _curve_parameters(config: KANConfig, slots: Iterable[Slot]) -> int:
    total = 0
    for slot in slots:
        spec = config.curve_spec(slot.name)
        if spec.edges == "low_rank" and slot.out_features is not None:
            _check_rank(spec.rank, slot.features, slot.out_features)
        total += spec.num_parameters(slot.features, slot.out_features)
    return total


def _check_rank(rank: int, in_features: int, out_features: int) -> None:
    """Check the rank of new `low_rank` edges; checkpoints that have a larger one still load.

    Raises:
        ConfigError: it is above the smaller width of the layer.
    """
    largest = min(in_features, out_features)
    if rank > largest:
        raise ConfigError(
            f"rank={rank} is above {largest}, the smaller width of a layer from {in_features} to {out_features}. "
            f"Choose a rank of at most {largest}, or edges='full'."
        )


def _row(config: KANConfig, site: Site) -> tuple[str, ...]:
    where = re.sub(r"\b\d+\b", "*", site.path) or "(the model)"
    slots = _chosen_slots(config, site)
    names = ",".join(slot.name for slot in slots)
    return where, site.kind, names, str(site.width), str(site.hidden), f"{_curve_parameters(config, slots):,}"


def _why_no_slot(site: Site, names: tuple[str, ...]) -> str:
    reasons = {
        site.missing.get(name, f"a feed-forward network of the kind {site.kind!r} has no slot {name!r}")
        for name in names
    }
    return "; ".join(sorted(reasons))


def _why_no_site(model: nn.Module) -> str:
    name = type(model).__name__
    convolutions = sum(isinstance(module, CONVOLUTIONS) for module in model.modules())
    linears = sum(linear_shape(module) is not None for module in model.modules())
    if convolutions > linears:
        return (
            f"{name} is a convolutional network ({counted(convolutions, 'convolution')}, "
            f"{counted(linears, 'linear layer')}): it has no feed-forward network to convert."
        )
    experts = [path for path, module in model.named_modules() if len(stacks_of(module)) >= 2]
    if experts:
        return (
            f"{name} keeps its feed-forward networks as stacks of experts, for instance at {experts[0]}, whose "
            "activation is written out inside the forward, where no module can replace it."
        )
    own = [(path, module) for path, module in model.named_modules() if _is_own_linear(module)]
    if len(own) > linears:
        path, module = own[0]
        return (
            f"{name} computes its linear layers by a class of its own, {type(module).__name__}, for instance at "
            f"{path}, which does something else with its weight."
        )
    mixers = [(path, module) for path, module in model.named_modules() if _is_state_space_mixer(module)]
    if mixers:
        path, module = mixers[0]
        return (
            f"{name} has state-space mixers ({type(module).__name__}, for instance at {path}), in which a convolution "
            "and a scan stand between the linear layers, and no feed-forward network beside them."
        )
    return (
        f"{name} has no feed-forward network that kansformer recognises: linear layers d → m → d with an activation "
        f"between them. It has {counted(linears, 'linear layer')} and {counted(convolutions, 'convolution')}."
    )


def _is_own_linear(module: nn.Module) -> bool:
    """Whether this looks like a linear layer and is not one that takes curves."""
    weights = [parameter for name, parameter in module.named_parameters(recurse=False) if name == "weight"]
    is_named_so = type(module).__name__.endswith("Linear")
    return is_named_so and any(weight.ndim == 2 for weight in weights) and linear_shape(module) is None


def _is_state_space_mixer(module: nn.Module) -> bool:
    """Whether a convolution of one axis stands beside linear layers, with the hidden width of one of them."""
    widths = {size for shape in linears_of(module).values() for size in shape}
    return any(isinstance(child, nn.Conv1d) and child.in_channels in widths for child in module.children())
