"""The activation functions σ that the kernels compute, as Triton device functions.

Values take the formulas, and the order of operations, of PyTorch's CUDA kernels, with the accurate exp, erf, tanh and
division of the CUDA library: rounded to 16 bits they are meant to be PyTorch's, bit for bit, which `exact_bases.py`
tries out. Slopes and what goes with them are not compared by the bit, and take the fast exponential.

The interpreter has no such library. What is used there instead is as accurate, but rounds in other places.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice
from triton.language.target_info import is_cuda

BASE_FUNCTIONS = {"identity": 0, "silu": 1, "gelu": 2, "gelu_tanh": 3, "relu": 4, "tanh": 5, "zero": 6}
"""Value of the constant BASE for each σ."""

GIVEN = tl.constexpr(7)
"""Value of the constant BASE where σ(x) is a tensor."""

VARIANTS = {"silu": {"silu_branchless": 8}}
"""Values of the constant BASE for faster computations of a σ that are not PyTorch's, but may agree with it on all
values of a 16-bit dtype; `exact_bases.py` tries."""

IDENTITY = tl.constexpr(0)
SILU = tl.constexpr(1)
GELU = tl.constexpr(2)
GELU_TANH = tl.constexpr(3)
RELU = tl.constexpr(4)
TANH = tl.constexpr(5)
SILU_BRANCHLESS = tl.constexpr(8)

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
HAS_PTX = tl.constexpr(not INTERPRETED.value)


@triton.jit
def base_value(x, BASE: tl.constexpr):
    """σ(x)."""
    if BASE == IDENTITY:
        value = x
    elif BASE == SILU:
        value = divide(x, 1.0 + _exp(-x))
    elif BASE == SILU_BRANCHLESS:
        value = _silu_branchless(x)
    elif BASE == GELU:
        value = x * 0.5 * (1.0 + _erf(x * 0.7071067811865476))
    elif BASE == GELU_TANH:
        value = 0.5 * x * (1.0 + _tanh(0.7978845608028654 * (x + 0.044715 * (x * x * x))))
    elif BASE == RELU:
        value = tl.where(x <= 0.0, 0.0, x)  # NaN stays
    elif BASE == TANH:
        value = _tanh(x)
    else:
        value = tl.zeros_like(x)
    return value


@triton.jit
def base_value_and_slope(x, BASE: tl.constexpr):
    """σ(x), accurate but not exactly PyTorch's, and σ'(x)."""
    if BASE == SILU or BASE == SILU_BRANCHLESS:  # noqa: SIM109  (Triton has no `in`)
        sigmoid = _sigmoid(x)
        value = x * sigmoid
        slope = sigmoid + value * (1.0 - sigmoid)
    elif BASE == GELU:
        half = 0.5 + 0.5 * _erf(x * 0.7071067811865476)
        value = x * half
        slope = half + x * tl.exp(x * x * -0.5) * 0.3989422804014327
    elif BASE == GELU_TANH:
        # (1 + tanh(t)) / 2 is the sigmoid of 2t.
        sigmoid = _sigmoid(1.5957691216057308 * (x + 0.044715 * (x * x * x)))
        value = x * sigmoid
        slope = sigmoid + value * (1.0 - sigmoid) * (1.5957691216057308 * (1.0 + 0.134145 * x * x))
    elif BASE == TANH:
        value = _tanh(x)
        slope = 1.0 - value * value
    else:
        value = base_value(x, BASE)
        slope = tl.zeros_like(x)
        if BASE == IDENTITY:
            slope += 1.0
        elif BASE == RELU:
            slope = tl.where(x > 0.0, 1.0, slope)
    return value, slope


@triton.jit
def quick_reciprocal(x):
    """1 / x to the last bit but one, for x of at least 2^-126; 0 where that is a subnormal number."""
    # Triton's division scales for subnormal numbers, three instructions more.
    if HAS_PTX and x.dtype == tl.float32 and is_cuda():
        result = tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    else:
        result = 1.0 / x
    return result


@triton.jit
def _sigmoid(x):
    """1 / (1 + exp(-x)) with the fast exponential."""
    if HAS_PTX and x.dtype == tl.float32 and is_cuda():
        power = x * -1.4426950408889634
        power = tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [power], tl.float32, True, 1)
    else:
        power = tl.exp(-x)
    return quick_reciprocal(1.0 + power)


@triton.jit
def _silu_branchless(x):
    """x / (1 + exp(-x)) without the branches of an exact division: an approximate reciprocal and one Newton step.

    Both sides are a quarter, so that the reciprocal is not subnormal where exp(-x) is still finite. The remainder is
    NaN where x or exp(-x) is infinite; the minimum takes a number there, which leaves the quotient as it is.
    """
    numerator = x * 0.25
    denominator = _exp(-x) * 0.25 + 0.25
    reciprocal = quick_reciprocal(denominator)
    quotient = numerator * reciprocal
    remainder = tl.minimum(tl.fma(-quotient, denominator, numerator), 3e38)
    return tl.fma(remainder, reciprocal, quotient)


@triton.jit
def _exp(x):
    return tl.exp(x) if INTERPRETED else libdevice.exp(x)


@triton.jit
def _erf(x):
    return tl.erf(x) if INTERPRETED else libdevice.erf(x)


@triton.jit
def _tanh(x):
    return (1.0 - 2.0 / (tl.exp(x.to(tl.float64) * 2.0) + 1.0)).to(x.dtype) if INTERPRETED else libdevice.tanh(x)


@triton.jit
def divide(a, b):
    # Triton's own operator is an approximation in float32.
    return a / b if INTERPRETED or b.dtype == tl.float64 else tl.div_rn(a, b)
