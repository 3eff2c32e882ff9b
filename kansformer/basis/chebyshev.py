"""Chebyshev polynomials of the first kind, T_0 … T_order, on the domain mapped to [-1, 1].

Shape letters: `...` any, C = order + 1 coefficients. The grid size plays no part.
"""

import torch
from torch import Tensor

MAX_ORDER = 16


def num_coefficients(grid_size: int, order: int) -> int:
    """C = order + 1."""
    return order + 1


def values(unit: Tensor, grid_size: int, order: int) -> Tensor:
    """Basis values (..., C) at unit coordinates (...) in [0, 1]; T_{k+1} = 2 z T_k - T_{k-1}."""
    z = 2 * unit - 1
    columns = [torch.ones_like(z), z]
    while len(columns) <= order:
        columns.append(2 * z * columns[-1] - columns[-2])
    return torch.stack(columns[: order + 1], dim=-1)


def derivatives(unit: Tensor, grid_size: int, order: int) -> Tensor:
    """Derivatives (..., C) by the unit coordinate: T_k'(z) = k U_{k-1}(z), and dz/du = 2."""
    z = 2 * unit - 1
    second_kind = [torch.ones_like(z), 2 * z]
    while len(second_kind) < order:
        second_kind.append(2 * z * second_kind[-1] - second_kind[-2])
    columns = [torch.zeros_like(z)] + [2 * k * second_kind[k - 1] for k in range(1, order + 1)]
    return torch.stack(columns, dim=-1)
