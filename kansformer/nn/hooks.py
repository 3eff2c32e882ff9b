"""Hooks on modules that others wrote and may have compiled: what such a module was called with, and that hooks run."""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def input_of(args: tuple, kwargs: Mapping[str, object]) -> Tensor:
    """The first tensor that a module was called with, by place or by name."""
    return args[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor))


def run_eagerly() -> AbstractContextManager[object]:
    """A context in which compiled models run as they are written: hooks that were added since would not run in their
    graphs."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def forget_compiled() -> None:
    """Make `torch.compile` compile again, if it has compiled anything: for hooks that stay while others run the model,
    which may be long."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and dynamo.utils.counters["stats"]:
        torch.compiler.reset()
