"""Naming curves: for every curve of a batch the function of the library that explains it best.

Three steps on chunks that fit the cache: a coarse search in one matrix product (`dictionary`), refinement of the
functions that can still win (`refine`), the choice (`selection`). Everything happens on the interval [-1, 1] with
curves of mean 0 and length 1, so that the units of x and y do not matter.

Shape letters: E curves, S sample points, F functions.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kansformer.errors import ConfigError, DataError, ShapeError
from kansformer.progress import Progress
from kansformer.symbolic.dictionary import MIN_VARIATION, Dictionary
from kansformer.symbolic.fits import IS_CONSTANT, SymbolicFits
from kansformer.symbolic.library import LIBRARY
from kansformer.symbolic.refine import refine
from kansformer.symbolic.selection import FLOORS, SIMPLICITY, costs
from kansformer.symbolic.symbol import SymbolLibrary

CHUNK, COARSE_CHUNK, REFINED_CHUNK = 8192, 256, 8192
# At least this number of the functions to refine for a curve are the closest ones, whatever their cost.
CLOSEST = 2
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
    refined: int | None = 4,
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
        refined: how many functions are refined for each curve, the most promising ones; None refines all.
        simplicity: bits per point that a unit of complexity costs in the choice; 0 takes the closest function.
        noise: share of the curves' variance that is known to be error, as of curves that were fitted to data. Residuals
            below it do not decide, so that the simplest function wins there.
        progress: called with the number of curves done and of all curves.

    Returns:
        One fit per curve, judged on every fourth point, which the fit does not see. Constant curves are labelled so.

    Raises:
        ShapeError: x and y are not two tables of one shape with 8 points or more.
        DataError: a value is not finite, or the points of a row do not ascend, or rows have different spacings, or are
            so close or so far apart that float64 cannot hold a scale.
        ConfigError: the library is empty, or a function of it cannot be evaluated.
    """
    library = LIBRARY if library is None else library
    if refined is not None and refined < 1:
        raise ConfigError(f"refined must be 1 or more functions per curve, or None for all, got {refined}.")
    if not 0 <= noise < 1:
        raise ConfigError(f"noise must be a share from 0 to below 1, got {noise!r}.")
    u_S = _common_grid(x_ES, y_ES)
    held_out = torch.zeros(len(u_S), dtype=torch.bool)
    held_out[FIRST_HELD_OUT::HELD_OUT_EVERY] = True
    dictionary = Dictionary(library, u_S[~held_out], torch.float32)
    parts = []
    for start in range(0, len(y_ES), CHUNK):
        y = y_ES[start : start + CHUNK]
        parts.append(_fit_chunk(dictionary, u_S, held_out, y, refined, simplicity, noise))
        if progress is not None:
            progress("fitting", min(start + CHUNK, len(y_ES)), len(y_ES), "curves")
    columns = [torch.cat(column) for column in zip(*parts, strict=True)] if parts else [torch.zeros(0)] * 8
    return _in_units_of_x(SymbolicFits(library, columns[0].long(), *columns[1:]), x_ES)


