"""Basis functions as Triton device functions, shared by all kernels.

With u the position in units of the domain, v = clamp(u, 0, 1) and e = u - v, every function is

    B(u) = B(v) + B'(v)·e   (linear)        B(v)   (clamp)        B(v)·[u = v]   (zero)

    bspline    s = G·v, m = min(⌊s⌋, G-1), t = s - m;   B_{m+j}(v) = Σ_p S_jp t^p, j = 0 … K; all others are zero
    chebyshev  z = 2v - 1;   T_{c+1} = 2z T_c - T_{c-1};   T_c' = c U_{c-1}
    rational   z = 2v - 1;   z^c / (1 + |Q(z)|), Q = Σ_{d≥1} q_d z^d

Every basis has K + 1 functions that are alive at a point: those of number m … m + K of a B-spline, and all functions of
the others, whose m is 0. Tuples of tensors hold them, one tensor per function, so that they stay in registers:

    first, values, slopes = alive_functions(unit, denominator, ...)     a whole curve, or all functions at once
    basis_value(unit, c, denominator, ...)                               one function, in a loop over c

All take `unit` of any shape in float32 or float64 and return its shape and dtype. Slopes are by the unit coordinate:
multiply by `scale` to have them by x. `denominator` is a tuple of D tensors that broadcast with `unit`, or `()`.
NaN gives NaN; infinity counts as MAX_DISTANCE, where the slope is 0.

Constants: G grid intervals, K order, C coefficients, D = max(1, K - 1) denominator parameters.
"""

from fractions import Fraction

import triton
import triton.language as tl

BASES = {"bspline": 0, "chebyshev": 1, "rational": 2}
"""Value of the constant BASIS for each name."""

EXTRAPOLATIONS = {"linear": 0, "clamp": 1, "zero": 2}
"""Value of the constant EXTRAPOLATION for each name."""

MAX_ORDER = {"bspline": 5, "chebyshev": 16, "rational": 9}

BSPLINE = tl.constexpr(0)
CHEBYSHEV = tl.constexpr(1)
RATIONAL = tl.constexpr(2)
LINEAR = tl.constexpr(0)
CLAMP = tl.constexpr(1)
ZERO = tl.constexpr(2)

# Inputs further away than this many domain widths count as this far: zero coefficients times infinity would be NaN.
MAX_DISTANCE = tl.constexpr(1e18)


def num_coefficients(basis: str, grid_size: int, order: int) -> int:
    """C, coefficients per curve."""
    return grid_size + order if basis == "bspline" else order + 1


def num_denominator(basis: str, order: int) -> int:
    """D, denominator parameters per curve; 0 for every basis but `rational`."""
    return max(1, order - 1) if basis == "rational" else 0


def segment_polynomials(order: int) -> tuple[tuple[float, ...], ...]:
    """S: row j, column p is the factor of t**p in the j-th B-spline alive on an interval, from Cox-de Boor."""
    rows = [[Fraction(1)]]
    for degree in range(1, order + 1):
        # b_j(t) = ((t + degree - j) b_{j-1}(t) + (j + 1 - t) b_j(t)) / degree, the b on the right of one degree less
        below, rows = rows, [[Fraction(0)] * (degree + 1) for _ in range(degree + 1)]
        for j, row in enumerate(below):
            for p, factor in enumerate(row):
                rows[j][p] += factor * (j + 1) / degree
                rows[j][p + 1] -= factor / degree
                rows[j + 1][p] += factor * (degree - j - 1) / degree
                rows[j + 1][p + 1] += factor / degree
    return tuple(tuple(float(factor) for factor in row) for row in rows)


def _flat_segment_polynomials() -> tuple[float, ...]:
    """The factors of all orders at order·36 + j·6 + p: Triton cannot index nested tuples."""
    flat = [0.0] * 216
    for order in range(1, MAX_ORDER["bspline"] + 1):
        for j, row in enumerate(segment_polynomials(order)):
            flat[order * 36 + j * 6 : order * 36 + j * 6 + order + 1] = row
    return tuple(flat)


