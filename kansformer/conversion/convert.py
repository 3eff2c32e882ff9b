"""The swap itself: explicit, in place, proved first, and undone whole when anything fails."""

import warnings
from collections.abc import Mapping

import torch
from torch import nn

from kansformer.config import WEIGHTLESS_SLOTS, KANConfig
from kansformer.conversion.build import build_slot
from kansformer.conversion.checkpoint import attach_record, detach_record, record_of
from kansformer.conversion.plan import ConversionPlan, plan_conversion
from kansformer.conversion.record import ConversionRecord, base_prefix, slot_record
from kansformer.conversion.widths import narrow_site, with_hidden
from kansformer.errors import CheckpointError, ConfigError, ConversionStateError, ProofError, SlotError
from kansformer.nn.curves import curved_modules
from kansformer.nn.fused_gate import fuse_gate, unfuse_gates
from kansformer.nn.transaction import transaction
from kansformer.sites import Slot, find_sites, prove_site
from kansformer.sites.parts import is_activation, linear_shape
from kansformer.sites.site import Site, get_slot_target, parent_of
from kansformer.sites.surgery import bends_input, fill_slot, remove_input_curve, set_child

ROOM = 2**20
"""Numbers that curves may have beyond twice those of their files: of small ones, each tensor is compared later."""


def convert(model: nn.Module, config: KANConfig | None = None, *, verify: bool = True, fuse: bool = True) -> nn.Module:
    """Give a pretrained transformer's feed-forward networks learned curves, in place, without changing its outputs.

    Every curve starts straight, so the logits are the same bit for bit; training then bends the curves. The base
    weights stay the same parameters under the same names.

    Args:
        model: any transformer with feed-forward networks.
        config: which curves and where; None is `KANConfig()`.
        verify: prove every site on random input before anything is replaced. Cannot be done on the meta device.
        fuse: compute activation, curve and product of plain gated blocks in one kernel, with the same bits. Hooks on
            the activation see it all the same.

    Returns:
        The same model.

    Raises:
        ConversionStateError: it is converted already, or quantised.
        NoSiteError: it has no feed-forward network.
        SlotError, ConfigError: the config asks for a slot, layer or group that is not there.
        ProofError: a site did not reproduce the original. The model is left as it was after any error.
    """
    with transaction(model):
        plan = plan_conversion(model, KANConfig() if config is None else config)
        install_curves(model, plan, verify=verify)
        if not fuse:
            unfuse_gates(model)
        return model


def install_curves(
    model: nn.Module, plan: ConversionPlan, *, verify: bool, widths: Mapping[str, int] | None = None
) -> None:
    """Build what a plan says, prove it, put it in and mark the model as converted; to be called in `transaction`.

    Args:
        model: in the state that the plan's sites describe.
        plan: which curves, and where.
        verify: prove every site first.
        widths: hidden width by path of the sites that were narrowed before, for the record.

    Raises:
        SlotError, ProofError: as `convert`.
    """
    built = []
    for planned in plan.sites:
        specs = {slot: plan.config.curve_spec(slot.name) for slot in planned.slots}
        modules = {slot.name: build_slot(model, planned.site, slot, spec) for slot, spec in specs.items()}
        if verify:
            _check_materialised(planned.site, modules)
            prove_site(model, planned.site, modules)
        built += [(slot, modules[slot.name]) for slot in planned.slots]
    if plan.skipped:
        path, reason = plan.skipped[0]
        warnings.warn(f"{len(plan.skipped)} sites stay as they are, for instance {path}: {reason}.", stacklevel=4)
    prefix = base_prefix(model)
    slots = tuple(slot_record(slot, prefix) for slot, _ in built)
    hidden = {path.removeprefix(prefix): width for path, width in (widths or {}).items()}
    install(model, built, ConversionRecord(plan.config, slots, hidden))


def rebuild(model: nn.Module, record: ConversionRecord, *, most: int | None = None) -> nn.Module:
    """Put empty slots into a freshly made plain model, as a checkpoint's record says; weights are loaded afterwards.

    Layers that the record calls narrower are made so first.

    Args:
        model: the plain model.
        record: which curves, and where.
        most: numbers that the checkpoint's files hold in all; None where it is not known.

    Raises:
        CheckpointError: the model has no such path, or what stands there cannot take these curves or that width, or
            the curves would have far more numbers than the files, which is seen before memory is asked for.
    """
    _narrow_as_recorded(model, record, base_prefix(model))
    return fill_recorded(model, record, most=most)


