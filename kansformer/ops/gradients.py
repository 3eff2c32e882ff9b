"""What the autograd functions of the backends share."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

PLAIN_TENSORS = (Tensor, torch.nn.Parameter)


def is_transformed() -> bool:
    """Whether `torch.func` is at work, which cannot look into an autograd function or a kernel."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def needs_definition(*tensors: Tensor | None) -> bool:
    """Whether only the plain definition will do: for compilers, which fuse and tile it themselves, for `torch.func`,
    and for tensors that have no memory of their own to work on."""
    if torch.compiler.is_compiling() or is_transformed():
        return True
    return any(t is not None and type(t) not in PLAIN_TENSORS for t in tensors)


def gradients_of(
    output: Tensor,
    tensors: Sequence[Tensor | None],
    wanted: Sequence[bool],
    gradient: Tensor,
    create_graph: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients in the order of `tensors`, None for those that nobody wants."""
    targets = [t for t, need in zip(tensors, wanted, strict=True) if need and t is not None]
    found = iter(torch.autograd.grad(output, targets, gradient, create_graph=create_graph))
    return tuple(next(found) if need else None for need in wanted)


def gradients_of_definition(
    definition: Callable[..., Tensor], tensors: Sequence[Tensor | None], wanted: Sequence[bool], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again, by the graph of the definition itself."""
    return gradients_of(definition(*tensors), tensors, wanted, gradient, create_graph=True)