SEGMENTS = tl.constexpr(_flat_segment_polynomials())


@triton.jit
def unit_coordinates(x, lower, scale):
    """x in units of its domain, never infinite; `scale` is 1 / (upper - lower)."""
    unit = tl.minimum((x - lower) * scale, MAX_DISTANCE, propagate_nan=tl.PropagateNan.ALL)
    return tl.maximum(unit, -MAX_DISTANCE, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def clamp_to_domain(unit):
    """unit in [0, 1], or NaN."""
    inside = tl.minimum(unit, 1.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.maximum(inside, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _horner(position, J: tl.constexpr, K: tl.constexpr):
    """The J-th alive B-spline at a position in its interval."""
    value = position * SEGMENTS[K * 36 + J * 6 + K] + SEGMENTS[K * 36 + J * 6 + K - 1]
    for p in tl.static_range(2, K + 1):
        value = value * position + SEGMENTS[K * 36 + J * 6 + K - p]
    return value


@triton.jit
def _horner_slope(position, J: tl.constexpr, G: tl.constexpr, K: tl.constexpr):
    """Its derivative by the unit coordinate."""
    if K == 1:
        value = position * 0.0 + SEGMENTS[K * 36 + J * 6 + K] * G  # NaN where the position is
    else:
        value = position * (SEGMENTS[K * 36 + J * 6 + K] * K * G) + SEGMENTS[K * 36 + J * 6 + K - 1] * (K - 1) * G
        for p in tl.static_range(2, K):
            value = value * position + SEGMENTS[K * 36 + J * 6 + K - p] * (K - p) * G
    return value


@triton.jit
def bspline_interval(inside, G: tl.constexpr):
    """Number of the grid interval (a whole float, 0 for NaN) and the position in it in [0, 1]."""
    scaled = inside * G
    # Minimum and maximum as they are by default: of a number and NaN they take the number.
    interval = tl.maximum(tl.minimum(tl.floor(scaled), G - 1.0), 0.0)
    return interval, scaled - interval


@triton.jit
def _bspline_functions(inside, G: tl.constexpr, K: tl.constexpr):
    first, position = bspline_interval(inside, G)
    values = ()
    slopes = ()
    for j in tl.static_range(K + 1):
        values += (_horner(position, j, K),)
        slopes += (_horner_slope(position, j, G, K),)
    return first, values, slopes


@triton.jit
def _chebyshev_functions(inside, K: tl.constexpr):
    z = inside * 2.0 - 1.0
    one = z * 0.0 + 1.0  # NaN where z is
    below, value = one, z
    second_kind_below, second_kind = one, z * 2.0
    values = (one, z)
    slopes = (one - one, one * 2.0)
    for c in tl.static_range(2, K + 1):
        slopes += (second_kind * (2.0 * c),)
        following = z * 2.0 * value - below
        below, value = value, following
        values += (value,)
        following = z * 2.0 * second_kind - second_kind_below
        second_kind_below, second_kind = second_kind, following
    return values, slopes


@triton.jit
def rational_scale(z, denominator, K: tl.constexpr):
    """S = 1 + |Q(z)|, the sign of Q, and the slope of S by z."""
    D: tl.constexpr = K - 1 if K > 1 else 1
    q = z * 0.0
    slope = q
    for k in tl.static_range(D):
        slope = slope * z + denominator[D - 1 - k] * (D - k)
        q = (q + denominator[D - 1 - k]) * z
    sign = tl.where(q > 0.0, 1.0, tl.where(q < 0.0, -1.0, 0.0)).to(z.dtype)
    return 1.0 + tl.abs(q), sign, sign * slope


@triton.jit
def _rational_functions(inside, denominator, K: tl.constexpr):
    z = inside * 2.0 - 1.0
    scale, _, scale_slope = rational_scale(z, denominator, K)
    quotient = 1.0 / scale
    decline = scale_slope * quotient
    power = z * 0.0 + 1.0
    values = (quotient,)
    slopes = (quotient * decline * -2.0,)
    for c in tl.static_range(1, K + 1):
        power_slope = power * c
        power = power * z
        values += (power * quotient,)
        slopes += ((power_slope - power * decline) * quotient * 2.0,)
    return values, slopes


@triton.jit
def alive_functions(
    unit, denominator, BASIS: tl.constexpr, G: tl.constexpr, K: tl.constexpr, EXTRAPOLATION: tl.constexpr
):
    """The K + 1 functions alive at `unit`: number of the first (a whole float), tuple of values, tuple of slopes."""
    inside = clamp_to_domain(unit)
    if BASIS == BSPLINE:
        first, inner_values, inner_slopes = _bspline_functions(inside, G, K)
    else:
        first = tl.zeros_like(inside)
        if BASIS == CHEBYSHEV:
            inner_values, inner_slopes = _chebyshev_functions(inside, K)
        else:
            inner_values, inner_slopes = _rational_functions(inside, denominator, K)
    values = ()
    slopes = ()
    for j in tl.static_range(K + 1):
        value, slope = extrapolate(unit, inside, inner_values[j], inner_slopes[j], EXTRAPOLATION)
        values += (value,)
        slopes += (slope,)
    return first, values, slopes


@triton.jit
def extrapolate(unit, inside, value, slope, EXTRAPOLATION: tl.constexpr):
    """Value and slope at `unit` of a function whose value and slope at `inside` are given."""
    if EXTRAPOLATION == LINEAR:
        outer_value = value + slope * (unit - inside)
        outer_slope = tl.where(tl.abs(unit) >= MAX_DISTANCE, 0.0, slope)
    else:
        outside = (unit < 0.0) | (unit > 1.0)
        outer_slope = tl.where(outside, 0.0, slope)
        outer_value = value
        if EXTRAPOLATION == ZERO:
            outer_value = tl.where(outside, 0.0, value)
    return outer_value, outer_slope


@triton.jit
def pick(values, index, N: tl.constexpr):
    """values[index] of a tuple of N tensors, 0 where the index is not 0 … N - 1."""
    result = tl.zeros_like(values[0])
    for j in tl.static_range(N):
        result = tl.where(index == j, values[j], result)
    return result


@triton.jit
def pick_alive(values, first, c: tl.constexpr, BASIS: tl.constexpr, G: tl.constexpr, K: tl.constexpr):
    """Of what `alive_functions` returned, the value of function number c, a constant; 0 where that one is not alive."""
    if BASIS == BSPLINE:
        result = tl.zeros_like(values[0])
        for j in tl.static_range(K + 1):
            if c - j >= 0 and c - j < G:
                result = tl.where(first == c - j, values[j], result)
    else:
        result = values[c]
    return result


@triton.jit
def _cardinal(inside, c, G: tl.constexpr, K: tl.constexpr):
    """The c-th B-spline and its slope in closed form, from truncated powers of the distance to its centre.

    With r = (K + 1)/2 and a = |G·v - (c - K) - r|:  B = Σ_{j < r} (-1)^j binom(K+1, j) max(r - j - a, 0)^K / K!
    """
    scaled = inside * G
    if K == 1:
        # The slope jumps at the knots. At the upper end it is the last interval's.
        last = tl.where(scaled < G - 1.0, tl.floor(scaled), G - 1.0)
        j = c - last
        value = tl.where(j == 0.0, 1.0 - (scaled - last), tl.where(j == 1.0, scaled - last, scaled * 0.0))
        slope = tl.where(j == 0.0, -1.0, tl.where(j == 1.0, 1.0, scaled * 0.0))
    else:
        r: tl.constexpr = (K + 1) / 2.0
        offset = scaled - (c - K + r)
        a = tl.abs(offset)
        value, slope = _truncated_power(r - a, K)
        if K == 2:
            v1, s1 = _truncated_power(0.5 - a, K)
            value, slope = (value - 3.0 * v1) * 0.5, (slope - 3.0 * s1) * 0.5
        elif K == 3:
            v1, s1 = _truncated_power(1.0 - a, K)
            value, slope = (value - 4.0 * v1) * (1.0 / 6.0), (slope - 4.0 * s1) * (1.0 / 6.0)
        elif K == 4:
            v1, s1 = _truncated_power(1.5 - a, K)
            v2, s2 = _truncated_power(0.5 - a, K)
            value = (value - 5.0 * v1 + 10.0 * v2) * (1.0 / 24.0)
            slope = (slope - 5.0 * s1 + 10.0 * s2) * (1.0 / 24.0)
        else:
            v1, s1 = _truncated_power(2.0 - a, K)
            v2, s2 = _truncated_power(1.0 - a, K)
            value = (value - 6.0 * v1 + 15.0 * v2) * (1.0 / 120.0)
            slope = (slope - 6.0 * s1 + 15.0 * s2) * (1.0 / 120.0)
        slope = tl.where(offset > 0.0, -slope, slope)
    return value, slope * G


@triton.jit
def _truncated_power(base, K: tl.constexpr):
    """max(base, 0)^K and its slope."""
    base = tl.where(base < 0.0, 0.0, base)
    below = base
    for _ in tl.static_range(2, K):
        below = below * base
    return below * base, below * K


@triton.jit
def basis_value(
    unit, c, denominator, BASIS: tl.constexpr, G: tl.constexpr, K: tl.constexpr, EXTRAPOLATION: tl.constexpr
):
    """Value of the c-th function; c is a constant or a runtime integer."""
    if BASIS == BSPLINE:
        inside = clamp_to_domain(unit)
        value, _ = _cardinal(inside, c, G, K)
        if EXTRAPOLATION == LINEAR:
            # Outside, the tangent is one of two numbers of this c, cheaper than a slope of every element.
            _, low = _cardinal(tl.full((), 0.0, unit.dtype), c, G, K)
            _, high = _cardinal(tl.full((), 1.0, unit.dtype), c, G, K)
            value += tl.where(unit > 1.0, high, low) * (unit - inside)
        elif EXTRAPOLATION == ZERO:
            value = tl.where((unit < 0.0) | (unit > 1.0), 0.0, value)
    else:
        _, values, _ = alive_functions(unit, denominator, BASIS, G, K, EXTRAPOLATION)
        value = pick(values, c, K + 1)
    return value


@triton.jit
def denominator_slopes(unit, coefficients, denominator, K: tl.constexpr, EXTRAPOLATION: tl.constexpr):
    """Tuple of D: the derivatives by every q_d of a rational curve with these C coefficients (tensors or scalars).

    With S = 1 + |Q|, w = P/S and w' by z:  ∂w/∂q_d = -sign(Q) z^d w/S, and on the tangent, 2e further in z,

        ∂(w + 2e w')/∂q_d = -sign(Q) [z^d (w + 2e (w' - w S'/S)) + 2e d z^(d-1) w] / S
    """
    D: tl.constexpr = K - 1 if K > 1 else 1
    inside = clamp_to_domain(unit)
    z = inside * 2.0 - 1.0
    scale, sign, scale_slope = rational_scale(z, denominator, K)
    numerator = z * 0.0 + coefficients[K]
    numerator_slope = z * 0.0
    for c in tl.static_range(1, K + 1):
        numerator_slope = numerator_slope * z + numerator
        numerator = numerator * z + coefficients[K - c]
    quotient = 1.0 / scale
    value = numerator * quotient
    decline = scale_slope * quotient
    factor = -sign * quotient
    if EXTRAPOLATION == LINEAR:
        outside = (unit - inside) * 2.0
        along = value + outside * (numerator_slope * quotient - value * decline * 2.0)
        across = outside * value * factor
    else:
        along = value
        if EXTRAPOLATION == ZERO:
            along = tl.where((unit < 0.0) | (unit > 1.0), 0.0, value)
    along = along * factor
    power = z * 0.0 + 1.0
    slopes = ()
    for d in tl.static_range(1, D + 1):
        slope = along * power * z
        if EXTRAPOLATION == LINEAR:
            slope = slope + across * power * d
        power = power * z
        slopes += (slope,)
    return slopes