def _fit_chunk(
    dictionary: Dictionary,
    u_S: Tensor,
    held_out: Tensor,
    y_ES: Tensor,
    refined: int | None,
    simplicity: float,
    noise: float,
) -> tuple[Tensor, ...]:
    """Columns of `SymbolicFits` for x = u."""
    y_ES = y_ES.detach().cpu()
    floor = max(FLOORS.get(y_ES.dtype, FLOORS[torch.float32]), noise)
    y_ES, unit_E = _of_usual_size(y_ES.double())
    fitted_ES = y_ES[:, ~held_out]
    unit_ES, constant = _normalised(fitted_ES)
    a, b, r2 = _refined(dictionary, u_S[~held_out], unit_ES, refined, simplicity, floor)
    chosen = costs(r2, dictionary.library, fitted_ES.shape[1], simplicity, floor).argmin(dim=0)
    chosen[constant] = IS_CONSTANT
    rows = torch.arange(len(y_ES))
    a, b = a[chosen, rows], b[chosen, rows]
    fits = SymbolicFits(dictionary.library, chosen, a, b, *(torch.zeros_like(a) for _ in range(5)))
    c, d, r2_unseen = _judged(fits, u_S, held_out, y_ES, constant)
    constant = _normalised(y_ES)[1]  # on all points: a curve may vary between those of the fit only
    r2_unseen = r2_unseen.masked_fill(constant, 1.0)
    r2_fit = r2[chosen, rows].masked_fill(constant, 1.0)
    best_r2 = r2.amax(dim=0).masked_fill(constant, 1.0)
    a, b = a.masked_fill(constant, 0.0), b.masked_fill(constant, 0.0)
    return chosen, a, b, c * unit_E, d * unit_E, r2_unseen, r2_fit, best_r2


def _of_usual_size(y_ES: Tensor) -> tuple[Tensor, Tensor]:
    """Curves whose squares are neither infinite nor zero, and the power of two that each was divided by."""
    exponent_E = torch.frexp(y_ES.abs().amax(-1)).exponent.clamp(-MAX_EXPONENT, MAX_EXPONENT).double()
    return y_ES * torch.exp2(-exponent_E)[:, None], torch.exp2(exponent_E)


