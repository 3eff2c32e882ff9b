"""The swap itself: explicit, in place, verified first, and undone completely when anything fails."""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import nn

from kansformer.config import KANConfig
from kansformer.conversion.build import build_slot
from kansformer.conversion.plan import ConversionPlan, check_model, how_to_revert, plan_conversion
from kansformer.conversion.record import ConversionRecord, base_prefix, record_of, rooted_slot, uncompiled
from kansformer.conversion.slots import check_no_adapters, check_not_dispatched, recorded_modules, tie_and_freeze
from kansformer.conversion.transformers_patches import attach_record, detach_record
from kansformer.errors import ConversionStateError, SlotError
from kansformer.nn.curves import INSTALLED, curved_modules
from kansformer.nn.fused_gate import fuse_gate, unfuse_gates
from kansformer.nn.transaction import transaction
from kansformer.sites import Slot, verify_site
from kansformer.sites.fused_paths import set_fused_paths
from kansformer.sites.site import parent_of
from kansformer.sites.surgery import fill_slot, restore_originals
from kansformer.wording import counted

ON_ONE_DEVICE = "its layers cannot be exchanged. Load it without device_map first."


def convert(model: nn.Module, config: KANConfig | None = None, *, verify: bool = True, fuse: bool = True) -> nn.Module:
    """Give a pretrained transformer's feed-forward networks learned curves, in place, without changing its outputs.

    Every curve starts straight, so the logits are the same bit for bit; training then shapes the curves. The base
    weights stay the same parameters under the same names. With `curves` in the config the blocks are verified in the
    same way, and then get those curves, which are another function.

    Args:
        model: any transformer with feed-forward networks.
        config: which curves and where; None is `KANConfig()`.
        verify: compare every site with the original on random input before anything is replaced. Not possible on the
            meta device.
        fuse: compute activation, curve and product of plain gated blocks in one kernel, with the same bits. Hooks on
            the activation see it all the same.

    Returns:
        The same model.

    Raises:
        ConversionStateError: it is converted already, has adapters, or is quantised.
        NoSiteError: it has no feed-forward network.
        SlotError, ConfigError: the config asks for a slot, layer, group or file of curves that is not there.
        CheckpointError: the file of curves is not one.
        ProofError: a site did not reproduce the original. The model is left as it was after any error.

    Examples:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> from kansformer import KANConfig, convert
        >>> config = LlamaConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
        >>> model, tokens = LlamaModel(config), torch.arange(6).unsqueeze(0)
        >>> before = model(tokens).last_hidden_state
        >>> model = convert(model, KANConfig(grid_size=8))
        >>> torch.equal(model(tokens).last_hidden_state, before)  # until it is trained
        True
    """
    given, model = model, uncompiled(model)
    check_model(model)
    with transaction(model):
        plan = plan_conversion(model, KANConfig() if config is None else config)
        execute_plan(model, plan, verify=verify)
        if not fuse:
            unfuse_gates(model)
        return given


def execute_plan(
    model: nn.Module, plan: ConversionPlan, *, verify: bool, widths: Mapping[str, int] | None = None
) -> None:
    """Build the modules of a plan, verify and install them; to be called in a `transaction`.

    `widths`, for the record, are the hidden widths by path of the sites that were narrowed before.

    Raises:
        SlotError, ProofError: as `convert`.
    """
    built = []
    for site in plan.sites:
        slots = plan.slots_of(site)
        modules = {slot.name: build_slot(model, slot, plan.config.curve_spec(slot.name)) for slot in slots}
        if verify:
            verify_site(model, site, modules)
        built += [(slot, modules[slot.name]) for slot in slots]
    if plan.skipped:
        path, reason = plan.skipped[0]
        count = counted(len(plan.skipped), "site")
        warnings.warn(f"No curves in {count}, for instance in {path}: {reason}.", stacklevel=3)
    prefix = base_prefix(model)
    recorded = tuple(replace(slot, path=slot.path.removeprefix(prefix), out_features=None) for slot, _ in built)
    hidden = {path.removeprefix(prefix): width for path, width in (widths or {}).items()}
    if plan.curves is not None:
        plan.curves.put(built)
    install(model, built, ConversionRecord(plan.config, recorded, hidden))


def install(model: nn.Module, built: Collection[tuple[Slot, nn.Module]], record: ConversionRecord) -> None:
    """Fill the slots and mark the model as converted; to be called in a `transaction`."""
    # Input curves last: their host may be a layer that is itself replaced.
    for slot, module in sorted(built, key=lambda pair: pair[0].name == "input"):
        vars(module)[INSTALLED] = True
        fill_slot(model, slot, module)
    set_fused_paths(model)
    _mark_converted(model, record)
    tie_and_freeze(model, record)


