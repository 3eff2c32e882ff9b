"""What the autograd functions of the backends share."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

PLAIN_TENSORS = (Tensor, torch.nn.Parameter)


def is_transformed() -> bool:
    """Whether `torch.func` is at work, which cannot look into an autograd function or a kernel."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def constant_when_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compiler.assume_constant_result`, which would import the compiler: its result is taken, not traced."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def is_compiled() -> bool:
    """Whether a graph is made that may hold operators of ours. What is exported has to run without this package."""
    return torch.compiler.is_compiling() and not is_exported()


@constant_when_compiled  # the compiler of torch 2.11 would read it as True whenever it is at work
def is_exported() -> bool:
    """Whether a graph is made that has to run without this package."""
    return torch.compiler.is_exporting()


def needs_definition(*tensors: Tensor | None) -> bool:
    """Whether only the plain definition will do: for compilers, which fuse and tile it themselves, for `torch.func`,
    and for tensors that have no memory of their own to work on."""
    if torch.compiler.is_compiling() or is_transformed():
        return True
    return any(t is not None and (type(t) not in PLAIN_TENSORS or _is_batched(t)) for t in tensors)


def _is_batched(tensor: Tensor) -> bool:
    """Whether a tensor stands for a batch of gradients (`is_grads_batched`)."""
    return torch._C._functorch.is_legacy_batchedtensor(tensor) or torch._C._functorch.is_batchedtensor(tensor)


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
    """Gradients by the graph of the definition itself; they can be differentiated again where gradients are enabled."""
    twice = torch.is_grad_enabled()
    if not twice:
        tensors = [
            None if t is None else t.detach().requires_grad_(need) for t, need in zip(tensors, wanted, strict=True)
        ]
    with torch.enable_grad():
        output = definition(*tensors)
    return gradients_of(output, tensors, wanted, gradient, create_graph=twice)
