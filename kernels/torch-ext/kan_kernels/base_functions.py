"""The activation functions σ that the kernels compute, as Triton device functions.

Values take the formulas, and the order of operations, of PyTorch's CUDA kernels, with the accurate exp, erf, tanh and
division of the CUDA library: rounded to 16 bits they are meant to be PyTorch's, bit for bit, which `exact_bases` in
`activation.py` tries out. Slopes and what goes with them are not compared by the bit, and take the fast exponential.

The interpreter has no such library. What is used there instead is as accurate, but rounds in other places.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice

BASE_FUNCTIONS = {"identity": 0, "silu": 1, "gelu": 2, "gelu_tanh": 3, "relu": 4, "tanh": 5, "zero": 6}
"""Value of the constant BASE for each σ."""

GIVEN = tl.constexpr(7)
"""Value of the constant BASE where σ(x) is a tensor."""

IDENTITY = tl.constexpr(0)
SILU = tl.constexpr(1)
GELU = tl.constexpr(2)
GELU_TANH = tl.constexpr(3)
RELU = tl.constexpr(4)
TANH = tl.constexpr(5)

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def base_value(x, BASE: tl.constexpr):
    """σ(x)."""
    if BASE == IDENTITY:
        value = x
    elif BASE == SILU:
        value = _divide(x, 1.0 + _exp(-x))
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
    if BASE == SILU:
        sigmoid = 1.0 / (1.0 + tl.exp(-x))
        value = x * sigmoid
        slope = sigmoid + value * (1.0 - sigmoid)
    elif BASE == GELU:
        half = 0.5 + 0.5 * _erf(x * 0.7071067811865476)
        value = x * half
        slope = half + x * tl.exp(x * x * -0.5) * 0.3989422804014327
    elif BASE == GELU_TANH:
        # (1 + tanh(t)) / 2 is the sigmoid of 2t.
        sigmoid = 1.0 / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * (x * x * x))))
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
def _exp(x):
    return tl.exp(x) if INTERPRETED else libdevice.exp(x)


@triton.jit
def _erf(x):
    return tl.erf(x) if INTERPRETED else libdevice.erf(x)


@triton.jit
def _tanh(x):
    return (1.0 - 2.0 / (tl.exp(x.to(tl.float64) * 2.0) + 1.0)).to(x.dtype) if INTERPRETED else libdevice.tanh(x)


@triton.jit
def _divide(a, b):
    # Triton's own operator is an approximation in float32.
    return a / b if INTERPRETED or b.dtype == tl.float64 else tl.div_rn(a, b)
