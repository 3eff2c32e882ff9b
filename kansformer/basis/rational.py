"""Rational curves P(z) / (1 + |Q(z)|) on the domain mapped to [-1, 1], Q(z) = Σ_{k≥1} q_k z^k: no poles anywhere.

Given the denominator the curve is linear in the coefficients of P, so a rational curve is a basis of C = order + 1
functions z^k / (1 + |Q(z)|) with D = order - 1 (at least 1) parameters of its own: the denominator. Order 5 is the
5/4 form of the Kolmogorov-Arnold transformer (Yang & Wang, 2024). The absolute value is taken of the sum, not of each
term: the sum-of-abs form has a kink in z = 0 and is another function.
"""

import torch
from torch import Tensor

MAX_ORDER = 9

INITIAL_DENOMINATOR = 0.1
"""Start of every q_k. Not zero: |Q| has no slope there, and the denominator would never learn."""


def num_coefficients(grid_size: int, order: int) -> int:
    """C = order + 1, the numerator's. The grid size plays no part."""
    return order + 1


def num_denominator(order: int) -> int:
    """D = order - 1, at least 1."""
    return max(1, order - 1)


def values(unit: Tensor, grid_size: int, order: int, denominator: Tensor) -> Tensor:
    """Basis values (..., C) at unit coordinates (...) in [0, 1]; `denominator` (..., D) broadcasts over the front."""
    z = 2 * unit - 1
    return _powers(z, order) / (1 + _polynomial(z, denominator).abs()).unsqueeze(-1)


def derivatives(unit: Tensor, grid_size: int, order: int, denominator: Tensor) -> Tensor:
    """Derivatives (..., C) by the unit coordinate (...) in [0, 1]."""
    z = 2 * unit - 1
    powers = _powers(z, order)
    q = _polynomial(z, denominator)
    scale = 1 + q.abs()
    slope = q.sign() * _polynomial_slope(z, denominator)
    exponent = torch.arange(1, order + 1, device=z.device, dtype=z.dtype)
    powers_slope = torch.cat([torch.zeros_like(z).unsqueeze(-1), powers[..., :-1] * exponent], dim=-1)
    return 2 * (powers_slope - powers * (slope / scale).unsqueeze(-1)) / scale.unsqueeze(-1)


def _powers(z: Tensor, order: int) -> Tensor:
    columns = [torch.ones_like(z)]
    for _ in range(order):
        columns.append(columns[-1] * z)
    return torch.stack(columns, dim=-1)


def _polynomial(z: Tensor, denominator: Tensor) -> Tensor:
    total = torch.zeros_like(z)
    for factor in reversed(denominator.unbind(-1)):
        total = (total + factor) * z
    return total


def _polynomial_slope(z: Tensor, denominator: Tensor) -> Tensor:
    total = torch.zeros_like(z)
    for k, factor in reversed(list(enumerate(denominator.unbind(-1), start=1))):
        total = total * z + k * factor
    return total
