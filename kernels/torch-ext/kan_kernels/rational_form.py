"""Rational curves P(z) / S(z), S = 1 + |Q(z)|, by Horner's rule, and every gradient from one pass of powers.

z in [-1, 1] is the place in the domain and e what lies outside, in the same units: w(z + e) = w(z) + w'(z) e. There z
is -1 or 1, so that what e adds to the parameters' gradients is Σ h e on each side times constants of the curve, added
once per program. With s = sign(Q):

    w' = (P' - w s Q') / S        ∂w/∂a_c = z^c / S                        ∂w/∂q_d = -s w z^d / S
    ∂w'/∂a_c = (c z^(c-1) - z^c s Q'/S) / S        ∂w'/∂q_d = -s [z^d (w' - w s Q'/S) + d z^(d-1) w] / S

Tuples of tensors: a of K + 1 coefficients, q of D = max(1, K - 1) denominator parameters; sums are of h z^c / S for
every c, then of -h s w z^d / S for every d.
"""

import triton
import triton.language as tl

from .base_functions import quick_reciprocal


@triton.jit
def rational_value(z, a, q, K: tl.constexpr, D: tl.constexpr):
    """w inside the domain."""
    p = a[K] * z + a[K - 1]
    for c in tl.static_range(2, K + 1):
        p = p * z + a[K - c]
    return p * quick_reciprocal(1.0 + tl.abs(_denominator(z, q, D)))


@triton.jit
def rational_value_and_slope(z, a, q, K: tl.constexpr, D: tl.constexpr):
    """w, w', 1 / S, the sign of Q and S' inside the domain."""
    p = a[K] * z + a[K - 1]
    for c in tl.static_range(2, K + 1):
        p = p * z + a[K - c]
    p_slope = a[K] * K
    for c in tl.static_range(1, K):
        p_slope = p_slope * z + a[K - c] * (K - c)
    q_slope = q[D - 1] * D
    for d in tl.static_range(1, D):
        q_slope = q_slope * z + q[D - 1 - d] * (D - d)
    value = _denominator(z, q, D)
    sign = tl.where(value > 0.0, 1.0, tl.where(value < 0.0, -1.0, 0.0)).to(z.dtype)
    quotient = quick_reciprocal(1.0 + tl.abs(value))
    w = p * quotient
    s_slope = sign * q_slope
    return w, (p_slope - w * s_slope) * quotient, quotient, sign, s_slope


@triton.jit
def rational_sums(sums, h, z, w, quotient, sign, K: tl.constexpr, D: tl.constexpr):
    """`sums` with one more element."""
    power = h * quotient
    across = -sign * w
    new = (sums[0] + power,)
    last = ()
    for c in tl.static_range(1, max(K, D) + 1):
        power = power * z
        if c <= K:
            new += (sums[c] + power,)
        if c <= D:
            last += (sums[K + c] + across * power,)
    return new + last


@triton.jit
def end_gradients(z, a, q, K: tl.constexpr, D: tl.constexpr):
    """∂w'/∂a_c for every c, then ∂w'/∂q_d for every d, at z."""
    w, slope, quotient, sign, s_slope = rational_value_and_slope(z, a, q, K, D)
    decline = s_slope * quotient
    power = quotient
    below = tl.zeros_like(quotient)
    gradients = ()
    last = ()
    for c in tl.static_range(max(K, D) + 1):
        if c <= K:
            gradients += (below * c - power * decline,)
        if c >= 1 and c <= D:
            last += (-sign * (power * (slope - w * decline) + below * c * w),)
        below = power
        power = power * z
    return gradients + last


@triton.jit
def _denominator(z, q, D: tl.constexpr):
    """Q(z) = Σ_d q_d z^d, d = 1 … D."""
    value = q[D - 1] * z
    for d in tl.static_range(1, D):
        value = (value + q[D - 1 - d]) * z
    return value
