"""Fitting one function to many curves at once: c·f(a·u + b) + d by variable projection.

For given a and b the best c and d are known in closed form (Golub and Pereyra, 1973), so that Levenberg-Marquardt steps
move only a and b. With F = f(a·u + b), G = f' and everything centred, F and y give R² = (F·y)² / (F·F) for a curve y of
length 1; the step solves J'J δ = J'y / c with J the parts of u·G and G that are orthogonal to F.

Shape letters: E edges, S sample points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kansformer.symbolic.symbol import Symbol

FIRST_DAMPING, LESS, MORE = 1e-3, 0.2, 8.0
LARGEST_SCALE_STEP = 0.5  # relative to a
LARGEST_SHIFT_STEP = 3.0
TINY = 1e-30


@dataclass
class Fits:
    """Fits of one function to E curves: `a`, `b` and `r2`, each (E,)."""

    a: Tensor
    b: Tensor
    r2: Tensor


def refine(symbol: Symbol, u_S: Tensor, y_ES: Tensor, a_E: Tensor, b_E: Tensor, steps: int) -> Fits:
    """Improve scales and shifts; no R² becomes worse.

    Args:
        symbol: f.
        u_S: points in [-1, 1].
        y_ES: centred curves of length 1.
        a_E, b_E: where to begin, from `Dictionary.start`.
        steps: Levenberg-Marquardt steps.

    Returns:
        The fits; an R² of -1 where f is not finite even at the beginning.
    """
    if symbol.partner is not None:
        b_E = b_E + _shift_by_partner(symbol, u_S, y_ES, a_E, b_E)
    now = _Point(symbol, u_S, y_ES, a_E, b_E)
    if not (symbol.fit_scale or symbol.fit_shift):
        return Fits(now.a, now.b, now.r2)
    damping = torch.full_like(a_E, FIRST_DAMPING)
    for _ in range(steps):
        delta_a, delta_b = now.step(damping)
        new = _Point(symbol, u_S, y_ES, now.a + delta_a, now.b + delta_b)
        better = new.r2 > now.r2
        damping = torch.where(better, LESS * damping, MORE * damping)
        now.take(new, better)
    return Fits(now.a, now.b, now.r2)


class _Point:
    """f and its fit at one (a, b) per curve."""

    def __init__(self, symbol: Symbol, u_S: Tensor, y_ES: Tensor, a_E: Tensor, b_E: Tensor) -> None:
        self.symbol, self.u_S, self.y_ES, self.a, self.b = symbol, u_S, y_ES, a_E, b_E
        self.z_ES = torch.addcmul(b_E[:, None], a_E[:, None], u_S)
        self.f_ES = _centred(symbol.function(self.z_ES))
        self.ff = _dot(self.f_ES, self.f_ES)
        self.fy = _dot(self.f_ES, y_ES)
        r2 = self.fy.square() / self.ff.clamp(min=TINY)
        reach = a_E.abs()
        inside = (b_E - reach > symbol.domain[0]) & (b_E + reach < symbol.domain[1])
        self.r2 = torch.where(inside & r2.isfinite(), r2, -1.0)

    def step(self, damping: Tensor) -> tuple[Tensor, Tensor]:
        """Changes of a and b."""
        slope_ES = self.symbol.slope(self.z_ES)
        scale, shift = self.symbol.fit_scale, self.symbol.fit_shift
        none = torch.zeros_like(self.a)
        along_b = self._projected(slope_ES) if shift else None
        along_a = self._projected(slope_ES * self.u_S) if scale else None
        # J = c·(projected slopes), so with c = fy / ff the normal equations are divided by c once.
        c = self.fy / self.ff.clamp(min=TINY)
        bb = _dot(along_b, along_b) * (1 + damping) + TINY if along_b is not None else none
        aa = _dot(along_a, along_a) * (1 + damping) + TINY if along_a is not None else none
        gb = _dot(along_b, self.y_ES) / c if along_b is not None else none
        ga = _dot(along_a, self.y_ES) / c if along_a is not None else none
        if along_a is not None and along_b is not None:
            ab = _dot(along_a, along_b)
            determinant = (aa * bb - ab.square()).clamp(min=TINY)
            delta_a, delta_b = (bb * ga - ab * gb) / determinant, (aa * gb - ab * ga) / determinant
        else:
            delta_a = ga / aa if scale else none
            delta_b = gb / bb if shift else none
        most = LARGEST_SCALE_STEP * self.a.abs()
        delta_a = delta_a.nan_to_num(0.0).clamp(-most, most)
        return delta_a, delta_b.nan_to_num(0.0).clamp(-LARGEST_SHIFT_STEP, LARGEST_SHIFT_STEP)

    def take(self, other: _Point, where_E: Tensor) -> None:
        """Move to another point for the curves that are better there."""
        finite = bool((self.ff + other.ff).isfinite().all())
        for name in ("a", "b", "ff", "fy", "r2"):
            setattr(self, name, torch.where(where_E, getattr(other, name), getattr(self, name)))
        for name in ("z_ES", "f_ES"):
            setattr(self, name, _chosen(getattr(self, name), getattr(other, name), where_E, finite))

    def _projected(self, slope_ES: Tensor) -> Tensor:
        slope_ES = _centred(slope_ES)
        return slope_ES - (_dot(slope_ES, self.f_ES) / self.ff.clamp(min=TINY))[:, None] * self.f_ES


def _shift_by_partner(symbol: Symbol, u_S: Tensor, y_ES: Tensor, a_E: Tensor, b_E: Tensor) -> Tensor:
    """What to add to b."""
    assert symbol.partner is not None
    z_ES = torch.addcmul(b_E[:, None], a_E[:, None], u_S)
    f, g = _centred(symbol.function(z_ES)), _centred(symbol.partner.function(z_ES))
    ff, fg, gg, fy, gy = _dot(f, f), _dot(f, g), _dot(g, g), _dot(f, y_ES), _dot(g, y_ES)
    determinant = (ff * gg - fg.square()).clamp(min=TINY)
    return symbol.partner.shift((gg * fy - fg * gy) / determinant, (ff * gy - fg * fy) / determinant)


def _centred(values_ES: Tensor) -> Tensor:
    return values_ES - values_ES.mean(-1, keepdim=True)


def _dot(x_ES: Tensor, y_ES: Tensor) -> Tensor:
    return torch.linalg.vecdot(x_ES, y_ES)


def _chosen(old_ES: Tensor, new_ES: Tensor, new_E: Tensor, finite: bool) -> Tensor:
    """Rows of the new table where `new_E`, else of the old one."""
    if finite:  # five times as fast as `where`
        return torch.lerp(old_ES, new_ES, new_E.to(old_ES.dtype)[:, None])
    return torch.where(new_E[:, None], new_ES, old_ES)
