"""Naming curves: for every curve of a batch the function of the library that explains it best.

Three steps on chunks that fit the cache: a coarse search in one matrix product (`dictionary`), refinement of the
functions that can still win (`refine`), and the choice by a description length. Everything happens on the interval
[-1, 1] with curves of mean 0 and length 1, so that the units of x and y do not matter.

Shape letters: E curves, S sample points, F functions.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from kansformer.checks import check_number
from kansformer.errors import ConfigError, DataError, ShapeError
from kansformer.progress import Progress
from kansformer.symbolic.dictionary import MIN_VARIATION, MIN_VARIATION_FLOAT64, Dictionary, normalised
from kansformer.symbolic.fits import IS_CONSTANT, SymbolicFits
from kansformer.symbolic.library import LIBRARY
from kansformer.symbolic.pairs import judge, judge_pairs, refine_pairs
from kansformer.symbolic.symbol import SymbolLibrary

CHUNK = 8192
# Bits per point that a unit of a function's complexity costs.
SIMPLICITY = 0.05
# Smallest 1 - R² that is more than rounding of the data.
FLOORS = {torch.float32: 1e-11, torch.float64: 1e-13}
# At least this number of the functions to refine for a curve are the closest ones, whatever their cost.
CLOSEST = 2
# A curve with a 1 - R² below this is a jump and nothing else; of R² in float32.
JUMP = 1e-6
# Every fourth point is not fitted, and judges the fit.
HELD_OUT_EVERY, FIRST_HELD_OUT = 4, 2
MIN_POINTS = 8
# On [-1, 1]: points that float32 rounded are still the same.
SAME_POSITION = 1e-4
STEPS, EXACT_STEPS = 4, 5
MAX_EXPONENT = 1000  # of the powers of two that float64 and their inverses can hold
# Fits that are this good differ by the rounding of float32, and are repeated in float64.
EXACT = 1e-4


def fit_symbolic(
    x_ES: Tensor,
    y_ES: Tensor,
    *,
    library: SymbolLibrary | None = None,
    refined: int | None = 12,
    simplicity: float = SIMPLICITY,
    noise: float = 0.0,
    progress: Progress | None = None,
) -> SymbolicFits:
    """Fit every curve by c·f(a·x + b) + d with an f of the library.

    The same curves give the same bits on the same number of threads; on others torch adds up the products of many
    curves in another order, and the last digits differ.

    Args:
        x_ES: sample points of each curve, ascending; rows may differ by shift and scale only.
        y_ES: values of the curves there.
        library: functions to choose from; None is `LIBRARY`.
        refined: how many functions are refined for each curve, the most promising ones; None refines all. Few are
            faster, but confuse activations of which only a part is seen.
        simplicity: bits per point that a unit of complexity costs in the choice; 0 takes the closest function.
        noise: share of the curves' variance that is known to be error, as of curves that were fitted to data. Residuals
            below it do not decide, so that the simplest function wins there.
        progress: called with the number of curves done and of all curves.

    Returns:
        One fit per curve, judged on every fourth point, which the fit does not see; but the jump of a step function is
        placed by all points, so that its R² is a little too high. Constant curves are labelled so.

    Raises:
        ShapeError: x and y are not two tables of one shape with 8 points or more.
        DataError: a value is not finite, or the points of a row do not ascend, or rows have different spacings, or are
            so close or so far apart that float64 cannot hold a scale.
        ConfigError: the library is empty, or a function of it cannot be evaluated.

    Examples:
        >>> from kansformer.symbolic import fit_symbolic
        >>> x = torch.linspace(-3, 3, 64).unsqueeze(0)
        >>> fits = fit_symbolic(x, 2 * torch.sin(1.5 * x + 0.5) + 1)
        >>> fits.formula(0, digits=3)
        2.0*sin(1.5*x + 0.5) + 1.0
    """
    library = LIBRARY if library is None else library
    search = _Search(library, _common_grid(x_ES, y_ES), refined, simplicity, noise)
    parts = [SymbolicFits(library, torch.zeros(0, dtype=torch.long), *[torch.zeros(0, dtype=torch.float64)] * 7)]
    for start in range(0, len(y_ES), CHUNK):
        parts += search.fit(y_ES[start : start + CHUNK])
        if progress is not None:
            progress("fitting", min(start + CHUNK, len(y_ES)), len(y_ES), "curves")
    return _in_units_of_x(SymbolicFits.cat(parts), x_ES)


def ranked_fits(
    x_ES: Tensor, y_ES: Tensor, *, library: SymbolLibrary, noise: float = 0.0, top: int = 3
) -> list[SymbolicFits]:
    """The best fits of every curve as of `fit_symbolic`, then the second best, and so on, `top` tables."""
    search = _Search(library, _common_grid(x_ES, y_ES), None, SIMPLICITY, noise)
    return [_in_units_of_x(fits, x_ES) for fits in search.fit(y_ES, min(top, len(library)))]


class _Search:
    """The three steps on one grid of points u in [-1, 1]; the settings are those of `fit_symbolic`."""

    def __init__(
        self, library: SymbolLibrary, u_S: Tensor, refined: int | None, simplicity: float, noise: float
    ) -> None:
        if refined is not None and refined < 1:
            raise ConfigError(f"refined must be 1 or more functions per curve, or None for all, got {refined}.")
        simplicity = check_number("simplicity", simplicity, 0)
        if not 0 <= noise < 1:
            raise ConfigError(f"noise must be a share from 0 to below 1, got {noise!r}.")
        self.library, self.u_S = library, u_S
        self.refined, self.simplicity, self.noise = refined, simplicity, noise
        self.held_out = torch.zeros(len(u_S), dtype=torch.bool)
        self.held_out[FIRST_HELD_OUT::HELD_OUT_EVERY] = True
        self.fitted_S = u_S[~self.held_out]
        self.dictionary = Dictionary(library, self.fitted_S)

    def fit(self, y_ES: Tensor, top: int = 1) -> list[SymbolicFits]:
        """The fits of curves as functions of u: a table of the best ones, of the second best, and so on."""
        y_ES = y_ES.detach().cpu()
        smallest = MIN_VARIATION_FLOAT64 if y_ES.dtype == torch.float64 else MIN_VARIATION
        floor = max(FLOORS.get(y_ES.dtype, FLOORS[torch.float32]), self.noise)
        y_ES, unit_E = _of_usual_size(y_ES.double())
        unit_ES, varies = normalised(y_ES[:, ~self.held_out], smallest)
        fits_3FE = self._refined(unit_ES.where(varies[:, None], 0.0), floor)
        costs_FE = self._costs(fits_3FE[2], floor)
        ranked = costs_FE.argmin(dim=0)[None] if top == 1 else costs_FE.sort(dim=0, stable=True).indices[:top]
        constant = ~normalised(y_ES, smallest)[1]  # on all points: a curve may vary between those of the fit only
        return [self._table(chosen, fits_3FE, y_ES, unit_E, varies, constant) for chosen in ranked]

    def _table(
        self, chosen: Tensor, fits_3FE: Tensor, y_ES: Tensor, unit_E: Tensor, varies: Tensor, constant: Tensor
    ) -> SymbolicFits:
        """The fits with one chosen function for every curve."""
        chosen = chosen.masked_fill(~varies, IS_CONSTANT)
        a, b, r2_fit = fits_3FE[:, chosen, torch.arange(len(y_ES))]
        for index in self.dictionary.steps:
            rows = (chosen == index).nonzero()[:, 0]
            if len(rows):
                a[rows], b[rows], r2_fit[rows] = self._placed(index, y_ES[rows], a[rows], b[rows])
        c, d, r2 = self._judged(chosen, torch.stack([a, b]), y_ES)
        a, b = (values.masked_fill(constant, 0.0) for values in (a, b))
        r2, r2_fit, best_r2 = (v.masked_fill(constant, 1.0) for v in (r2, r2_fit, fits_3FE[2].amax(dim=0)))
        return SymbolicFits(self.library, chosen, a, b, c * unit_E, d * unit_E, r2, r2_fit, best_r2)

    def _placed(self, index: int, y_ES: Tensor, a_E: Tensor, b_E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """a, b and R² on the points of the fit of a step function, with its jump placed by all points.

        Those of the fit leave open on which side of the jump a point between them is.
        """
        symbol = self.library[index]
        placed_a, placed_b = Dictionary(SymbolLibrary([symbol]), self.u_S).start(0, normalised(y_ES)[0].float())
        f_ES, varies = normalised(symbol.function(placed_a[:, None] * self.fitted_S + placed_b[:, None]))
        a_E, b_E = placed_a.where(varies, a_E), placed_b.where(varies, b_E)
        f_ES, _ = normalised(symbol.function(a_E[:, None] * self.fitted_S + b_E[:, None]))
        y_ES, _ = normalised(y_ES[:, ~self.held_out])
        return a_E, b_E, (f_ES * y_ES).sum(-1).square()

    def _refined(self, y_ES: Tensor, floor: float) -> Tensor:
        """a, b and R² in float64, (3, F, E); an R² of -1 for functions that were not refined."""
        closest = self.dictionary.search(y_ES.float())
        pairs = self._promising(closest.r2_FE.double(), floor).nonzero().mT
        fits_3P = refine_pairs(
            self.library, self.fitted_S, y_ES, pairs, closest.start(*pairs), STEPS, dtype=torch.float32
        )
        exact = (fits_3P[2] > 1 - EXACT).nonzero()[:, 0]
        fits_3P[:, exact] = refine_pairs(
            self.library, self.fitted_S, y_ES, pairs[:, exact], fits_3P[:2, exact], EXACT_STEPS
        )
        function_P, row_P = pairs
        fits_3FE = torch.zeros(3, len(self.library), len(y_ES), dtype=torch.float64)
        fits_3FE[2] = -1.0
        fits_3FE[:, function_P, row_P] = fits_3P
        fits_3FE[2].clamp_(max=1.0)
        return fits_3FE

    def _promising(self, r2_FE: Tensor, floor: float) -> Tensor:
        """Which functions to refine for each curve, (F, E)."""
        if self.refined is None or self.refined >= len(self.library):
            return torch.ones_like(r2_FE, dtype=torch.bool)
        r2_FE = r2_FE.clamp(max=1.0)
        chosen = torch.zeros_like(r2_FE, dtype=torch.bool)
        cheapest = self._costs(r2_FE, floor).topk(self.refined, dim=0, largest=False).indices
        chosen.scatter_(0, cheapest, True)
        chosen.scatter_(0, r2_FE.topk(min(CLOSEST, self.refined), dim=0).indices, True)
        # What else could be hidden between the two points of a jump, such as a pole, is not to be seen.
        chosen &= ~(r2_FE[self.dictionary.steps] > 1 - JUMP).any(dim=0)
        chosen[torch.tensor([not (s.fit_scale or s.fit_shift) for s in self.library])] = True  # cost nothing
        return chosen

    def _costs(self, r2_FE: Tensor, floor: float) -> Tensor:
        """Bits per point of every fit, (F, E), the lowest of which wins; infinite where R² is -1, not fitted.

        A description length (Rissanen, 1978): the residual costs log2(1 - R² + floor) / 2, each of k fitted parameters
        log2(S) / 2S at S points, and every unit of complexity `simplicity`.
        """
        points = len(self.fitted_S)
        per_parameter = 0.5 * math.log2(points) / points
        prices = [self.simplicity * s.complexity + per_parameter * (s.fit_scale + s.fit_shift) for s in self.library]
        bits = 0.5 * torch.log2((1 - r2_FE).clamp(min=0) + floor) + torch.tensor(prices, dtype=r2_FE.dtype)[:, None]
        return bits.masked_fill(r2_FE < 0, torch.inf)

    def _judged(self, chosen: Tensor, params_2E: Tensor, y_ES: Tensor) -> Tensor:
        """c, d and R² on the points that the fits do not see, (3, E)."""
        results_3E = torch.empty(3, len(y_ES), dtype=torch.float64)
        flat = (chosen == IS_CONSTANT).nonzero()[:, 0]
        if len(flat):
            results_3E[:, flat] = judge(torch.zeros_like(y_ES[flat]), y_ES[flat], self.held_out)
        rows = chosen.argsort(stable=True)[len(flat) :]
        pairs = torch.stack([chosen[rows], rows])
        results_3E[:, rows] = judge_pairs(self.library, self.u_S, y_ES, pairs, params_2E[:, rows], self.held_out)
        return results_3E


def _of_usual_size(y_ES: Tensor) -> tuple[Tensor, Tensor]:
    """Curves whose squares are neither infinite nor zero, and the power of two that each was divided by."""
    exponent_E = torch.frexp(y_ES.abs().amax(-1)).exponent.clamp(-MAX_EXPONENT, MAX_EXPONENT).double()
    return y_ES * torch.exp2(-exponent_E)[:, None], torch.exp2(exponent_E)


def _common_grid(x_ES: Tensor, y_ES: Tensor) -> Tensor:
    """The points of all rows, shifted and scaled to [-1, 1]."""
    if x_ES.ndim != 2 or x_ES.shape != y_ES.shape or x_ES.shape[1] < MIN_POINTS:
        raise ShapeError(
            f"x and y must be two tables (curves, points) of one shape with {MIN_POINTS} points or more, "
            f"got {tuple(x_ES.shape)} and {tuple(y_ES.shape)}."
        )
    x_ES = x_ES.detach().cpu()
    if len(x_ES) == 0:
        return torch.linspace(-1, 1, x_ES.shape[1], dtype=torch.float64)
    # Sums and differences say in few passes that all is well, which is the rule; else the reason is looked for.
    if not y_ES.sum().isfinite():
        _check_finite("y", y_ES)
    u_S = _in_unit_interval(x_ES[:1])[0]
    is_alike = bool((u_S.diff() > 2 * SAME_POSITION).all() & (x_ES[:, -1] > x_ES[:, 0]).all())
    for part in x_ES.split(CHUNK) if is_alike else ():
        is_alike &= bool(_has_usual_width(part).all())
        is_alike &= float((_in_unit_interval(part) - u_S).abs_().amax()) <= SAME_POSITION
    if not is_alike:
        _check_finite("y", y_ES)
        _check_points(x_ES, u_S)
    return u_S


def _check_points(x_ES: Tensor, u_S: Tensor) -> None:
    _check_finite("x", x_ES)
    descending = ~(x_ES.diff(dim=-1) > 0).all(-1)
    if descending.any():
        raise DataError(f"The points of row {int(descending.nonzero()[0])} of x do not ascend.")
    for part in x_ES.split(CHUNK):
        bad = ~_has_usual_width(part)
        if bad.any():
            row = part[bad.nonzero()[0, 0]]
            raise DataError(f"x from {float(row[0]):g} to {float(row[-1]):g} is too narrow or too wide for float64.")
        if ((_in_unit_interval(part) - u_S).abs() > SAME_POSITION).any():
            raise DataError("All rows of x must have the same points up to a shift and a scale. Sample the curves so.")


def _has_usual_width(x_ES: Tensor) -> Tensor:
    """Whether the centre, the width and its inverse are numbers of float64, (E,)."""
    centre, half = _interval(x_ES)
    return (1 / half).isfinite() & half.isfinite() & centre.isfinite()


def _check_finite(name: str, values_ES: Tensor) -> None:
    bad = ~values_ES.isfinite().all(-1)
    if bad.any():
        raise DataError(f"{name} has a value that is not finite in row {int(bad.nonzero()[0])}.")


def _in_unit_interval(x_ES: Tensor) -> Tensor:
    """Rows shifted and scaled to [-1, 1]."""
    centre, half = _interval(x_ES)
    return (x_ES.double() - centre[:, None]) / half[:, None]


def _interval(x_ES: Tensor) -> tuple[Tensor, Tensor]:
    lower, upper = x_ES[:, 0].double(), x_ES[:, -1].double()
    return (lower + upper) / 2, (upper - lower) / 2


def _in_units_of_x(fits: SymbolicFits, x_ES: Tensor) -> SymbolicFits:
    """Fits as functions of x, from fits as functions of u = (x - centre) / half."""
    centre, half = _interval(x_ES.detach().cpu())
    a = fits.a / half
    return replace(fits, a=a, b=fits.b - a * centre)