def fill_recorded(model: nn.Module, record: ConversionRecord, *, most: int | None = None) -> nn.Module:
    """`rebuild` of a model whose layers have the recorded widths already."""
    prefix = base_prefix(model)
    built = []
    needed: dict[int, int] = {}
    for entry in record.slots:
        slot = _located(model, entry.to_slot(prefix), entry.to_slot(""))
        owner = Site(path=slot.path if slot.name == "input" else parent_of(slot.path)[0], kind="recorded",
                     width=slot.features, hidden=slot.features, slots={})  # fmt: skip
        spec = record.config.curve_spec(slot.name)
        try:
            target = model if slot.name in WEIGHTLESS_SLOTS else get_slot_target(model, slot.path)
            shape = linear_shape(target)
            # Several paths may lead to the same layer, whose curves are there once.
            count = spec.num_parameters(slot.features, shape[1] if shape else None)
            needed[len(needed) if target is model else id(target)] = count
            if most is not None and sum(needed.values()) > 2 * most + ROOM:
                raise CheckpointError(
                    f"The checkpoint's settings ask for curves of {sum(needed.values()):,} numbers up to {slot.path}, "
                    f"and its files hold {most:,} in all. It was changed after it was saved, or saved incompletely."
                )
            built.append((slot, build_slot(model, owner, slot, spec)))
        except (ConfigError, SlotError) as error:
            raise CheckpointError(f"The checkpoint's curves do not fit at {slot.path}: {error}") from error
    install(model, built, record)
    return model


def revert(model: nn.Module) -> nn.Module:
    """Take all curves out of a converted model, in place: the exact inverse of `convert`.

    Base weights keep their current values, trained or not; what the curves had learned is dropped.

    Returns:
        The same model.

    Raises:
        ConversionStateError: the model is not converted, or its original layers are gone.
    """
    record = record_of(model)
    if record is None:
        raise ConversionStateError("The model is not converted, so there is nothing to revert.")
    if record.widths:
        path, hidden = next(iter(record.widths.items()))
        raise ConversionStateError(
            f"The feed-forward networks of {len(record.widths)} sites were replaced by narrower ones, for instance "
            f"{base_prefix(model)}{path} by one with {hidden} hidden channels. The original layers are gone; load the "
            "original model instead."
        )
    return remove_curves(model)


def remove_curves(model: nn.Module) -> nn.Module:
    """Take all curves out of a converted model, in place, whatever the widths of its layers are."""
    with transaction(model):
        unfuse_gates(model)
        for host in [module for module in model.modules() if bends_input(module)]:
            remove_input_curve(host)
        curved = {id(module): module for _, module in curved_modules(model)}
        originals: dict[int, object] = {}  # a layer that several modules share stays shared
        for owner in list(model.modules()):
            for name, child in list(owner._modules.items()):
                if child is not None and id(child) in curved:
                    if id(child) not in originals:
                        originals[id(child)] = curved[id(child)].without_curves()
                    set_child(owner, name, originals[id(child)])
        detach_record(model)
        return model


def is_converted(model: nn.Module) -> bool:
    """Whether `convert`, or loading a converted checkpoint, put curves into this model."""
    return record_of(model) is not None


def install(model: nn.Module, built: list[tuple[Slot, nn.Module]], record: ConversionRecord) -> None:
    """Fill the slots and mark the model as converted, or leave it as it was."""
    with transaction(model):
        # Input curves last: their host may be a layer that is itself replaced.
        for slot, module in sorted(built, key=lambda pair: pair[0].name == "input"):
            fill_slot(model, slot, module)
        for slot, _ in built:
            if slot.name == "act":
                owner, name = parent_of(slot.path)
                fuse_gate(model.get_submodule(owner), name)
        attach_record(model, record)


def _narrow_as_recorded(model: nn.Module, record: ConversionRecord, prefix: str) -> None:
    found = {site.path: site for site in find_sites(model)} if record.widths else {}
    for path, hidden in record.widths.items():
        site = found.get(prefix + path) or found.get(path)
        if site is None:
            raise CheckpointError(
                f"The checkpoint has a feed-forward network with {hidden} hidden channels at {prefix}{path}, but "
                f"{type(model).__name__} has none there."
            )
        try:
            with_hidden(site, hidden)
            narrow_site(model, site, torch.arange(hidden))
        except (ConfigError, SlotError) as error:
            raise CheckpointError(f"The checkpoint's width does not fit at {site.path}: {error}") from error


def _located(model: nn.Module, *candidates: Slot) -> Slot:
    for slot in candidates:
        owner_path, name = parent_of(slot.path)
        try:
            owner = model.get_submodule(slot.path if slot.name == "input" else owner_path)
        except AttributeError:
            continue
        # Never by getattr: a stranger's path may name a method of the model.
        target = owner if slot.name == "input" else owner._modules.get(name, vars(owner).get(name))
        if target is None:
            continue
        shape = linear_shape(target) if isinstance(target, nn.Module) else None
        if slot.name in ("up", "gate", "down") and (shape is None or shape[0] != slot.features):
            raise CheckpointError(
                f"The checkpoint has curves for {slot.features} inputs at {slot.path}, where this model has "
                f"{type(target).__name__} with {shape[0] if shape else 'no'} inputs."
            )
        if slot.name == "act" and not is_activation(target):
            raise CheckpointError(f"The checkpoint has an activation at {slot.path}, which is {target!r:.40} here.")
        return slot
    raise CheckpointError(
        f"The checkpoint has curves at {candidates[0].path}, but {type(model).__name__} has no such module."
    )


def _check_materialised(site: Site, modules: dict[str, nn.Module]) -> None:
    if any(p.is_meta for module in modules.values() for p in module.parameters()):
        raise ProofError(
            f"The weights of {site.path} are not in memory, so it cannot be proved. Load the model without offloading, "
            "or pass verify=False."
        )
