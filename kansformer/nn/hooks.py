"""Hooks on modules that others wrote and may have compiled: what such a module was called with, and that hooks run."""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor


def input_of(args: tuple, kwargs: Mapping[str, object]) -> Tensor:
    """The first tensor that a module was called with, by place or by name."""
    return args[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor))


_lock = threading.Lock()
_contexts = 0
"""How many contexts of `run_eagerly` are open, in all threads."""
_stance: AbstractContextManager[object] | None = None
"""What the first of them changed, and the last puts back."""


@contextmanager
def run_eagerly() -> Iterator[None]:
    """Within it, compiled models run as they are written: hooks that were added since would not run in their graphs.

    PyTorch has one stance for all threads. Contexts of several threads need not end in the reverse of their order, so
    that each cannot put back what it met: the last one would leave compilation off.
    """
    global _contexts, _stance
    with _lock:
        if _stance is None and "torch._dynamo" in sys.modules:
            _stance = torch.compiler.set_stance("force_eager")
        _contexts += 1
    try:
        yield
    finally:
        with _lock:
            _contexts -= 1
            if not _contexts and _stance is not None:
                _stance.__exit__(None, None, None)
                _stance = None


def forget_compiled() -> None:
    """Make `torch.compile` compile again, if it has compiled anything: for hooks that stay while others run the model,
    which may be long."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and dynamo.utils.counters["stats"]:
        torch.compiler.reset()


def outside_graphs(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook that `torch.compile`, if it is in use, calls as it is: traced, one that counts ends a graph many times."""
    dynamo = sys.modules.get("torch._dynamo")
    return hook if dynamo is None else dynamo.disable(hook)
