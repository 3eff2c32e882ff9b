"""Gaussian bumps centred on the grid's knots, as wide as a grid interval (the basis of FastKAN, Li 2024).

Shape letters: `...` any, G grid intervals, C = G + 1 coefficients. The order plays no part.
"""

import torch
from torch import Tensor

MAX_ORDER = None


def num_coefficients(grid_size: int, order: int) -> int:
    """C = G + 1, one per knot."""
    return grid_size + 1


def values(unit: Tensor, grid_size: int, order: int) -> Tensor:
    """Basis values (..., C) = exp(-(distance to the knot / interval)²) at unit coordinates (...) in [0, 1]."""
    return torch.exp(-_distance(unit, grid_size).square())


def derivatives(unit: Tensor, grid_size: int, order: int) -> Tensor:
    """Derivatives (..., C) by the unit coordinate (...) in [0, 1]."""
    distance = _distance(unit, grid_size)
    return -2 * grid_size * distance * torch.exp(-distance.square())


def _distance(unit: Tensor, grid_size: int) -> Tensor:
    knots = torch.arange(grid_size + 1, device=unit.device, dtype=unit.dtype)
    return unit.unsqueeze(-1) * grid_size - knots
