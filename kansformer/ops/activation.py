"""An activation function that backends know by name, so that they compute it, or its slope, along with the curves."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class KnownActivation:
    """σ as PyTorch computes it, and its name: `identity`, `silu`, `gelu`, `gelu_tanh`, `relu`, `tanh` or `zero`."""

    name: str
    function: Callable[[Tensor], Tensor]
