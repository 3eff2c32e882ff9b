"""Outputs as a flat list of tensors, and their comparison bit for bit."""

from __future__ import annotations

import torch
from torch import nn


def flatten(value: object) -> list[torch.Tensor]:
    """Every tensor of a nested output, in a fixed order. Caches are state, not results, and are left out."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [
            tensor for key, item in value.items() if key not in ("past_key_values", "cache") for tensor in flatten(item)
        ]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in flatten(item)]
    return []


def run(model: nn.Module, inputs: dict[str, object], seed: int = 0) -> list[torch.Tensor]:
    """One forward without gradients. The global generator is seeded: some models draw noise or masks in eval mode."""
    torch.manual_seed(seed)
    copies = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    with torch.no_grad():
        return [tensor.clone() for tensor in flatten(model(**copies))]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Equal to the bit; NaN equals NaN."""
    return len(first) == len(second) and all(map(_equal, first, second))


def all_finite(tensors: list[torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point())


def _equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    if first.dtype != second.dtype:
        return False
    if torch.equal(first, second):
        return True
    if first.shape != second.shape or not first.is_floating_point():
        return False
    nan = torch.isnan(first)
    return torch.equal(nan, torch.isnan(second)) and torch.equal(first[~nan], second[~nan])
