"""Put modules into slots and take them out again, in a model or in a shadow that shares everything but the slots."""

import copy
from collections.abc import Callable, Collection
from functools import partial

from torch import Tensor, nn

from kansformer.sites.site import INPUT_CURVE, Slot, get_slot_target, parent_of

INPUT_IS_BENT = "input_is_bent"
"""Argument by which an adapter around an `input` slot's host says that its input went through the curve already."""


def apply_input_curve(host: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Forward pre-hook of an `input` slot's host: its first tensor goes through the input curve."""
    if INPUT_IS_BENT in kwargs:
        return args, {name: value for name, value in kwargs.items() if name != INPUT_IS_BENT}
    curve = getattr(host, INPUT_CURVE)
    if args:
        return (curve(args[0]), *args[1:]), kwargs
    name = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
    return args, {**kwargs, name: curve(kwargs[name])}


def uses_of(root: nn.Module, modules: Collection[nn.Module]) -> list[tuple[nn.Module, str]]:
    """Owner and attribute name of every use of these modules as a child; a shared one has several."""
    ids = set(map(id, modules))
    return [(owner, name) for owner in root.modules() for name, child in owner._modules.items() if id(child) in ids]


def fill_slot(root: nn.Module, slot: Slot, module: nn.Module) -> Callable[[], None]:
    """Put a module into a slot of the module tree under `root`.

    Returns:
        A function that takes it out again and restores what was there.
    """
    if slot.name == "input":
        host = root.get_submodule(slot.path)
        setattr(host, INPUT_CURVE, module.train(host.training))
        host.register_forward_pre_hook(apply_input_curve, with_kwargs=True)
        return partial(remove_input_curve, host)
    owner_path, name = parent_of(slot.path)
    original = get_slot_target(root, slot.path)
    # A layer that several modules share stays shared; a function or activation belongs to its site alone.
    uses = uses_of(root, [original]) if slot.name != "act" else [(root.get_submodule(owner_path), name)]
    for owner, attribute in uses:
        set_child(owner, attribute, module)

    def undo() -> None:
        for owner, attribute in uses:
            set_child(owner, attribute, original)

    return undo


def restore_originals(root: nn.Module, curved: Collection[nn.Module]) -> None:
    """Replace modules with curves by the layers they were made from; a layer that several share stays shared."""
    chosen = set(map(id, curved))
    # Input curves first: their host may be a layer that is itself replaced.
    for host in [module for module in root.modules() if has_input_curve(module)]:
        if id(host.get_submodule(INPUT_CURVE)) in chosen:
            remove_input_curve(host)
    originals = {id(module): module.without_curves() for module in curved}  # type: ignore[operator]
    for owner, name in uses_of(root, curved):
        set_child(owner, name, originals[id(owner._modules[name])])


def has_input_curve(module: nn.Module) -> bool:
    """Whether a module is the host of an `input` slot."""
    return any(hook is apply_input_curve for hook in module._forward_pre_hooks.values())


def remove_input_curve(host: nn.Module) -> None:
    """Remove the input curve and its hook from a host, also where the hook's handle is long gone."""
    for key, hook in list(host._forward_pre_hooks.items()):
        if hook is apply_input_curve:
            del host._forward_pre_hooks[key]
            host._forward_pre_hooks_with_kwargs.pop(key, None)
    delattr(host, INPUT_CURVE)


def set_child(owner: nn.Module, name: str, value: object) -> None:
    """Assign a child module or a plain function, whichever was there before."""
    if not isinstance(value, nn.Module) and name in owner._modules:
        del owner._modules[name]  # torch refuses to assign a plain function over a module
    setattr(owner, name, value)


def shadow(root: nn.Module, slots: Collection[Slot]) -> nn.Module:
    """A copy of a module that shares all parameters and children with it, except along the way to the slots.

    Filling a slot of the shadow leaves the original as it is, and costs no memory.
    """
    clone = _shallow(root)
    copied = {id(clone)}
    for slot in slots:
        owner = clone
        path = slot.path if slot.name == "input" else parent_of(slot.path)[0]
        for step in filter(None, path.split(".")):
            child = owner.get_submodule(step)
            if id(child) not in copied:
                child = owner._modules[step] = _shallow(child)
                copied.add(id(child))
            owner = child
    return clone


def _shallow(module: nn.Module) -> nn.Module:
    clone = copy.copy(module)
    for table in ("_modules", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"):
        clone.__dict__[table] = copy.copy(module.__dict__[table])
    return clone
