"""Names of the fixed functions a curve can be added to."""

import inspect
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from kansformer.checks import check_choice
from kansformer.ops.curves import ACTIVATIONS, identity

__all__ = ["BASE_FUNCTIONS", "base_function", "identity", "is_watched", "kernel_name"]

BASE_FUNCTIONS = {name: function for name, function in ACTIVATIONS.items() if name != "gelu_tanh"}


def base_function(name: str) -> Callable[[Tensor], Tensor]:
    """The function of that name.

    Raises:
        ConfigError: there is none.
    """
    return BASE_FUNCTIONS[check_choice("base function", name, BASE_FUNCTIONS)]


_FUNCTION_NAMES = {id(function): name for name, function in ACTIVATIONS.items()}
_MODULE_NAMES: dict[type, str] = {nn.SiLU: "silu", nn.ReLU: "relu", nn.Tanh: "tanh", nn.Identity: "identity"}
_GELU_NAMES = {"none": "gelu", "tanh": "gelu_tanh"}
_WRAPPERS = {
    "SiLUActivation": "silu",
    "LinearActivation": "identity",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
}
"""Modules of transformers, which is not imported here, that call one function of torch."""


def kernel_name(function: Callable[[Tensor], Tensor]) -> str | None:
    """The key of `ACTIVATIONS` that an activation function is, or None: subclasses and hooks may do anything."""
    if not isinstance(function, nn.Module):
        return _FUNCTION_NAMES.get(id(function))
    if type(function) is nn.GELU:
        name: str | None = _GELU_NAMES[function.approximate]
    elif inspect.ismethod(getattr(function, "act", None)):  # GELU as transformers spells it out, on demand
        name = None
    else:
        name = _name_of_module(type(function))
    return None if name is None or is_watched(function) else name


def _name_of_module(kind: type) -> str | None:
    if kind.__module__ == "transformers.activations":
        return _WRAPPERS.get(kind.__name__)
    return _MODULE_NAMES.get(kind)


def is_watched(module: nn.Module) -> bool:
    """Whether anyone may see what goes into this module or comes out of it: by hooks, or by a forward of its own."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )
