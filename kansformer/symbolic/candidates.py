"""Where the search for (a, b) in f(a·u + b), u in [-1, 1], begins: one grid of pairs per kind of function."""

import torch
from torch import Tensor


def line() -> Tensor:
    """(1, 2): f(u) alone, for functions that every scale and shift leave in the same family."""
    return torch.tensor([[1.0, 0.0]], dtype=torch.float64)


def wide_shifts() -> Tensor:
    """f(u + b), |b| up to 12, densest near 0: powers, which a scale leaves in the same family."""
    return _with_scale(1.0, torch.sinh(torch.linspace(-3.2, 3.2, 97, dtype=torch.float64)))


def inner_shifts() -> Tensor:
    """f(u + b) with its kink at -b inside the interval; outside, a kinked function is a line."""
    return _with_scale(1.0, torch.linspace(-0.99, 0.99, 97, dtype=torch.float64))


def mirrored_inner_shifts() -> Tensor:
    """`inner_shifts`, and the same from the right: f(b - u)."""
    return _mirrored(inner_shifts())


def outer_shifts() -> Tensor:
    """f(1 + δ ± u), δ from 0.002 to 500: the argument stays positive, for roots, logarithms and poles."""
    shifts = 1 + torch.logspace(-2.7, 2.7, 86, dtype=torch.float64)
    return torch.cat([_with_scale(1.0, shifts), _with_scale(-1.0, shifts)])


def rates() -> Tensor:
    """f(±a·u), a from 0.02 to 50: exponentials, which a shift leaves in the same family."""
    scales = torch.logspace(-1.7, 1.7, 96, dtype=torch.float64)
    return _without_shift(torch.cat([scales, -scales]))


def waves() -> Tensor:
    """f(a·u), a up to 32, that is 10 periods: for sines, whose phase is linear."""
    slow = torch.logspace(-0.3, 0.3, 8, dtype=torch.float64)
    return _without_shift(torch.cat([slow, torch.arange(2.25, 32.1, 0.25, dtype=torch.float64)]))


def bumps() -> Tensor:
    """f(a·(u + t)), a from 0.5 to 30, t up to 1.4: functions with a place and a width, odd or even."""
    return _placed(torch.logspace(-0.3, 1.48, 10, dtype=torch.float64), centres=17)


def mirrored_bends() -> Tensor:
    """f(±a·(u + t)), a from 0.5 to 14, t up to 1.4: bends between two lines; sharper ones look like a kink.

    The sharper the bend, the closer are the places.
    """
    scales = torch.logspace(-0.3, 1.15, 9, dtype=torch.float64)
    counts = torch.linspace(7, 31, 9).round().int().tolist()
    return _mirrored(torch.cat([_placed(s[None], centres) for s, centres in zip(scales, counts, strict=True)]))


def kinked_bends() -> Tensor:
    """`mirrored_bends` with a kink, at ±3, inside the interval; between its kinks hardswish is a parabola.

    No step leaves a parabola: all scales of one vertex fit alike, so that rounding would decide.
    """
    pairs = mirrored_bends()
    a, b = pairs.abs().unbind(-1)
    return pairs[(b - 3).abs() < a]


def between_poles() -> Tensor:
    """a·u + b within ±π/2, for the tangent."""
    return _within(1.545, torch.logspace(-0.5, 0.17, 10, dtype=torch.float64), centres=11)


def inside_unit() -> Tensor:
    """a·u + b within ±1, for functions that end or have a pole there."""
    return _within(0.999, torch.cat([torch.linspace(0.1, 0.9, 9), torch.tensor([0.95, 0.99])]).double(), centres=15)


def _placed(scales: Tensor, centres: int) -> Tensor:
    shifts = torch.outer(scales, torch.linspace(-1.4, 1.4, centres, dtype=torch.float64))
    return torch.stack([scales.repeat_interleave(centres), shifts.flatten()], dim=-1)


def _within(limit: float, scales: Tensor, centres: int) -> Tensor:
    shifts = torch.outer(limit - scales, torch.linspace(-1, 1, centres, dtype=torch.float64))
    return torch.stack([scales.repeat_interleave(centres), shifts.flatten()], dim=-1)


def _mirrored(pairs: Tensor) -> Tensor:
    return torch.cat([pairs, pairs * torch.tensor([-1.0, 1.0], dtype=torch.float64)])


def _without_shift(scales: Tensor) -> Tensor:
    return torch.stack([scales, torch.zeros_like(scales)], dim=-1)


def _with_scale(scale: float, shifts: Tensor) -> Tensor:
    return torch.stack([torch.full_like(shifts, scale), shifts], dim=-1)
