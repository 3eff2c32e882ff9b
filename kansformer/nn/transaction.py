"""Changes of a model as transactions: after any exception the model is as it was before."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from kansformer.nn.activation import LearnedActivation


def snapshot(model: nn.Module, replaced: Iterable[Tensor] = ()) -> Callable[[], None]:
    """Remember a model's modules, tensors, hooks, modes, attributes and configs.

    They are kept by reference, which takes little memory; values that are overwritten in place are not kept. Nor is the
    `data` of a tensor, but for those that will be `replaced`.

    Returns:
        A function that puts everything back, the same objects in the same tables. It can be called several times.
    """
    kept, data = [], [(tensor, tensor.data) for tensor in replaced]
    for owner in _owners(model):
        table = vars(owner)
        # Handles of hooks, and others, know the inner tables by identity, so these are refilled and not replaced.
        inner = [(value, value.copy()) for value in table.values() if isinstance(value, (dict, set, list))]
        kept.append((table, table.copy(), inner))

    def put_back() -> None:
        for tensor, values in data:
            tensor.data = values
        for table, before, inner in kept:
            _refill(table, before)
            for value, content in inner:
                _refill(value, content)

    return put_back


@contextmanager
def transaction(model: nn.Module, replaced: Iterable[Tensor] = ()) -> Iterator[None]:
    """Context in which a model is changed completely, or not at all: after an exception it is as it was before.

    This holds for any exception, KeyboardInterrupt too, and for everything that `snapshot` keeps, which explains the
    arguments.
    """
    put_back = snapshot(model, replaced)
    try:
        with outside_inference_mode():
            yield
    except BaseException:
        put_back()
        raise


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Context or decorator in which tensors are made that can be trained later; without gradients in inference mode."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():  # the first alone switches gradients on
        yield


@contextmanager
def undone_afterwards() -> Iterator[ExitStack]:
    """Yields a stack of functions that are called at the end, also when an interruption comes while they are called."""
    stack = ExitStack()
    try:
        with stack:
            yield stack
    except BaseException:
        stack.close()
        raise


def all_modules(model: nn.Module) -> list[nn.Module]:
    """The modules of a model, and those in the fixed functions of learned activations, which are not submodules."""
    modules = list(model.modules())
    functions = [module.activation for module in modules if isinstance(module, LearnedActivation)]
    return modules + [
        inner for function in functions if isinstance(function, nn.Module) for inner in function.modules()
    ]


def _owners(model: nn.Module) -> list[Any]:
    """All modules, and transformers configs."""
    modules = all_modules(model)
    configs = [vars(module).get("config") for module in modules]
    owners = [*modules, *(config for config in configs if hasattr(config, "to_dict"))]
    return list({id(owner): owner for owner in owners}.values())


def _refill(value: Any, content: Any) -> None:
    if _has_same_objects(value, content):  # which leaves tables alone that refuse changes, such as diffusers' configs
        return
    if isinstance(value, list):
        value[:] = content
    else:
        value.clear()
        value.update(content)


def _has_same_objects(value: Any, content: Any) -> bool:
    """Whether a table has the same objects in the same order as its copy."""
    same_keys = len(value) == len(content) and all(map(is_, value, content))
    return same_keys and (not isinstance(value, dict) or all(map(is_, value.values(), content.values())))
