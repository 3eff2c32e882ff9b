"""Put modules into slots and take them out again, in a model or in a shadow that shares everything but the slots."""

import copy
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from kansformer.sites.site import Slot, parent_of

INPUT_CURVE = "input_curve"
"""Name of the module, on the host of an `input` slot, that bends what the host is called with."""


def bend_first_input(host: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The forward pre-hook of an `input` slot's host: its first tensor goes through the input curve."""
    curve = getattr(host, INPUT_CURVE)
    if args:
        return (curve(args[0]), *args[1:]), kwargs
    name = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
    return args, {**kwargs, name: curve(kwargs[name])}


def fill_slot(root: nn.Module, slot: Slot, module: nn.Module) -> Callable[[], None]:
    """Put a module into a slot of the module tree under `root`.

    Returns:
        A function that takes it out again and restores what was there.
    """
    if slot.name == "input":
        host = root.get_submodule(slot.path)
        setattr(host, INPUT_CURVE, module.train(host.training))
        host.register_forward_pre_hook(bend_first_input, with_kwargs=True)
        return partial(remove_input_curve, host)
    owner_path, name = parent_of(slot.path)
    original = getattr(root.get_submodule(owner_path), name)
    # A layer that several modules share stays shared; a function or activation belongs to its site alone.
    places = [(root.get_submodule(owner_path), name)]
    if slot.name != "act":
        places = [(o, n) for o in root.modules() for n, child in o._modules.items() if child is original]
    for owner, attribute in places:
        set_child(owner, attribute, module)

    def undo() -> None:
        for owner, attribute in places:
            set_child(owner, attribute, original)

    return undo


def bends_input(module: nn.Module) -> bool:
    """Whether a module is the host of an `input` slot."""
    return any(hook is bend_first_input for hook in module._forward_pre_hooks.values())


def remove_input_curve(host: nn.Module) -> None:
    """Take the input curve and its hook from a host, also where the hook's handle is long gone."""
    for key, hook in list(host._forward_pre_hooks.items()):
        if hook is bend_first_input:
            del host._forward_pre_hooks[key]
            host._forward_pre_hooks_with_kwargs.pop(key, None)
    delattr(host, INPUT_CURVE)


def set_child(owner: nn.Module, name: str, value: object) -> None:
    """Assign a child module or a plain function, whichever was there before."""
    if not isinstance(value, nn.Module) and name in owner._modules:
        del owner._modules[name]  # torch refuses to assign a plain function over a module
    setattr(owner, name, value)


def shadow(root: nn.Module, slots: list[Slot]) -> nn.Module:
    """A copy of a module that shares all parameters and children with it, except along the way to the slots.

    Filling a slot of the shadow leaves the original as it is, and costs no memory.
    """
    clone = _shallow(root)
    for slot in slots:
        owner = clone
        steps = slot.path.split(".") if slot.name == "input" else slot.path.split(".")[:-1]
        for step in steps if slot.path else []:
            child = owner.get_submodule(step)
            if not hasattr(child, "_is_shadow"):
                child = owner._modules[step] = _shallow(child)
            owner = child
    return clone


def _shallow(module: nn.Module) -> nn.Module:
    clone = copy.copy(module)
    clone.__dict__["_is_shadow"] = True
    for table in ("_modules", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"):
        clone.__dict__[table] = copy.copy(module.__dict__[table])
    return clone