def _refined(
    dictionary: Dictionary, u_S: Tensor, y_ES: Tensor, refined: int | None, simplicity: float, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """a, b and R² in float64, each (F, E); an R² of -1 for functions that were not refined."""
    library, low_S, low = dictionary.library, u_S.float(), y_ES.float()
    coarse = torch.cat([dictionary.best_r2(part) for part in low.split(COARSE_CHUNK)], dim=1).double()
    promising = _promising(coarse, library, refined, len(u_S), simplicity, floor)
    a, b = torch.zeros_like(coarse), torch.zeros_like(coarse)
    r2 = torch.full_like(coarse, -1.0)
    for index, symbol in enumerate(library):
        for rows in promising[index].nonzero()[:, 0].split(REFINED_CHUNK):
            y = low[rows]
            start_a, start_b = dictionary.start(index, y)
            fits = refine(symbol, low_S, y, start_a.float(), start_b.float(), STEPS)
            a[index, rows], b[index, rows], r2[index, rows] = fits.a.double(), fits.b.double(), fits.r2.double()
    exact = r2 > 1 - EXACT
    for index in exact.any(dim=1).nonzero()[:, 0].tolist():
        for rows in exact[index].nonzero()[:, 0].split(REFINED_CHUNK):
            fits = refine(library[index], u_S, y_ES[rows], a[index, rows], b[index, rows], EXACT_STEPS)
            a[index, rows], b[index, rows], r2[index, rows] = fits.a, fits.b, fits.r2
    return a, b, r2.clamp(max=1.0)


def _promising(
    r2: Tensor, library: SymbolLibrary, refined: int | None, points: int, simplicity: float, floor: float
) -> Tensor:
    """Which functions to refine for each curve, (F, E)."""
    if refined is None or refined >= len(library):
        return torch.ones_like(r2, dtype=torch.bool)
    r2 = r2.clamp(max=1.0)
    chosen = torch.zeros_like(r2, dtype=torch.bool)
    cheapest = costs(r2, library, points, simplicity, floor).topk(refined, dim=0, largest=False).indices
    chosen.scatter_(0, cheapest, True)
    chosen.scatter_(0, r2.topk(min(CLOSEST, refined), dim=0).indices, True)
    chosen[torch.tensor([not (symbol.fit_scale or symbol.fit_shift) for symbol in library])] = True  # cost nothing
    return chosen


def _judged(
    fits: SymbolicFits, u_S: Tensor, held_out: Tensor, y_ES: Tensor, constant: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """c and d by least squares on the points of the fit, and R² on the others; `fits` has c = d = 0."""
    shape_only = replace(fits, c=torch.ones_like(fits.a))
    f_ES = shape_only.evaluate(u_S.expand(len(y_ES), -1))
    f, y = f_ES[:, ~held_out], y_ES[:, ~held_out]
    f_mean, y_mean = f.mean(-1), y.mean(-1)
    f, y = f - f_mean[:, None], y - y_mean[:, None]
    c = ((f * y).sum(-1) / f.square().sum(-1)).masked_fill(constant, 0.0)
    d = y_mean - c * f_mean
    residual = (y_ES - (c[:, None] * f_ES + d[:, None]))[:, held_out].square().sum(-1)
    unseen = y_ES[:, held_out]
    spread = (unseen - unseen.mean(-1, keepdim=True)).square().sum(-1)
    # Where the curve hardly varies on the few unseen points, what it does on all of them is the measure.
    usual = y_ES.var(-1, correction=0) * unseen.shape[1]
    return c, d, 1 - residual / torch.maximum(spread, usual).clamp(min=torch.finfo(torch.float64).tiny)


def _normalised(y_ES: Tensor) -> tuple[Tensor, Tensor]:
    """Curves of mean 0 and length 1, and which of them do not vary."""
    centred = y_ES - y_ES.mean(-1, keepdim=True)
    length = centred.norm(dim=-1, keepdim=True)
    rounding = MIN_VARIATION * y_ES.norm(dim=-1, keepdim=True)
    constant = length <= rounding
    return torch.where(constant, 0.0, centred / length), constant[:, 0]


def _common_grid(x_ES: Tensor, y_ES: Tensor) -> Tensor:
    """The points of all rows, shifted and scaled to [-1, 1]."""
    if x_ES.ndim != 2 or x_ES.shape != y_ES.shape or x_ES.shape[1] < MIN_POINTS:
        raise ShapeError(
            f"x and y must be two tables (curves, points) of one shape with {MIN_POINTS} points or more, "
            f"got {tuple(x_ES.shape)} and {tuple(y_ES.shape)}."
        )
    for name, values in (("x", x_ES), ("y", y_ES)):
        bad = ~values.isfinite().all(-1)
        if bad.any():
            raise DataError(f"{name} has a value that is not finite in row {int(bad.nonzero()[0])}.")
    x_ES = x_ES.detach().cpu()
    if len(x_ES) == 0:
        return torch.linspace(-1, 1, x_ES.shape[1], dtype=torch.float64)
    descending = ~(x_ES.diff(dim=-1) > 0).all(-1)
    if descending.any():
        raise DataError(f"The points of row {int(descending.nonzero()[0])} of x do not ascend.")
    u_S = None
    for part in x_ES.split(CHUNK):
        centre, half = _interval(part)
        bad = ~((1 / half).isfinite() & half.isfinite() & centre.isfinite())
        if bad.any():
            row = part[bad.nonzero()[0, 0]]
            raise DataError(f"x from {float(row[0]):g} to {float(row[-1]):g} is too narrow or too wide for float64.")
        u_ES = (part.double() - centre[:, None]) / half[:, None]
        u_S = u_ES[0] if u_S is None else u_S
        other = (u_ES - u_S).abs().amax(-1) > SAME_POSITION
        if other.any():
            raise DataError("All rows of x must have the same points up to a shift and a scale. Sample the curves so.")
    assert u_S is not None
    return u_S


def _interval(x_ES: Tensor) -> tuple[Tensor, Tensor]:
    lower, upper = x_ES[:, 0].double(), x_ES[:, -1].double()
    return (lower + upper) / 2, (upper - lower) / 2


def _in_units_of_x(fits: SymbolicFits, x_ES: Tensor) -> SymbolicFits:
    """Fits as functions of x, from fits as functions of u = (x - centre) / half."""
    centre, half = _interval(x_ES.detach().cpu())
    a = fits.a / half
    return replace(fits, a=a, b=fits.b - a * centre)
