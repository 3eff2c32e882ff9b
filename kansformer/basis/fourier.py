"""Sines and cosines whose longest period is the domain: 1, cos(2πku), sin(2πku) for k = 1 … grid size.

Shape letters: `...` any, G frequencies, C = 2G + 1 coefficients. The order plays no part.
"""

import math

import torch
from torch import Tensor

MAX_ORDER = None


def num_coefficients(grid_size: int, order: int) -> int:
    """C = 2G + 1: a constant, G cosines, G sines."""
    return 2 * grid_size + 1


def values(unit: Tensor, grid_size: int, order: int) -> Tensor:
    """Basis values (..., C) at unit coordinates (...) in [0, 1]."""
    angle = unit.unsqueeze(-1) * _frequencies(unit, grid_size)
    return torch.cat([torch.ones_like(unit).unsqueeze(-1), angle.cos(), angle.sin()], dim=-1)


def derivatives(unit: Tensor, grid_size: int, order: int) -> Tensor:
    """Derivatives (..., C) by the unit coordinate (...) in [0, 1]."""
    frequency = _frequencies(unit, grid_size)
    angle = unit.unsqueeze(-1) * frequency
    constant = torch.zeros_like(unit).unsqueeze(-1)
    return torch.cat([constant, -frequency * angle.sin(), frequency * angle.cos()], dim=-1)


def _frequencies(unit: Tensor, grid_size: int) -> Tensor:
    return torch.arange(1, grid_size + 1, device=unit.device, dtype=unit.dtype) * (2 * math.pi)
