"""Take the curves out of some slots of a converted model; the others stay."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from torch import nn

from kansformer.config import KANConfig
from kansformer.conversion.checkpoint import attach_record, record_of
from kansformer.conversion.convert import revert
from kansformer.conversion.record import base_prefix
from kansformer.errors import ConversionStateError, SlotError
from kansformer.nn.curves import curved_modules
from kansformer.nn.fused_gate import fuse_gate, unfuse_gates
from kansformer.nn.transaction import transaction
from kansformer.sites.site import parent_of
from kansformer.sites.surgery import INPUT_CURVE, remove_input_curve, set_child


def drop_slots(model: nn.Module, paths: Collection[str]) -> nn.Module:
    """Put the original layers back into some slots, in place: `revert` for a part of the model.

    Args:
        model: converted.
        paths: of the modules with curves, as in `model.named_modules()`.

    Returns:
        The same model, which saves as a converted one with the slots that are left, or is plain if none is.

    Raises:
        ConversionStateError: the model is not converted.
        SlotError: a path is no module that `convert` put there, or no slot would be left of a model whose layers are
            narrower than its config says. The model is left as it was.
    """
    record = record_of(model)
    if record is None:
        raise ConversionStateError("The model is not a converted one, so no slot can be given its original layer back.")
    refuse_adapters(model)
    prefix = base_prefix(model)
    located = {prefix + slot.path + (f".{INPUT_CURVE}" if slot.name == "input" else ""): slot for slot in record.slots}
    for path in paths:
        if path not in located:
            raise SlotError(
                f"{path!r} is no slot of this model. Choose from {len(located)}, such as {next(iter(located))}."
            )
    if not paths:
        return model
    # By identity: a layer that several modules share has several paths.
    dropped = {id(model.get_submodule(path)) for path in paths}
    paths = {path for path in located if id(model.get_submodule(path)) in dropped}
    left = tuple(slot for path, slot in located.items() if path not in paths)
    if not left and not record.widths:
        return revert(model)
    if not left:
        raise SlotError("The feed-forward networks are narrower than the model's config says, so one slot must stay.")
    with transaction(model):
        unfuse_gates(model)
        for path in paths:
            owner, name = parent_of(path)
            if located[path].name == "input":
                remove_input_curve(model.get_submodule(owner))
                continue
            curved: Any = model.get_submodule(path)
            if id(curved) not in dropped:
                continue  # put back already, under another of its paths
            original = curved.without_curves()
            for parent in list(model.modules()):  # a layer that several modules share stays shared
                for attribute, child in list(parent._modules.items()):
                    if child is curved:
                        set_child(parent, attribute, original)
        for slot in left:
            if slot.name == "act":
                owner, name = parent_of(prefix + slot.path)
                fuse_gate(model.get_submodule(owner), name)
        config = _config_of(record.config, {slot.name for slot in left})
        attach_record(model, replace(record, config=config, slots=left))
        return model


def refuse_adapters(model: nn.Module) -> None:
    """See that no adapter stands around a layer with curves.

    Raises:
        ConversionStateError: one does.
    """
    if hasattr(model, "get_base_model") or any(path.endswith(".base_layer") for path, _ in curved_modules(model)):
        raise ConversionStateError("The model has adapters around its layers. Merge them first, by merge_and_unload().")


def _config_of(config: KANConfig, names: Collection[str]) -> KANConfig:
    kinds = {config.curve_spec(name).edges for name in names}
    edges = kinds.pop() if len(kinds) == 1 else config.edges  # those without weights may have been left alone
    return replace(config, slots=tuple(name for name in config.slots if name in names), edges=edges)
