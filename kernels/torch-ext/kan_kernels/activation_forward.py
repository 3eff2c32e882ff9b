"""The learned activation: an activation function with a curve on top, and the gate product that follows it.

For token n and channel i with curve p = ⌊i / (I/P)⌋, ψ_p = Σ_c a_pc B_c, and ⟨·⟩ rounding to x's dtype:

    y = ⟨ ⟨⟨σ(x)⟩ + ψ_p(x)⟩ · f ⟩

so a zero curve gives what PyTorch gives for act(x) * f, wherever the kernel's σ is PyTorch's. σ is computed here or was
computed by PyTorch (`base`); without `factor` f is 1. On the tangents outside the domain ψ(u) = ψ(v) + ψ'(v)(u - v),
and there are two ψ'(v) per channel, known before the first token.

Memory: x, base, factor and ∂L/∂y are (N, I) with unit stride along I and any stride along N, so that both halves of a
fused gate-and-up projection go in without a copy. Coefficients (P, C), domain (P, 2), denominator (P, D) and everything
written are contiguous. A program owns CHANNELS neighbouring channels and walks over a block of tokens, TOKENS at a
time, with the coefficients of its channels in registers. A program's turn is TURNS tiles of tokens, all of whose loads
are issued before the first result is needed.

How a curve is evaluated: `activation_device.py`.
"""

import triton
import triton.language as tl

from .activation_device import ANY_ADDRESS, CENTRED, FETCHED, HORNER, NOT_SPECIALIZED, combine, place_in_domain
from .base_functions import GIVEN, base_value
from .bases import CLAMP, LINEAR, ZERO, alive_functions
from .centred_form import centre, centred_value, end_slopes
from .curve_loads import load_domain, load_parameters
from .rational_form import rational_value, rational_value_and_slope


@triton.jit(do_not_specialize=NOT_SPECIALIZED, do_not_specialize_on_alignment=ANY_ADDRESS)
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
    FUSED: tl.constexpr = EXTRAPOLATION == LINEAR and dtype.primitive_bitwidth == 16
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    valid = channel < channels
    curve = channel // channels_per_curve
    lower, scale = load_domain(domain_ptr, curve, valid, COMPUTE)
    denominator = load_parameters(denominator_ptr, curve, valid, D, COMPUTE)
    held = () if FORM == FETCHED else load_parameters(coefficients_ptr, curve, valid, C, COMPUTE)
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
            _, place, beyond = place_in_domain(x, lower, scale, FORM, G, FUSED)
            if FORM == CENTRED:
                psi = centred_value(place, held, G, K)
            elif FORM == HORNER:
                psi = rational_value(place, held, denominator, K, D)
            else:
                first, values, _ = alive_functions(place, denominator, BASIS, G, K, CLAMP)
                psi = combine(values, first, held, coefficients_ptr, mask, FORM, BASIS, G, K)
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
    return combine(slopes, first, held, pointers, mask, FORM, BASIS, G, K)
