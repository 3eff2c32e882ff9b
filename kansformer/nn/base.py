"""Names of the fixed functions a curve can be added to."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


_NAMES = {function: name for name, function in BASE_FUNCTIONS.items()}
_MODULE_NAMES: dict[type, str] = {nn.SiLU: "silu", nn.ReLU: "relu", nn.Tanh: "tanh", nn.Identity: "identity"}
_GELU_NAMES = {"none": "gelu", "tanh": "gelu_tanh"}


def kernel_name(function: Callable[[Tensor], Tensor]) -> str | None:
    """The name under which kernels know an activation function, or None. Subclasses and hooks may do anything."""
    if not isinstance(function, nn.Module):
        return _NAMES.get(function)
    if function._forward_hooks or function._forward_pre_hooks:
        return None
    if type(function) is nn.GELU:
        return _GELU_NAMES[function.approximate]
    return _MODULE_NAMES.get(type(function))
