"""B-spline curves in truncated powers around a middle knot: no interval is looked up and nothing is selected.

With t = G·u - M, M = ⌊G/2⌋, clamped to the domain's [-M, G - M], knots at k = 1 … G - 1 and

    r_k = max(t - (k - M), 0)  for k > M        r_k = max((k - M) - t, 0)  for k ≤ M

    ψ = Σ_p b_p t^p + Σ_k d_k r_k^K        ψ' = Σ_p p b_p t^(p-1) ± K Σ_k d_k r_k^(K-1)        (+ right, - left)

b is the polynomial of interval M and d_k the (K + 1)-th difference of the coefficients over K!, with its sign turned
left of the middle where K is even: G + K numbers, the number of coefficients, made once per program. Gradients
need Σ h t^p and Σ h r_k^K, which the transposed map turns into the coefficients' gradients, once per program.

No term leaves (G/2)^K, so that float32 loses `lost_bits` of its 24: the form is for 16-bit inputs and coarse grids.

Tuples of tensors, all by the coordinate t: held = (b_0 … b_K, d_1 … d_{G-1}); powers = (1, t … t^K, r_1^K … r_{G-1}^K),
whose 1 is not stored; sums are of h times each of them.
"""

import math

import triton
import triton.language as tl

from .bases import MAX_ORDER, SEGMENTS, segment_polynomials

# fp16 has 11 of float32's 24 bits; with 9 lost, an error is still a quarter of its rounding.
_MAX_LOST_BITS = 9


def lost_bits(grid_size: int, order: int) -> float:
    """Bits of float32 that cancellation may cost: log2 of the largest term for coefficients of ±1."""
    return order * math.log2(max(grid_size, 2) / 2) + (order + 1) - math.log2(math.factorial(order))


def is_centred(grid_size: int, order: int) -> bool:
    """Whether 16-bit inputs take this form. Of order 1, slopes jump at the knots: rounding would choose the side."""
    return order >= 2 and lost_bits(grid_size, order) <= _MAX_LOST_BITS


def _flat_tables() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Both at order·16 + side·8 + j, since Triton cannot index nested tuples.

    Factors of coefficient k - 1 + j in d_k, side 1 being left of the middle; and slopes of the j-th alive B-spline at
    the start of its interval, side 0, and at its end.
    """
    orders = MAX_ORDER["bspline"] + 1
    differences, slopes = [0.0] * 16 * orders, [0.0] * 16 * orders
    for order in range(1, orders):
        for side in range(2):
            for j in range(order + 2):
                sign = (-1) ** ((order + 1) * (1 - side) + j)
                differences[order * 16 + side * 8 + j] = sign * math.comb(order + 1, j) / math.factorial(order)
            for j, polynomial in enumerate(segment_polynomials(order)):
                slopes[order * 16 + side * 8 + j] = sum(
                    p * factor * side ** (p - 1) for p, factor in enumerate(polynomial) if p
                )
    return tuple(differences), tuple(slopes)


_DIFFERENCES, _END_SLOPES = map(tl.constexpr, _flat_tables())


@triton.jit
def centre(coefficients, G: tl.constexpr, K: tl.constexpr):
    """`held` of a tuple of G + K coefficients."""
    M: tl.constexpr = G // 2
    held = ()
    for p in tl.static_range(K + 1):
        total = coefficients[M] * SEGMENTS[K * 36 + p]
        for j in tl.static_range(1, K + 1):
            total += coefficients[M + j] * SEGMENTS[K * 36 + j * 6 + p]
        held += (total,)
    for k in tl.static_range(1, G):
        total = coefficients[k - 1] * _DIFFERENCES[K * 16 + (k <= M) * 8]
        for j in tl.static_range(1, K + 2):
            total += coefficients[k - 1 + j] * _DIFFERENCES[K * 16 + (k <= M) * 8 + j]
        held += (total,)
    return held


@triton.jit
def end_slopes(coefficients, G: tl.constexpr, K: tl.constexpr):
    """ψ' at both ends of the domain, from the coefficients."""
    low = coefficients[0] * _END_SLOPES[K * 16]
    high = coefficients[G - 1] * _END_SLOPES[K * 16 + 8]
    for j in tl.static_range(1, K + 1):
        low += coefficients[j] * _END_SLOPES[K * 16 + j]
        high += coefficients[G - 1 + j] * _END_SLOPES[K * 16 + 8 + j]
    return low, high


@triton.jit
def _distance(t, k: tl.constexpr, G: tl.constexpr):
    """r_k. NaN becomes 0 here; t itself carries it on."""
    M: tl.constexpr = G // 2
    return tl.maximum(t - (k - M), 0.0) if k > M else tl.maximum((k - M) - t, 0.0)


@triton.jit
def _power(r, K: tl.constexpr):
    """r^K and r^(K-1)."""
    below = r
    for _ in tl.static_range(2, K):
        below = below * r
    return below * r, below


@triton.jit
def centred_value(t, held, G: tl.constexpr, K: tl.constexpr):
    """ψ inside the domain."""
    psi = held[K] * t + held[K - 1]
    for p in tl.static_range(2, K + 1):
        psi = psi * t + held[K - p]
    for k in tl.static_range(1, G):
        power, _ = _power(_distance(t, k, G), K)
        psi += held[K + k] * power
    return psi


@triton.jit
def centred_value_and_slope(t, held, G: tl.constexpr, K: tl.constexpr):
    """ψ and ψ' inside the domain, and `powers`."""
    powers = (t,)
    psi = held[1] * t + held[0]
    slope = held[1] + tl.zeros_like(t)
    for p in tl.static_range(2, K + 1):
        power = powers[p - 2] * t
        psi += held[p] * power
        if p < K:
            slope += (held[p] * p) * powers[p - 2]
        powers += (power,)
    bent = held[K] * powers[K - 2]  # what has degree K - 1 in the slope, over K
    for k in tl.static_range(1, G):
        power, below = _power(_distance(t, k, G), K)
        psi += held[K + k] * power
        if k > G // 2:
            bent += held[K + k] * below
        else:
            bent -= held[K + k] * below
        powers += (power,)
    return psi, bent * K + slope, powers


@triton.jit
def centred_sums(sums, h, powers, N: tl.constexpr):
    """`sums` with h times 1 and each of the N - 1 `powers` added."""
    new = (sums[0] + h,)
    for c in tl.static_range(1, N):
        new += (sums[c] + h * powers[c - 1],)
    return new


@triton.jit
def uncentre(sums, c: tl.constexpr, G: tl.constexpr, K: tl.constexpr):
    """Gradient of coefficient c inside the domain, from the sums of h times 1 and `powers`."""
    M: tl.constexpr = G // 2
    total = tl.zeros_like(sums[0])
    if c >= M and c <= M + K:
        for p in tl.static_range(K + 1):
            total += sums[p] * SEGMENTS[K * 36 + (c - M) * 6 + p]
    for k in tl.static_range(1, G):
        if c >= k - 1 and c <= k + K:
            total += sums[K + k] * _DIFFERENCES[K * 16 + (k <= M) * 8 + c - k + 1]
    return total


@triton.jit
def end_slope_gradient(left, right, c: tl.constexpr, G: tl.constexpr, K: tl.constexpr):
    """Gradient of coefficient c on the tangents: `left` and `right` are Σ h e on either side of the domain."""
    total = tl.zeros_like(left)
    if c <= K:
        total += left * _END_SLOPES[K * 16 + c]
    if c >= G - 1:
        total += right * _END_SLOPES[K * 16 + 8 + c - (G - 1)]
    return total
