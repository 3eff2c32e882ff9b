"""The learned activation: an activation function with a curve on top, and the gate product that follows it.

Forward, for token n and channel i with curve p = ⌊i / (I/P)⌋, ψ_p = Σ_c a_pc B_c, and ⟨·⟩ rounding to x's dtype:

    y = ⟨ ⟨⟨σ(x)⟩ + ψ_p(x)⟩ · f ⟩

so a zero curve gives what PyTorch gives for act(x) * f, wherever the kernel's σ is PyTorch's. σ is computed here or was
computed by PyTorch (`base`); without `factor` f is 1. On the tangents outside the domain ψ(u) = ψ(v) + ψ'(v)(u - v),
and there are two ψ'(v) per channel, known before the first token.

Backward, with h = f · ∂L/∂y:

    ∂x = h (σ'(x) + ψ'(x))    ∂base = h    ∂f = ∂L/∂y · (σ + ψ)    ∂a_pc = Σ h B_c(x)    ∂q_pd = Σ h ∂ψ/∂q_d

all from x again, in float32 (float64 where x is), and rounded once.

Memory: x, base, factor and ∂L/∂y are (N, I) with unit stride along I and any stride along N, so that both halves of a
fused gate-and-up projection go in without a copy. Coefficients (P, C), domain (P, 2), denominator (P, D) and everything
written are contiguous. A program owns CHANNELS neighbouring channels and walks over a block of tokens, TOKENS at a
time, with the coefficients of its channels in registers. Sums over tokens need no atomics: every program writes its
partial sums to (token blocks, I, C), which are added up afterwards in the same order each time.

FINE: a B-spline with too many coefficients for that. Then K + 1 coefficients per element are fetched from memory, and
in backward further programs sum up the gradients of further coefficients, WIDTH at a time.
"""

import triton
import triton.language as tl

from .base_functions import GIVEN, base_value, base_value_and_slope
from .bases import (
    BSPLINE,
    CLAMP,
    LINEAR,
    RATIONAL,
    ZERO,
    alive_functions,
    clamp_to_domain,
    denominator_slopes,
    pick,
    pick_alive,
    unit_coordinates,
)


