"""Names of the fixed functions a curve can be added to."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from kansformer.errors import ConfigError


def identity(x: Tensor) -> Tensor:
    """x itself."""
    return x


BASE_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": identity,
    "silu": F.silu,
    "gelu": F.gelu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "zero": torch.zeros_like,
}


def base_function(name: str) -> Callable[[Tensor], Tensor]:
    """The function of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in BASE_FUNCTIONS:
        raise ConfigError(f"Unknown base function {name!r}. Choose one of: {', '.join(BASE_FUNCTIONS)}.")
    return BASE_FUNCTIONS[name]


_MODULE_NAMES: dict[type, str] = {nn.SiLU: "silu", nn.ReLU: "relu", nn.Tanh: "tanh", nn.Identity: "identity"}
_GELU_NAMES = {"none": "gelu", "tanh": "gelu_tanh"}
_WRAPPERS = {"SiLUActivation": "silu", "LinearActivation": "identity"}
"""Modules of transformers, which is not imported here, that call one function of torch."""


def kernel_name(function: Callable[[Tensor], Tensor]) -> str | None:
    """The name under which kernels know an activation function, or None: subclasses and hooks may do anything."""
    if not isinstance(function, nn.Module):
        return next((name for name, known in BASE_FUNCTIONS.items() if known is function), None)
    if is_watched(function):
        return None
    if type(function) is nn.GELU:
        return _GELU_NAMES[function.approximate]
    if type(function).__module__ == "transformers.activations":
        return _WRAPPERS.get(type(function).__name__)
    return _MODULE_NAMES.get(type(function))


def is_watched(module: nn.Module) -> bool:
    """Whether anyone may see what goes into this module or comes out of it: by hooks, or by a forward of its own."""
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    everywhere = (
        torch_module._global_forward_hooks,
        torch_module._global_forward_pre_hooks,
        torch_module._global_backward_hooks,
        torch_module._global_backward_pre_hooks,
    )
    return any(own) or any(everywhere) or "forward" in vars(module)
