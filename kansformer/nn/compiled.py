"""What `torch.compile` does not look at again."""

import sys

import torch


def forget_compiled() -> None:
    """Make `torch.compile` compile again, if it has compiled anything: hooks that are added to a module in a graph
    would not run."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and dynamo.utils.counters["stats"]:
        torch.compiler.reset()