@triton.jit(do_not_specialize=["tokens", "tokens_per_program"])
def activation_forward_kernel(
    x_ptr,
    base_ptr,
    factor_ptr,
    y_ptr,
    coefficients_ptr,
    domain_ptr,
    denominator_ptr,
    tokens,
    channels,
    channels_per_curve,
    x_stride,
    base_stride,
    factor_stride,
    tokens_per_program,
    BASIS: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    BASE: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    FINE: tl.constexpr,
    COMPUTE: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # Grid (token blocks, channel blocks).
    dtype: tl.constexpr = y_ptr.dtype.element_ty
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    valid = channel < channels
    curve = channel // channels_per_curve
    lower, scale = _domain(domain_ptr, curve, valid, COMPUTE)
    denominator = _parameters(denominator_ptr, curve, valid, D, COMPUTE)
    held = () if FINE else _parameters(coefficients_ptr, curve, valid, C, COMPUTE)
    coefficients_ptr += curve * C
    if EXTRAPOLATION == LINEAR:
        at_lower = tl.zeros_like(lower)
        low = _slope(at_lower, held, coefficients_ptr, denominator, valid, BASIS, G, K, FINE)
        high = _slope(at_lower + 1.0, held, coefficients_ptr, denominator, valid, BASIS, G, K, FINE)

    start = tl.program_id(0).to(tl.int64) * tokens_per_program
    end = tl.minimum(start + tokens_per_program, tokens)
    for position in range(start, end, TOKENS):
        row = (position + tl.arange(0, TOKENS)).to(tl.int64)[:, None]
        mask = (row < end) & valid
        x = tl.load(x_ptr + row * x_stride + channel, mask=mask, other=0.0).to(COMPUTE)
        unit = unit_coordinates(x, lower, scale)
        inside = clamp_to_domain(unit)
        first, values, _ = alive_functions(inside, denominator, BASIS, G, K, CLAMP)
        psi = _combine(values, first, held, coefficients_ptr, mask, BASIS, G, K, FINE)
        if EXTRAPOLATION == LINEAR:
            psi += tl.where(unit > 1.0, high, low) * (unit - inside)
        elif EXTRAPOLATION == ZERO:
            psi = tl.where((unit < 0.0) | (unit > 1.0), 0.0, psi)
        if BASE == GIVEN:
            sigma = tl.load(base_ptr + row * base_stride + channel, mask=mask, other=0.0)
        else:
            sigma = base_value(x, BASE).to(dtype)
        result = (sigma.to(COMPUTE) + psi).to(dtype)
        if HAS_FACTOR:
            factor = tl.load(factor_ptr + row * factor_stride + channel, mask=mask, other=0.0)
            result = (result.to(COMPUTE) * factor.to(COMPUTE)).to(dtype)
        tl.store(y_ptr + row * channels + channel, result, mask=mask)


@triton.jit(do_not_specialize=["tokens", "tokens_per_program"])
def activation_backward_kernel(
    gradient_ptr,
    x_ptr,
    base_ptr,
    factor_ptr,
    coefficients_ptr,
    domain_ptr,
    denominator_ptr,
    x_gradient_ptr,
    base_gradient_ptr,
    factor_gradient_ptr,
    coefficient_sums_ptr,
    denominator_sums_ptr,
    tokens,
    channels,
    channels_per_curve,
    gradient_stride,
    x_stride,
    base_stride,
    factor_stride,
    tokens_per_program,
    BASIS: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    BASE: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    FINE: tl.constexpr,
    SUMS: tl.constexpr,
    WIDTH: tl.constexpr,
    COMPUTE: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # Grid (token blocks, channel blocks, blocks of WIDTH coefficients). SUMS: the parameters' gradients are inside.
    dtype: tl.constexpr = x_gradient_ptr.dtype.element_ty
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    valid = channel < channels
    curve = channel // channels_per_curve
    lower, scale = _domain(domain_ptr, curve, valid, COMPUTE)
    denominator = _parameters(denominator_ptr, curve, valid, D, COMPUTE)
    held = () if FINE else _parameters(coefficients_ptr, curve, valid, C, COMPUTE)
    coefficients_ptr += curve * C
    coefficient_block = tl.program_id(2)
    sums = _zeros(WIDTH if SUMS else 0, TOKENS, CHANNELS, COMPUTE)
    denominator_sums = _zeros(D if SUMS else 0, TOKENS, CHANNELS, COMPUTE)

    start = tl.program_id(0).to(tl.int64) * tokens_per_program
    end = tl.minimum(start + tokens_per_program, tokens)
    for position in range(start, end, TOKENS):
        row = (position + tl.arange(0, TOKENS)).to(tl.int64)[:, None]
        mask = (row < end) & valid
        at = row * channels + channel
        x = tl.load(x_ptr + row * x_stride + channel, mask=mask, other=0.0).to(COMPUTE)
        h = tl.load(gradient_ptr + row * gradient_stride + channel, mask=mask, other=0.0).to(COMPUTE)
        unit = unit_coordinates(x, lower, scale)
        first, values, slopes = alive_functions(unit, denominator, BASIS, G, K, EXTRAPOLATION)
        slope = _combine(slopes, first, held, coefficients_ptr, mask, BASIS, G, K, FINE) * scale
        if BASE == GIVEN:
            if HAS_FACTOR:
                sigma = tl.load(base_ptr + row * base_stride + channel, mask=mask, other=0.0).to(COMPUTE)
        else:
            sigma, base_slope = base_value_and_slope(x, BASE)
            slope += base_slope
        if HAS_FACTOR:
            psi = _combine(values, first, held, coefficients_ptr, mask, BASIS, G, K, FINE)
            factor_gradient = h * (sigma + psi)
            h *= tl.load(factor_ptr + row * factor_stride + channel, mask=mask, other=0.0).to(COMPUTE)
        if coefficient_block == 0:
            tl.store(x_gradient_ptr + at, (h * slope).to(dtype), mask=mask)
            if HAS_FACTOR:
                tl.store(factor_gradient_ptr + at, factor_gradient.to(dtype), mask=mask)
            if BASE == GIVEN:
                tl.store(base_gradient_ptr + at, h.to(dtype), mask=mask)
        if SUMS:
            previous, sums = sums, ()
            for c in tl.static_range(WIDTH):
                if FINE:
                    value = pick(values, coefficient_block * WIDTH + c - first, K + 1)
                else:
                    value = pick_alive(values, first, c, BASIS, G, K)
                sums += (previous[c] + h * value,)
            if BASIS == RATIONAL:
                by_denominator = denominator_slopes(unit, held, denominator, K, EXTRAPOLATION)
                previous, denominator_sums = denominator_sums, ()
                for d in tl.static_range(D):
                    denominator_sums += (previous[d] + h * by_denominator[d],)

    if SUMS:
        place = tl.program_id(0).to(tl.int64) * channels + channel
        for c in tl.static_range(WIDTH):
            number = coefficient_block * WIDTH + c
            inside = channel < tl.where(number < C, channels, 0)
            tl.store(coefficient_sums_ptr + place * C + number, tl.sum(sums[c], axis=0)[None, :], mask=inside)
        for d in tl.static_range(D):
            total = tl.sum(denominator_sums[d], axis=0)[None, :]
            tl.store(denominator_sums_ptr + place * D + d, total, mask=valid)


@triton.jit
def _domain(pointer, curve, mask, COMPUTE: tl.constexpr):
    """Lower end and 1 / width of each channel's domain, both like `curve`."""
    lower = tl.load(pointer + curve * 2, mask=mask, other=0.0).to(COMPUTE)
    upper = tl.load(pointer + curve * 2 + 1, mask=mask, other=1.0).to(COMPUTE)
    return lower, 1.0 / (upper - lower)


@triton.jit
def _parameters(pointer, curve, mask, COUNT: tl.constexpr, COMPUTE: tl.constexpr):
    """Tuple of the COUNT parameters of each channel's curve, each like `curve`."""
    values = ()
    for c in tl.static_range(COUNT):
        values += (tl.load(pointer + curve * COUNT + c, mask=mask, other=0.0).to(COMPUTE),)
    return values


@triton.jit
def _zeros(COUNT: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr, COMPUTE: tl.constexpr):
    """Tuple of COUNT tiles of zeros."""
    tiles = ()
    for _ in tl.static_range(COUNT):
        tiles += (tl.zeros((TOKENS, CHANNELS), COMPUTE),)
    return tiles


@triton.jit
def _combine(
    functions,
    first,
    held,
    pointers,
    mask,
    BASIS: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    FINE: tl.constexpr,
):
    """Σ_j a_{first + j} functions_j. The coefficients are `held` in a tuple of C, or if FINE start at `pointers`."""
    total = tl.zeros_like(functions[0])
    for j in tl.static_range(K + 1):
        if FINE:
            coefficient = tl.load(pointers + first.to(tl.int32) + j, mask=mask, other=0.0).to(total.dtype)
        else:
            coefficient = held[j]
            if BASIS == BSPLINE:
                for m in tl.static_range(1, G):
                    coefficient = tl.where(first >= m, held[m + j], coefficient)
        total += coefficient * functions[j]
    return total


@triton.jit
def _slope(
    inside,
    held,
    pointers,
    denominator,
    mask,
    BASIS: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    FINE: tl.constexpr,
):
    """ψ' by the unit coordinate, inside the domain."""
    first, _, slopes = alive_functions(inside, denominator, BASIS, G, K, CLAMP)
    return _combine(slopes, first, held, pointers, mask, BASIS, G, K, FINE)
