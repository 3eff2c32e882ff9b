"""What the kernels of the learned activation share: the forms of a curve, and where x lies in its domain.

How a curve is evaluated (FORM), each in a file of its own:

    CENTRED   B-splines of 16-bit inputs on coarse grids, in truncated powers: `centred_form.py`
    HORNER    rational curves: `rational_form.py`
    ALIVE     the K + 1 functions alive at a point (`bases.py`) times coefficients that are chosen among those held
    FETCHED   the same of a B-spline with too many coefficients to hold: they are fetched per element, and in backward
              further programs sum up the gradients of further coefficients, WIDTH at a time
"""

import triton
import triton.language as tl

from .bases import BSPLINE, MAX_DISTANCE, clamp_to_domain, unit_coordinates

FORMS = {"centred": 0, "horner": 1, "alive": 2, "fetched": 3}
"""Value of the constant FORM for each name; up to `horner` a curve is evaluated as a whole, not by basis functions."""

CENTRED = tl.constexpr(0)
HORNER = tl.constexpr(1)
FETCHED = tl.constexpr(3)

NOT_SPECIALIZED = ["tokens", "tokens_per_program"]
"""Arguments whose values do not matter to the compiler, so that ragged batches share one compilation."""

ANY_ADDRESS = ["coefficients_ptr", "domain_ptr", "denominator_ptr"]
"""Addresses that need no alignment: they are read a few times per program, one number at a time."""


@triton.jit
def place_in_domain(x, lower, scale, FORM: tl.constexpr, G: tl.constexpr, FUSED: tl.constexpr):
    """x in the form's coordinate (t, z, or the unit coordinate), its place in the domain, and how far it is beyond.

    FUSED takes one instruction, whose error grows with the distance of the domain from zero, as the spacing of 16-bit x
    does; it may place the upper end beyond itself, which matters where a curve ends there: all but `linear`.
    """
    if FORM <= HORNER:
        width: tl.constexpr = G if FORM == CENTRED else 2
        origin: tl.constexpr = G // 2 if FORM == CENTRED else 1
        slant = scale * width
        raw = x * slant - (lower * slant + origin) if FUSED else (x - lower) * scale * width - origin
        raw = _clamp(raw, -MAX_DISTANCE * width, MAX_DISTANCE * width)
        place = _clamp(raw, -1.0 * origin, 1.0 * (width - origin))
    else:
        raw = unit_coordinates(x, lower, scale)
        place = clamp_to_domain(raw)
    return raw, place, raw - place


@triton.jit
def _clamp(x, LOW: tl.constexpr, HIGH: tl.constexpr):
    """x in [LOW, HIGH], or NaN."""
    x = tl.minimum(x, HIGH, propagate_nan=tl.PropagateNan.ALL)
    return tl.maximum(x, LOW, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def combine(
    functions,
    first,
    held,
    pointers,
    mask,
    FORM: tl.constexpr,
    BASIS: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
):
    """Σ_j a_{first + j} functions_j. The coefficients are `held` in a tuple of C, or if FETCHED start at `pointers`."""
    total = tl.zeros_like(functions[0])
    for j in tl.static_range(K + 1):
        if FORM == FETCHED:
            coefficient = tl.load(pointers + first.to(tl.int32) + j, mask=mask, other=0.0).to(total.dtype)
        else:
            coefficient = held[j]
            if BASIS == BSPLINE:
                for m in tl.static_range(1, G):
                    coefficient = tl.where(first >= m, held[m + j], coefficient)
        total += coefficient * functions[j]
    return total
