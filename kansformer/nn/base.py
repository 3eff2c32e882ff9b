"""Names of the fixed functions a curve can be added to."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

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
