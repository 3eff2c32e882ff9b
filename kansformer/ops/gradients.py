"""What the autograd functions of the backends share."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C import (
    _are_functorch_transforms_active,
    _functorch,
    _get_dispatch_mode,
    _is_tracing,
    _len_torch_dispatch_stack,
)
from torch.autograd import forward_ad

P = ParamSpec("P")
T = TypeVar("T")

PLAIN_TENSORS = (Tensor, torch.nn.Parameter)
PROXY = torch._C._TorchDispatchModeKey.PROXY


def constant_when_compiled(function: Callable[P, T]) -> Callable[P, T]:
    """`torch.compiler.assume_constant_result`, which would import the compiler: its result is taken, not traced."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_when_compiled  # the compiler of torch 2.11 would read it as True whenever it is at work
def is_exported() -> bool:
    """Whether a graph is made that has to run without this package."""
    return torch.compiler.is_exporting()


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """A context in which nothing on the tensor's device is computed in another dtype than its own."""
    device_type = tensor.device.type
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def is_followed() -> bool:
    """Whether torch follows the operations on plain tensors, and sees nothing of a kernel: for `torch.func`,
    forward-mode derivatives, `torch.jit.trace` and `make_fx`."""
    return (
        _are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or _is_tracing()
        or _get_dispatch_mode(PROXY) is not None
    )


def is_watched() -> bool:
    """Whether operations are followed, or a mode sees them and may keep their results, as selective checkpointing does:
    a kernel must not write into that memory."""
    return (
        _are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or _is_tracing()
        or _len_torch_dispatch_stack() > 0
    )


def needs_definition(*tensors: Tensor | str | None, has_operator: bool = False) -> bool:
    """Whether only the plain definition will do: for compilers, which fuse and tile it themselves, where operations are
    followed, and for tensors without memory of their own to work on.

    Args:
        tensors: whatever a kernel would read; strings and None are passed over.
        has_operator: the kernel is also an operator, which a compiler keeps in its graph, unless that is exported.
    """
    if torch.compiler.is_compiling():
        # A transform inside the compiled function: the operator has no rules for it, and would be a constant.
        is_transformed = _are_functorch_transforms_active() or forward_ad._current_level >= 0
        return not has_operator or is_exported() or is_transformed
    if is_followed():
        return True
    for t in tensors:
        # The last two say that the tensor stands for a batch of gradients (`is_grads_batched`).
        if isinstance(t, Tensor) and (
            type(t) not in PLAIN_TENSORS or _functorch.is_legacy_batchedtensor(t) or _functorch.is_batchedtensor(t)
        ):
            return True
    return False


def gradients_of(
    output: Tensor,
    tensors: Sequence[Tensor | None],
    needs_grad: Sequence[bool],
    gradient: Tensor,
    create_graph: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients in the order of `tensors`, None for those that nobody wants."""
    targets = [t for t, need in zip(tensors, needs_grad, strict=True) if need and t is not None]
    if not targets:
        return (None,) * len(needs_grad)
    with without_autocast(gradient):
        gradients = iter(torch.autograd.grad(output, targets, gradient, create_graph=create_graph))
    return tuple(next(gradients) if need else None for need in needs_grad)


def gradients_of_definition(
    definition: Callable[..., Tensor], tensors: Sequence[Tensor | None], needs_grad: Sequence[bool], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients by the graph of the definition itself; they can be differentiated again where gradients are enabled."""
    twice = torch.is_grad_enabled()
    # Of views, since one tensor may be made of another, and the gradient of that would hold this way to it as well.
    tensors = [
        None if t is None else t.view_as(t) if twice else t.detach().requires_grad_(need)
        for t, need in zip(tensors, needs_grad, strict=True)
    ]
    with torch.enable_grad(), without_autocast(gradient):
        output = definition(*tensors)
    return gradients_of(output, tensors, needs_grad, gradient, create_graph=twice)
