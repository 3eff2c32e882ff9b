"""The learned activation, backward: all gradients in one pass over x, without atomics.

With the formulas and names of `activation_forward.py` and h = f · ∂L/∂y:

    ∂x = h (σ'(x) + ψ'(x))    ∂base = h    ∂f = ∂L/∂y · (σ + ψ)    ∂a_pc = Σ h B_c(x)    ∂q_pd = Σ h ∂ψ/∂q_d

all from x again, in float32 (float64 where x is), and rounded once.

Memory and programs are those of the forward. Sums over tokens need no atomics: every program writes its partial sums to
(token blocks, I, C), which are added up afterwards in the same order each time.
"""

import triton
import triton.language as tl

from .activation_device import ANY_ADDRESS, CENTRED, FETCHED, HORNER, NOT_SPECIALIZED, combine, place_in_domain
from .base_functions import GIVEN, base_value_and_slope
from .bases import LINEAR, MAX_DISTANCE, ZERO, alive_functions, pick, pick_alive
from .centred_form import centre, centred_sums, centred_value_and_slope, end_slope_gradient, uncentre
from .curve_loads import load_domain, load_parameters
from .rational_form import end_gradients, rational_sums, rational_value_and_slope


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=ANY_ADDRESS)
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
    FORM: tl.constexpr,
    BASIS: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    BASE: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    COMPUTE: tl.constexpr,
    SUMS: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
    TURNS: tl.constexpr,
):
    # Grid (token blocks, channel blocks, blocks of WIDTH coefficients). SUMS: the parameters' gradients are inside.
    dtype: tl.constexpr = x_gradient_ptr.dtype.element_ty
    FUSED: tl.constexpr = EXTRAPOLATION == LINEAR and dtype.primitive_bitwidth == 16
    # Σ h e on both sides and on the right.
    HAS_TANGENTS: tl.constexpr = EXTRAPOLATION == LINEAR and FORM <= HORNER
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    valid = channel < channels
    curve = channel // channels_per_curve
    lower, scale = load_domain(domain_ptr, curve, valid, COMPUTE)
    denominator = load_parameters(denominator_ptr, curve, valid, D, COMPUTE)
    held = () if FORM == FETCHED else load_parameters(coefficients_ptr, curve, valid, C, COMPUTE)
    coefficients_ptr += curve * C
    if FORM == CENTRED:
        held = centre(held, G, K)
    coefficient_block = tl.program_id(2)
    sums = _zeros(WIDTH + D if SUMS else 0, TOKENS, CHANNELS, COMPUTE)
    tangent_sums = _zeros(2 if SUMS and HAS_TANGENTS else 0, TOKENS, CHANNELS, COMPUTE)

    row = tl.arange(0, TOKENS)[:, None]
    start = tl.program_id(0).to(tl.int64) * tokens_per_program
    count = tl.minimum(tokens - start, tokens_per_program).to(tl.int32)
    gradient_ptr += (start + row) * gradient_stride + channel
    x_ptr += (start + row) * x_stride + channel
    base_ptr += (start + row) * base_stride + channel
    factor_ptr += (start + row) * factor_stride + channel
    x_gradient_ptr += (start + row) * channels + channel
    base_gradient_ptr += (start + row) * channels + channel
    factor_gradient_ptr += (start + row) * channels + channel
    for position in range(0, count, TOKENS * TURNS):
        xs = ()
        gradients = ()
        bases = ()
        factors = ()
        for turn in tl.static_range(TURNS):
            mask = (row + (position + turn * TOKENS) < count) & valid
            xs += (tl.load(x_ptr + turn * TOKENS * x_stride, mask=mask, other=0.0),)
            gradients += (tl.load(gradient_ptr + turn * TOKENS * gradient_stride, mask=mask, other=0.0),)
            if HAS_FACTOR:
                factors += (tl.load(factor_ptr + turn * TOKENS * factor_stride, mask=mask, other=0.0),)
                if BASE == GIVEN:
                    bases += (tl.load(base_ptr + turn * TOKENS * base_stride, mask=mask, other=0.0),)
        for turn in tl.static_range(TURNS):
            mask = (row + (position + turn * TOKENS) < count) & valid
            x = xs[turn].to(COMPUTE)
            h = gradients[turn].to(COMPUTE)
            raw, place, beyond = place_in_domain(x, lower, scale, FORM, G, FUSED)
            if FORM == CENTRED:
                psi, slope, powers = centred_value_and_slope(place, held, G, K)
                psi, slope = _extrapolate(psi, slope, beyond, EXTRAPOLATION, G)
                slope *= scale * G
            elif FORM == HORNER:
                w, slope, quotient, sign, _ = rational_value_and_slope(place, held, denominator, K, D)
                psi, slope = _extrapolate(w, slope, beyond, EXTRAPOLATION, 2)
                slope *= scale * 2.0
            else:
                first, values, slopes = alive_functions(raw, denominator, BASIS, G, K, EXTRAPOLATION)
                psi = combine(values, first, held, coefficients_ptr, mask, FORM, BASIS, G, K)
                slope = combine(slopes, first, held, coefficients_ptr, mask, FORM, BASIS, G, K) * scale
            if BASE == GIVEN:
                if HAS_FACTOR:
                    sigma = bases[turn].to(COMPUTE)
            else:
                sigma, base_slope = base_value_and_slope(x, BASE)
                slope += base_slope
            if HAS_FACTOR:
                factor_gradient = h * (sigma + psi)
                h *= factors[turn].to(COMPUTE)
            if FORM != FETCHED or coefficient_block == 0:
                tl.store(x_gradient_ptr + turn * TOKENS * channels, (h * slope).to(dtype), mask=mask)
                if HAS_FACTOR:
                    tl.store(factor_gradient_ptr + turn * TOKENS * channels, factor_gradient.to(dtype), mask=mask)
                if BASE == GIVEN:
                    tl.store(base_gradient_ptr + turn * TOKENS * channels, h.to(dtype), mask=mask)
            if SUMS:
                if HAS_TANGENTS:
                    right = tl.maximum(beyond, 0.0)
                    tangent_sums = (tangent_sums[0] + h * beyond, tangent_sums[1] + h * right)
                if EXTRAPOLATION == ZERO and FORM <= HORNER:
                    h = tl.where(tl.abs(beyond) > 0.0, 0.0, h)
                if FORM == CENTRED:
                    sums = centred_sums(sums, h, powers, WIDTH)
                elif FORM == HORNER:
                    sums = rational_sums(sums, h, place, w, quotient, sign, K, D)
                else:
                    previous, sums = sums, ()
                    for c in tl.static_range(WIDTH):
                        if FORM == FETCHED:
                            value = pick(values, coefficient_block * WIDTH + c - first, K + 1)
                        else:
                            value = pick_alive(values, first, c, BASIS, G, K)
                        sums += (previous[c] + h * value,)
        gradient_ptr += TOKENS * TURNS * gradient_stride
        x_ptr += TOKENS * TURNS * x_stride
        base_ptr += TOKENS * TURNS * base_stride
        factor_ptr += TOKENS * TURNS * factor_stride
        x_gradient_ptr += TOKENS * TURNS * channels
        base_gradient_ptr += TOKENS * TURNS * channels
        factor_gradient_ptr += TOKENS * TURNS * channels

    if SUMS:
        place = tl.program_id(0).to(tl.int64) * channels + channel
        totals = _totals(sums, WIDTH + D)
        if HAS_TANGENTS:
            both, right = _totals(tangent_sums, 2)
            left = both - right
        if FORM == HORNER and HAS_TANGENTS:
            one = tl.full((1, CHANNELS), 1.0, COMPUTE)
            at_lower = end_gradients(-one, held, denominator, K, D)
            at_upper = end_gradients(one, held, denominator, K, D)
        for c in tl.static_range(WIDTH + D):
            if FORM == CENTRED:
                total = uncentre(totals, c, G, K)
                if HAS_TANGENTS:
                    total += end_slope_gradient(left, right, c, G, K)
            else:
                total = totals[c]
                if HAS_TANGENTS:
                    total += left * at_lower[c] + right * at_upper[c]
            if c < WIDTH:
                number = coefficient_block * WIDTH + c
                inside = channel < tl.where(number < C, channels, 0)
                tl.store(coefficient_sums_ptr + place * C + number, total, mask=inside)
            else:
                tl.store(denominator_sums_ptr + place * D + (c - WIDTH), total, mask=valid)


@triton.jit
def _zeros(COUNT: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr, COMPUTE: tl.constexpr):
    """Tuple of COUNT tiles of zeros."""
    tiles = ()
    for _ in tl.static_range(COUNT):
        tiles += (tl.zeros((TOKENS, CHANNELS), COMPUTE),)
    return tiles


@triton.jit
def _totals(sums, COUNT: tl.constexpr):
    """Tuple of the COUNT sums over tokens, each (1, CHANNELS)."""
    totals = ()
    for c in tl.static_range(COUNT):
        totals += (tl.sum(sums[c], axis=0)[None, :],)
    return totals


@triton.jit
def _extrapolate(value, slope, beyond, EXTRAPOLATION: tl.constexpr, WIDTH: tl.constexpr):
    """Value and slope `beyond` a domain of that width, from those at its end."""
    if EXTRAPOLATION == LINEAR:
        value += slope * beyond
        slope = tl.where(tl.abs(beyond) >= MAX_DISTANCE * WIDTH, 0.0, slope)
    else:
        outside = tl.abs(beyond) > 0.0
        slope = tl.where(outside, 0.0, slope)
        if EXTRAPOLATION == ZERO:
            value = tl.where(outside, 0.0, value)
    return value, slope
