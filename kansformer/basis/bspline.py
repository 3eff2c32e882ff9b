"""B-splines on a uniform grid, evaluated locally: only the order + 1 functions that are not zero are computed.

Shape letters: `...` any, G grid intervals, K order (polynomial degree), C = G + K coefficients, D derivatives, P powers
of a position.
"""

import math
from fractions import Fraction

import torch
from torch import Tensor

MAX_ORDER = 5


def num_coefficients(grid_size: int, order: int) -> int:
    """C = G + K: the curves of degree K on G intervals that join smoothly have this many degrees of freedom."""
    return grid_size + order


def _segment_polynomials(order: int) -> tuple[tuple[float, ...], ...]:
    """Row j, column p: the factor of t**p in the j-th B-spline that is alive on a grid interval, t in [0, 1].

    Found in exact fractions from the Cox-de Boor recursion on integer knots (de Boor, 1978).
    """
    pieces = [[Fraction(1)]]
    for degree in range(1, order + 1):
        longer = [[Fraction(0)] * (degree + 1) for _ in range(degree + 1)]
        for j in range(degree + 1):
            # b_j^K(t) = (t + K - j)/K * b_{j-1}^{K-1}(t) + (j + 1 - t)/K * b_j^{K-1}(t)
            if j > 0:
                for power, factor in enumerate(pieces[j - 1]):
                    longer[j][power] += factor * Fraction(degree - j, degree)
                    longer[j][power + 1] += factor * Fraction(1, degree)
            if j < degree:
                for power, factor in enumerate(pieces[j]):
                    longer[j][power] += factor * Fraction(j + 1, degree)
                    longer[j][power + 1] -= factor * Fraction(1, degree)
        pieces = longer
    return tuple(tuple(float(factor) for factor in row) for row in pieces)


# One table per order, made once, so that evaluating a spline needs no recursion.
SEGMENT_POLYNOMIALS = {order: _segment_polynomials(order) for order in range(1, MAX_ORDER + 1)}


def local_position(unit: Tensor, grid_size: int) -> tuple[Tensor, Tensor]:
    """Grid interval (int64) and position inside it in [0, 1] of unit coordinates in [0, 1]. NaN goes to interval 0."""
    scaled = unit * grid_size
    interval = scaled.detach().floor().nan_to_num(nan=0.0).clamp(0, grid_size - 1)
    return interval.long(), scaled - interval


def local_values(position: Tensor, order: int, derivative: int = 0) -> Tensor:
    """The order + 1 values (..., K + 1) alive at a position in an interval, or a derivative of them by the position."""
    columns = []
    for row in SEGMENT_POLYNOMIALS[order]:
        *lower, factor = _powers(row, derivative)[: max(len(row) - derivative, 1)]
        value = torch.full_like(position, factor)
        for factor in reversed(lower):
            value = value * position + factor
        columns.append(value)
    return torch.stack(columns, dim=-1)


def _powers(row: tuple[float, ...], derivative: int) -> list[float]:
    """The factors of the powers in a derivative of a polynomial, with zeros to the number of its own."""
    factors = [math.perm(p, derivative) * factor for p, factor in enumerate(row)][derivative:]
    return factors + [0.0] * (len(row) - len(factors))


def values(unit: Tensor, grid_size: int, order: int) -> Tensor:
    """Basis values (..., C) at unit coordinates (...) in [0, 1]."""
    interval, position = local_position(unit, grid_size)
    return _place(interval, local_values(position, order), grid_size + order)


def derivatives(unit: Tensor, grid_size: int, order: int) -> Tensor:
    """Derivatives (..., C) by the unit coordinate (...) in [0, 1]."""
    interval, position = local_position(unit, grid_size)
    return _place(interval, local_values(position, order, derivative=1) * grid_size, grid_size + order)


def values_and_higher_derivatives(unit: Tensor, grid_size: int, order: int, highest: int) -> Tensor:
    """Basis values and their derivatives up to the `highest`, (highest + 1, ..., C)."""
    interval, position = local_position(unit, grid_size)
    table = [[_powers(row, n) for row in SEGMENT_POLYNOMIALS[order]] for n in range(highest + 1)]
    factors_DKP = torch.tensor(table, dtype=unit.dtype, device=unit.device)
    *lower, local = factors_DKP.reshape(highest + 1, order + 1, *(1 for _ in unit.shape), order + 1).unbind(dim=-1)
    for factors in reversed(lower):
        local = local * position + factors
    scale_D = torch.tensor([float(grid_size**n) for n in range(highest + 1)], dtype=unit.dtype, device=unit.device)
    local = (local * scale_D.reshape(-1, *(1 for _ in local.shape[1:]))).movedim(1, -1)
    return _place(interval, local, grid_size + order)


def _place(interval: Tensor, local: Tensor, width: int) -> Tensor:
    index = interval.unsqueeze(-1) + torch.arange(local.shape[-1], device=interval.device)
    return local.new_zeros(*local.shape[:-1], width).scatter(-1, index.expand(local.shape), local)
