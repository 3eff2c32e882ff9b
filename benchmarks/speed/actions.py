"""The two measured actions of a block: forward alone, and forward with every gradient."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kansformer.ops import set_backend
from speed.blocks import Variant
from speed.sizes import Size


@contextmanager
def conditions(variant: Variant, size: Size, device: str) -> Iterator[None]:
    """The backend and the autocast that a variant is to run under."""
    if variant.backend is not None:
        set_backend(variant.backend)
    try:
        with torch.autocast(device, torch.bfloat16, enabled=size.autocast):
            yield
    finally:
        if variant.backend is not None:
            set_backend(None)


def make_actions(
    variant: Variant, size: Size, device: str, block: nn.Module, x_ND: Tensor, gradient_ND: Tensor
) -> dict[str, Callable[[], object]]:
    """`forward`, which keeps nothing, and `step`, which computes the gradients of input and parameters.

    A step has no optimizer. Its output gets a random gradient: that of a sum would have no memory of its own.
    """
    differentiated = [x_ND, *(parameter for parameter in block.parameters() if parameter.requires_grad)]

    def forward() -> object:
        with torch.no_grad(), conditions(variant, size, device):
            return block(x_ND)

    def step() -> object:
        with conditions(variant, size, device):
            y_ND = block(x_ND)
            return torch.autograd.grad(y_ND, differentiated, gradient_ND.to(y_ND.dtype), allow_unused=True)

    return {"forward": forward, "step": step}
