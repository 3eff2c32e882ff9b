"""Fitting one function to many curves at once: c·f(a·u + b) + d by variable projection.

For given a and b the best c and d are known in closed form (Golub and Pereyra, 1973), so that Levenberg-Marquardt steps
move only a and b. With F = f(a·u + b), G = f' and everything centred, F and y give R² = (F·y)² / (F·F) for a curve y of
length 1; the step solves J'J δ = J'y / c with J the parts of u·G and G that are orthogonal to F.

The parts are formed before they are multiplied: differences of products would cancel in float32 where F is hardly bent.

Shape letters: E edges, S sample points.
"""

import torch
from torch import Tensor

from kansformer.symbolic.symbol import Symbol, symbol_values

FIRST_DAMPING, LESS, MORE = 1e-3, 0.2, 8.0
MAX_SCALE_STEP = 0.5  # relative to a
MAX_SHIFT_STEP = 3.0
TINY = 1e-30


def refine(symbol: Symbol, u_S: Tensor, y_ES: Tensor, a_E: Tensor, b_E: Tensor, steps: int) -> Tensor:
    """Improve scales and shifts; no R² becomes worse.

    Args:
        symbol: f.
        u_S: points in [-1, 1].
        y_ES: centred curves of length 1.
        a_E, b_E: where to begin, from `Dictionary.start`.
        steps: Levenberg-Marquardt steps.

    Returns:
        a, b and R² of every curve, (3, E); an R² of -1 where f is not finite even at the beginning.
    """
    problem = _Problem(symbol, u_S, y_ES)
    if symbol.partner is not None:
        b_E = b_E + problem.shift_by_partner(a_E, b_E)
    if not (symbol.fit_scale or symbol.fit_shift):
        steps = 0
    now = problem.at(a_E, b_E, slopes=steps > 0)
    damping = torch.full_like(a_E, FIRST_DAMPING)
    for left in reversed(range(steps)):
        delta_a, delta_b = _step(now, symbol, damping)
        new = problem.at(now[A] + delta_a, now[B] + delta_b, slopes=left > 0)
        better = new[R2] > now[R2]
        damping = torch.where(better, LESS * damping, MORE * damping)
        now = torch.where(better, new, now[: len(new)])
    return now[: R2 + 1]


# Rows of what is known at one (a, b) per curve: then C, the slopes of R² and the matrix of the step.
A, B, R2, C, SLOPE_A, SLOPE_B, AA, AB, BB = range(9)


class _Problem:
    """One function and the curves that it is fitted to."""

    def __init__(self, symbol: Symbol, u_S: Tensor, y_ES: Tensor) -> None:
        self.symbol, self.u_S, self.y_ES = symbol, u_S, y_ES
        self.ones_S = torch.ones_like(u_S)

    def at(self, a_E: Tensor, b_E: Tensor, *, slopes: bool) -> Tensor:
        """The rows A to R2, with `slopes` to BB, each (E,)."""
        z_ES = self._arguments(a_E, b_E)
        raw_ES = symbol_values(self.symbol, z_ES)
        f_ES = _centred(raw_ES)
        ff, fy = self._sums(f_ES.square()).clamp(min=TINY), self._sums(f_ES * self.y_ES)
        r2 = fy.square() / ff
        reach = a_E.abs()
        inside = (b_E - reach > self.symbol.domain[0]) & (b_E + reach < self.symbol.domain[1])
        rows = [a_E, b_E, torch.where(inside & r2.isfinite(), r2, -1.0)]
        if slopes:
            g_ES = self.symbol.slope(z_ES, raw_ES)
            slopes_2ES = torch.stack([g_ES * self.u_S, g_ES])
            slopes_2ES -= slopes_2ES.mean(-1, keepdim=True)
            along_2E = self._sums(slopes_2ES * f_ES) / ff
            slopes_2ES -= along_2E.unsqueeze(-1) * f_ES
            aa, bb = self._sums(slopes_2ES.square())
            rows += [fy / ff, *self._sums(slopes_2ES * self.y_ES), aa, self._sums(slopes_2ES[0] * slopes_2ES[1]), bb]
        return torch.stack(rows)

    def shift_by_partner(self, a_E: Tensor, b_E: Tensor) -> Tensor:
        """What to add to b, from the best combination of the function and its partner."""
        assert self.symbol.partner is not None
        z_ES = self._arguments(a_E, b_E)
        f, g = _centred(symbol_values(self.symbol, z_ES)), _centred(self.symbol.partner.function(z_ES))
        dot, y = torch.linalg.vecdot, self.y_ES
        ff, fg, gg, fy, gy = dot(f, f), dot(f, g), dot(g, g), dot(f, y), dot(g, y)
        determinant = (ff * gg - fg.square()).clamp(min=TINY)
        return self.symbol.partner.shift((gg * fy - fg * gy) / determinant, (ff * gy - fg * fy) / determinant)

    def _sums(self, values_ES: Tensor) -> Tensor:
        return values_ES @ self.ones_S  # faster than `sum`

    def _arguments(self, a_E: Tensor, b_E: Tensor) -> Tensor:
        return (a_E[:, None] * self.u_S).add_(b_E[:, None])  # half the time of `addcmul`


def _step(now: Tensor, symbol: Symbol, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Changes of a and b. J = c·(projected slopes), so the normal equations are divided by c once."""
    aa, bb = (now[row].clamp(min=TINY) * (1 + damping) for row in (AA, BB))
    slope_a, slope_b = now[SLOPE_A] / now[C], now[SLOPE_B] / now[C]
    if symbol.fit_scale and symbol.fit_shift:
        ab = now[AB]
        determinant = (aa * bb - ab.square()).clamp(min=TINY)
        delta_a, delta_b = (bb * slope_a - ab * slope_b) / determinant, (aa * slope_b - ab * slope_a) / determinant
    else:
        delta_a, delta_b = slope_a / aa * symbol.fit_scale, slope_b / bb * symbol.fit_shift
    limit = MAX_SCALE_STEP * now[A].abs()
    delta_a = delta_a.nan_to_num(0.0).clamp(-limit, limit)
    return delta_a, delta_b.nan_to_num(0.0).clamp(-MAX_SHIFT_STEP, MAX_SHIFT_STEP)


def _centred(values_ES: Tensor) -> Tensor:
    return values_ES - values_ES.mean(-1, keepdim=True)