def revert(model: nn.Module) -> nn.Module:
    """Take all curves out of a converted model, in place: the exact inverse of `convert`.

    Base weights keep their current values, trained or not; what the curves had learned is dropped.

    Args:
        model: converted.

    Returns:
        The same model.

    Raises:
        ConversionStateError: the model is not converted, has adapters, or its original layers are gone, or accelerate
            moves its weights between devices.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import convert, revert
        >>> model = convert(Sequential(Linear(4, 8), SiLU(), Linear(8, 4)))
        >>> [type(module).__name__ for module in model]
        ['Linear', 'LearnedActivation', 'Linear']
        >>> [type(module).__name__ for module in revert(model)]
        ['Linear', 'SiLU', 'Linear']
    """
    check_model(model)
    record = record_of(model)
    if record is None:
        call = how_to_revert(model)
        advice = "" if call == "revert(model)" else f" A part of it is: {call}."
        raise ConversionStateError(f"The model is not converted, so there is nothing to revert.{advice}")
    if record.widths:
        path, hidden = next(iter(record.widths.items()))
        raise ConversionStateError(
            f"The feed-forward networks of {len(record.widths)} sites were replaced by narrower ones, for instance "
            f"{base_prefix(model)}{path} by one with {hidden} hidden channels. The original layers are gone; load the "
            "original model instead."
        )
    check_no_adapters(model)
    check_not_dispatched(model, ON_ONE_DEVICE)
    with transaction(model):
        remove_curves(model)
        return model


def drop_slots(model: nn.Module, paths: Collection[str]) -> nn.Module:
    """Put the original layers back into some slots, in place: `revert` for a part of the model.

    Args:
        model: converted.
        paths: of the modules with curves, as in `model.named_modules()`.

    Returns:
        The same model. It saves as a converted one with the slots that are left, or is plain if there are none.

    Raises:
        ConversionStateError: the model is not converted, has adapters, or accelerate moves its weights between devices.
        SlotError: `convert` put no module at one of the paths, or no slot would be left of a model whose layers are
            narrower than its config says. The model is left as it was.
    """
    record = record_of(model)
    if record is None:
        raise ConversionStateError("The model is not a converted one, so no slot can be given its original layer back.")
    check_no_adapters(model)
    check_not_dispatched(model, ON_ONE_DEVICE)
    recorded = recorded_modules(model, record)
    by_path = {slot.curve_path: module for slot, module in recorded}
    for path in paths:
        if path not in by_path:
            raise SlotError(
                f"{path!r} is not a slot of this model. Choose from {len(by_path)}, such as {next(iter(by_path))}."
            )
    if not paths:
        return model
    # By identity: a layer that several modules share has several paths.
    dropped = {id(by_path[path]): by_path[path] for path in paths}
    left = tuple(slot for slot, (_, module) in zip(record.slots, recorded, strict=True) if id(module) not in dropped)
    if not left and record.widths:
        raise SlotError("The feed-forward networks are narrower than the model's config says, so one slot must stay.")
    with transaction(model):
        remove_curves(model, dropped.values(), record.with_slots(left) if left else None)
        return model


def remove_curves(
    model: nn.Module, modules: Collection[nn.Module] | None = None, remaining: ConversionRecord | None = None
) -> None:
    """Put the original layers back in the place of these modules with curves, or of all; to be called in a
    `transaction`. The model becomes a plain one, unless there is a record of the `remaining` curves."""
    unfuse_gates(model)
    restore_originals(model, [module for _, module in curved_modules(model)] if modules is None else modules)
    set_fused_paths(model)
    if remaining is None:
        detach_record(model)
    else:
        _mark_converted(model, remaining)


def is_converted(model: nn.Module) -> bool:
    """Whether `convert`, or loading a converted checkpoint, put curves into this model.

    Args:
        model: any model.

    Returns:
        False for a plain model, and for one of modules that have curves of their own, such as `KANLinear`.

    Raises:
        ConfigError: it is not a `torch.nn.Module`.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import convert, is_converted
        >>> model = Sequential(Linear(4, 8), SiLU(), Linear(8, 4))
        >>> is_converted(model), is_converted(convert(model))
        (False, True)
    """
    check_model(model)
    return record_of(model) is not None


def _mark_converted(model: nn.Module, record: ConversionRecord) -> None:
    for slot in record.slots:
        if slot.name == "act":
            owner, name = parent_of(rooted_slot(model, slot).path)
            fuse_gate(model.get_submodule(owner), name)
    attach_record(model, record)
