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

A program's turn is TURNS tiles of tokens, all of whose loads are issued before the first result is needed.

How a curve is evaluated (FORM), each in a file of its own:

    CENTRED   B-splines of 16-bit inputs on coarse grids, in truncated powers: `centred_form.py`
    HORNER    rational curves: `rational_form.py`
    ALIVE     the K + 1 functions alive at a point (`bases.py`) times coefficients that are chosen among those held
    FETCHED   the same of a B-spline with too many coefficients to hold: they are fetched per element, and in backward
              further programs sum up the gradients of further coefficients, WIDTH at a time
"""

import triton
import triton.language as tl

from .base_functions import GIVEN, base_value, base_value_and_slope
from .bases import (
    BSPLINE,
    CLAMP,
    LINEAR,
    MAX_DISTANCE,
    ZERO,
    alive_functions,
    clamp_to_domain,
    pick,
    pick_alive,
    unit_coordinates,
)
from .centred_form import (
    centre,
    centred_sums,
    centred_value,
    centred_value_and_slope,
    end_slope_gradient,
    end_slopes,
    uncentre,
)
from .rational_form import end_gradients, rational_sums, rational_value, rational_value_and_slope

FORMS = {"centred": 0, "horner": 1, "alive": 2, "fetched": 3}
"""Value of the constant FORM for each name; up to `horner` a curve is evaluated as a whole, not by basis functions."""

CENTRED = tl.constexpr(0)
HORNER = tl.constexpr(1)
FETCHED = tl.constexpr(3)

_NOT_SPECIALIZED = ["tokens", "tokens_per_program"]
# Read a few times per program, one number at a time.
_ANY_ADDRESS = ["coefficients_ptr", "domain_ptr", "denominator_ptr"]


@triton.jit(do_not_specialize=_NOT_SPECIALIZED, do_not_specialize_on_alignment=_ANY_ADDRESS)
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
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
    TURNS: tl.constexpr,
):
    # Grid (token blocks, channel blocks).
    dtype: tl.constexpr = y_ptr.dtype.element_ty
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    valid = channel < channels
    curve = channel // channels_per_curve
    lower, scale = _domain(domain_ptr, curve, valid, COMPUTE)
    denominator = _parameters(denominator_ptr, curve, valid, D, COMPUTE)
    held = () if FORM == FETCHED else _parameters(coefficients_ptr, curve, valid, C, COMPUTE)
    coefficients_ptr += curve * C
    low, high = _tangents(held, coefficients_ptr, denominator, lower, valid, FORM, BASIS, G, K, D)
    if FORM == CENTRED:
        held = centre(held, G, K)

    row = tl.arange(0, TOKENS)[:, None]
    start = tl.program_id(0).to(tl.int64) * tokens_per_program
    count = tl.minimum(tokens - start, tokens_per_program).to(tl.int32)
    x_ptr += (start + row) * x_stride + channel
    base_ptr += (start + row) * base_stride + channel
    factor_ptr += (start + row) * factor_stride + channel
    y_ptr += (start + row) * channels + channel
    for position in range(0, count, TOKENS * TURNS):
        xs = ()
        bases = ()
        factors = ()
        for turn in tl.static_range(TURNS):
            mask = (row + (position + turn * TOKENS) < count) & valid
            xs += (tl.load(x_ptr + turn * TOKENS * x_stride, mask=mask, other=0.0),)
            if BASE == GIVEN:
                bases += (tl.load(base_ptr + turn * TOKENS * base_stride, mask=mask, other=0.0),)
            if HAS_FACTOR:
                factors += (tl.load(factor_ptr + turn * TOKENS * factor_stride, mask=mask, other=0.0),)
        for turn in tl.static_range(TURNS):
            mask = (row + (position + turn * TOKENS) < count) & valid
            x = xs[turn].to(COMPUTE)
            _, place, beyond = _place(x, lower, scale, FORM, G, dtype.primitive_bitwidth == 16)
            if FORM == CENTRED:
                psi = centred_value(place, held, G, K)
            elif FORM == HORNER:
                psi = rational_value(place, held, denominator, K, D)
            else:
                first, values, _ = alive_functions(place, denominator, BASIS, G, K, CLAMP)
                psi = _combine(values, first, held, coefficients_ptr, mask, FORM, BASIS, G, K)
            if EXTRAPOLATION == LINEAR:
                psi += tl.where(beyond > 0.0, high, low) * beyond
            elif EXTRAPOLATION == ZERO:
                psi = tl.where(tl.abs(beyond) > 0.0, 0.0, psi)
            sigma = bases[turn] if BASE == GIVEN else base_value(x, BASE).to(dtype)
            result = (sigma.to(COMPUTE) + psi).to(dtype)
            if HAS_FACTOR:
                result = (result.to(COMPUTE) * factors[turn].to(COMPUTE)).to(dtype)
            tl.store(y_ptr + turn * TOKENS * channels, result, mask=mask)
        x_ptr += TOKENS * TURNS * x_stride
        base_ptr += TOKENS * TURNS * base_stride
        factor_ptr += TOKENS * TURNS * factor_stride
        y_ptr += TOKENS * TURNS * channels


@triton.jit(do_not_specialize=_NOT_SPECIALIZED, do_not_specialize_on_alignment=_ANY_ADDRESS)
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
    # Σ h e on both sides and on the right.
    HAS_TANGENTS: tl.constexpr = EXTRAPOLATION == LINEAR and FORM <= HORNER
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    valid = channel < channels
    curve = channel // channels_per_curve
    lower, scale = _domain(domain_ptr, curve, valid, COMPUTE)
    denominator = _parameters(denominator_ptr, curve, valid, D, COMPUTE)
    held = () if FORM == FETCHED else _parameters(coefficients_ptr, curve, valid, C, COMPUTE)
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
            raw, place, beyond = _place(x, lower, scale, FORM, G, dtype.primitive_bitwidth == 16)
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
                psi = _combine(values, first, held, coefficients_ptr, mask, FORM, BASIS, G, K)
                slope = _combine(slopes, first, held, coefficients_ptr, mask, FORM, BASIS, G, K) * scale
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
def _totals(sums, COUNT: tl.constexpr):
    """Tuple of the COUNT sums over tokens, each (1, CHANNELS)."""
    totals = ()
    for c in tl.static_range(COUNT):
        totals += (tl.sum(sums[c], axis=0)[None, :],)
    return totals


@triton.jit
def _place(x, lower, scale, FORM: tl.constexpr, G: tl.constexpr, NARROW: tl.constexpr):
    """x in the form's coordinate (t, z, or the unit coordinate), its place in the domain, and how far it is beyond."""
    if FORM <= HORNER:
        width: tl.constexpr = G if FORM == CENTRED else 2
        origin: tl.constexpr = G // 2 if FORM == CENTRED else 1
        slant = scale * width
        # One instruction, whose error grows with the distance of the domain from zero, as the spacing of 16-bit x does.
        raw = x * slant - (lower * slant + origin) if NARROW else (x - lower) * slant - origin
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


@triton.jit
def _tangents(
    held,
    pointers,
    denominator,
    like,
    mask,
    FORM: tl.constexpr,
    BASIS: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
):
    """ψ' at both ends of the domain, by the form's coordinate. What is not used costs nothing."""
    zero = tl.zeros_like(like)
    if FORM == CENTRED:
        low, high = end_slopes(held, G, K)
    elif FORM == HORNER:
        _, low, _, _, _ = rational_value_and_slope(zero - 1.0, held, denominator, K, D)
        _, high, _, _, _ = rational_value_and_slope(zero + 1.0, held, denominator, K, D)
    else:
        low = _slope(zero, held, pointers, denominator, mask, FORM, BASIS, G, K)
        high = _slope(zero + 1.0, held, pointers, denominator, mask, FORM, BASIS, G, K)
    return low, high


@triton.jit
def _combine(
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


@triton.jit
def _slope(
    inside,
    held,
    pointers,
    denominator,
    mask,
    FORM: tl.constexpr,
    BASIS: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
):
    """ψ' by the unit coordinate, inside the domain."""
    first, _, slopes = alive_functions(inside, denominator, BASIS, G, K, CLAMP)
    return _combine(slopes, first, held, pointers, mask, FORM, BASIS, G, K)
