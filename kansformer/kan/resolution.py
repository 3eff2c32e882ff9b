"""How finely the numbers of a column are written: smaller errors of a formula say nothing about it.

Shape letters: N samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Decimals, or significant digits, that are looked for.
MAX_DIGITS = 12
# A column is rounded to a digit if that digit takes this many values; of halves, or of multiples of 5, it takes two.
MIN_LAST_DIGITS = 6
# Rounding errors are spread evenly over a step.
EVEN = 1 / math.sqrt(12)


def float_error(y_N: Tensor) -> float:
    """The root mean square error that numbers (N,) in float64 may have from arithmetic in float32, if that holds them,
    or float64."""
    largest = float(y_N.abs().max())
    if not 0 < largest < math.inf:
        return 0.0
    rms = float((y_N / largest).square().mean().sqrt()) * largest
    return 2 * torch.finfo(_precision(y_N)).eps * rms


def decimal_error(y_N: Tensor) -> float:
    """The root mean square error of numbers (N,) that are rounded to few decimals or significant digits; 0 of others,
    and of whole numbers."""
    if torch.equal(y_N.round(), y_N):
        return 0.0
    used, precision = y_N[y_N != 0], torch.finfo(_precision(y_N)).eps
    decimals = _decimal_step(y_N, torch.zeros_like(y_N), precision, first=1)
    return max(decimals, _decimal_step(used, used.abs().log10().floor(), precision, first=0))


def _precision(y_N: Tensor) -> torch.dtype:
    """Whole numbers are held by float32, too, and say nothing."""
    is_single = torch.equal(y_N.float().double(), y_N) and not torch.equal(y_N.round(), y_N)
    return torch.float32 if is_single else torch.float64


def _decimal_step(y_N: Tensor, exponents_N: Tensor, precision: float, *, first: int) -> float:
    """The error of numbers rounded to the same number of digits behind 10^exponent; 0 where they are not."""
    mantissas = y_N / 10.0**exponents_N
    allowed = 2 * precision * float(mantissas.abs().max())
    for digits in range(first, MAX_DIGITS + 1):
        scaled = mantissas * 10.0**digits
        if allowed * 10**digits > EVEN / 10:
            break  # any number would do
        if ((scaled - scaled.round()).abs() <= allowed * 10**digits).all():
            last_digits = scaled.round().remainder(10).unique()
            steps = EVEN * 10.0 ** (exponents_N - digits)
            return float(steps.square().mean().sqrt()) if len(last_digits) >= MIN_LAST_DIGITS else 0.0
    return 0.0
