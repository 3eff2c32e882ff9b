"""Transformers' model inside a server, which makes it on the meta device and replaces its layers by its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from kansformer.conversion.build import build_slot
from kansformer.conversion.rebuild import check_slot
from kansformer.conversion.record import recorded_target
from kansformer.conversion.transformers_patches import remove_tripwire
from kansformer.serving.checkpoint import ServedCurves
from kansformer.sites.site import Slot, parent_of
from kansformer.sites.surgery import fill_slot


@contextmanager
def plain_config(config: Any) -> Iterator[None]:
    """Context in which a transformers config describes the plain model: `from_config` would give it curves, too."""
    names = ("quantization_config", "fusion_config")
    kept = {name: vars(config)[name] for name in names if name in vars(config)}
    vars(config).pop("quantization_config", None)
    remove_tripwire(config)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(config, name, value)


def is_elsewhere(model: nn.Module, path: str, placeholder: type[nn.Module]) -> bool:
    """Whether a path leads into layers of another pipeline stage, in whose place a server puts a `placeholder`."""
    module: nn.Module | None = model
    for name in path.split("."):
        module = module._modules.get(name) if module is not None else None
        if isinstance(module, placeholder):
            return True
    return False


def place_slot(model: nn.Module, slot: Slot, curves: ServedCurves, placeholder: type[nn.Module]) -> bool:
    """Fill a recorded slot of transformers' model, if that is not for one of the server's own layers to do.

    Args:
        model: before the server replaces its layers.
        slot: of the checkpoint's record.
        curves: of the model.
        placeholder: as in `is_elsewhere`.

    Returns:
        Whether there is a module with curves now.

    Raises:
        CheckpointError: the model has no such path, or something there that cannot take the recorded curves.
    """
    if is_elsewhere(model, slot.path, placeholder):
        curves.skip(slot)
        return False
    target = recorded_target(model, slot)
    check_slot(model, slot, target)
    owner = slot.path if slot.name == "input" else parent_of(slot.path)[0]
    is_experts = any(parameter.ndim == 3 for parameter in model.get_submodule(owner).parameters(recurse=False))
    if isinstance(target, nn.Linear) or is_experts:
        return False
    fill_slot(model, slot, build_slot(model, slot, curves.spec_of(slot)))
    return True
