"""The functions that curves are compared with, as a table.

`KAN_LIBRARY` has the 21 of pykan's kind; `LIBRARY`, the default, has the activations of transformers too. Activations
that differ by scales and shifts only are one row: quick_gelu is silu, sigmoid is tanh, laplace is erf.
"""

import importlib
import math
from types import ModuleType

import torch
from torch import Tensor

import kansformer.symbolic.candidates as start
from kansformer.symbolic.symbol import Partner, Symbol, SymbolLibrary

POSITIVE = (0.0, math.inf)
EXPONENT_BOUND = 60.0  # exp stays finite in float32
MAX_VERTEX = 100.0  # a parabola seen from farther away is a line


def _sp() -> ModuleType:
    return importlib.import_module("sympy")  # half a second, only for those who write formulas


def _gaussian(z: Tensor) -> Tensor:
    return torch.exp(-z.square())


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def _gelu_slope(z: Tensor, f: Tensor) -> Tensor:
    return (f / z).nan_to_num(0.5) + z * torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)


def _silu_slope(z: Tensor, f: Tensor) -> Tensor:
    gate = torch.sigmoid(z)
    return gate + f * (1 - gate)


def _mish_slope(z: Tensor, f: Tensor) -> Tensor:
    bounded = torch.tanh(torch.nn.functional.softplus(z))
    return bounded + z * (1 - bounded.square()) * torch.sigmoid(z)


def _exp(z: Tensor) -> Tensor:
    return z.clamp(max=EXPONENT_BOUND).exp()


KAN_LIBRARY = SymbolLibrary([
    Symbol(name="x", complexity=1, function=lambda z: z, derivative=lambda z, f: torch.ones_like(z), sympy=lambda z: z,
           candidates=start.line, fit_scale=False, fit_shift=False),
    Symbol(name="x^2", complexity=2, function=torch.square, derivative=lambda z, f: 2 * z, sympy=lambda z: z**2,
           candidates=start.line, fit_scale=False,
           partner=Partner(function=lambda z: z,
                           shift=lambda p, q: (q / (2 * p)).nan_to_num().clamp(-MAX_VERTEX, MAX_VERTEX))),
    Symbol(name="x^3", complexity=3, function=lambda z: z**3, derivative=lambda z, f: 3 * z.square(),
           sympy=lambda z: z**3, candidates=start.wide_shifts, fit_scale=False),
    Symbol(name="x^4", complexity=3, function=lambda z: z.square().square(), derivative=lambda z, f: 4 * z**3,
           sympy=lambda z: z**4, candidates=start.wide_shifts, fit_scale=False),
    Symbol(name="1/x", complexity=2, function=torch.reciprocal, derivative=lambda z, f: -f.square(),
           sympy=lambda z: 1 / z, domain=POSITIVE, branches=True, candidates=start.outer_shifts, fit_scale=False),
    Symbol(name="1/x^2", complexity=2, function=lambda z: z.square().reciprocal(), derivative=lambda z, f: -2 * f / z,
           sympy=lambda z: 1 / z**2, domain=POSITIVE, branches=True, candidates=start.outer_shifts, fit_scale=False),
    Symbol(name="sqrt", complexity=2, function=torch.sqrt, derivative=lambda z, f: 0.5 / f,
           sympy=lambda z: _sp().sqrt(z), domain=POSITIVE, candidates=start.outer_shifts, fit_scale=False),
    Symbol(name="1/sqrt(x)", complexity=2, function=torch.rsqrt, derivative=lambda z, f: -0.5 * f / z,
           sympy=lambda z: 1 / _sp().sqrt(z), domain=POSITIVE, candidates=start.outer_shifts, fit_scale=False),
    Symbol(name="x^1.5", complexity=4, function=lambda z: z * z.sqrt(), derivative=lambda z, f: 1.5 * f / z,
           sympy=lambda z: z ** _sp().Rational(3, 2), domain=POSITIVE, candidates=start.outer_shifts, fit_scale=False),
    Symbol(name="log", complexity=2, function=torch.log, derivative=lambda z, f: 1 / z,
           sympy=lambda z: _sp().log(z), domain=POSITIVE, candidates=start.outer_shifts, fit_scale=False),
    Symbol(name="exp", complexity=2, function=_exp, derivative=lambda z, f: f, sympy=lambda z: _sp().exp(z),
           candidates=start.rates, fit_shift=False),
    Symbol(name="sin", complexity=2, function=torch.sin, derivative=lambda z, f: torch.cos(z),
           sympy=lambda z: _sp().sin(z), candidates=start.waves,
           partner=Partner(function=torch.cos, shift=lambda p, q: torch.atan2(q, p))),
    Symbol(name="tan", complexity=3, function=torch.tan, derivative=lambda z, f: 1 + f.square(),
           sympy=lambda z: _sp().tan(z), domain=(-math.pi / 2, math.pi / 2), branches=True,
           candidates=start.between_poles),
    Symbol(name="tanh", complexity=3, function=torch.tanh, derivative=lambda z, f: 1 - f.square(),
           sympy=lambda z: _sp().tanh(z), candidates=start.bumps),
    Symbol(name="gaussian", complexity=3, function=_gaussian, derivative=lambda z, f: -2 * z * f,
           sympy=lambda z: _sp().exp(-(z**2)), candidates=start.bumps),
    Symbol(name="arctan", complexity=4, function=torch.atan, derivative=lambda z, f: 1 / (1 + z.square()),
           sympy=lambda z: _sp().atan(z), candidates=start.bumps),
    Symbol(name="silu", complexity=3, function=torch.nn.functional.silu, derivative=_silu_slope,
           sympy=lambda z: z / (1 + _sp().exp(-z))),
    Symbol(name="gelu", complexity=3, function=lambda z: z * _normal_cdf(z), derivative=_gelu_slope,
           sympy=lambda z: z * (1 + _sp().erf(z / _sp().sqrt(2))) / 2),
    Symbol(name="relu", complexity=3, function=torch.relu, derivative=lambda z, f: (z > 0).to(z.dtype),
           sympy=lambda z: _sp().Max(z, 0), candidates=start.mirrored_inner_shifts, fit_scale=False),
    Symbol(name="abs", complexity=3, function=torch.abs, derivative=lambda z, f: torch.sign(z),
           sympy=lambda z: _sp().Abs(z), candidates=start.inner_shifts, fit_scale=False),
    Symbol(name="sign", complexity=3, function=torch.sign, derivative=lambda z, f: torch.zeros_like(z),
           sympy=lambda z: _sp().sign(z), candidates=start.inner_shifts, fit_scale=False, fit_shift=False),
])  # fmt: skip
"""The functions that KAN packages compare curves with.

Examples:
    >>> from kansformer.symbolic import KAN_LIBRARY
    >>> KAN_LIBRARY.names[:5]
    ('x', 'x^2', 'x^3', 'x^4', '1/x')
"""

ACTIVATIONS = SymbolLibrary([
    Symbol(name="relu^2", complexity=3, function=lambda z: torch.relu(z).square(),
           derivative=lambda z, f: 2 * torch.relu(z),
           sympy=lambda z: _sp().Max(z, 0) ** 2, candidates=start.mirrored_inner_shifts, fit_scale=False),
    Symbol(name="softplus", complexity=3, function=torch.nn.functional.softplus,
           derivative=lambda z, f: torch.sigmoid(z), sympy=lambda z: _sp().log(1 + _sp().exp(z))),
    Symbol(name="mish", complexity=4, function=torch.nn.functional.mish, derivative=_mish_slope,
           sympy=lambda z: z * _sp().tanh(_sp().log(1 + _sp().exp(z)))),
    Symbol(name="erf", complexity=4, function=torch.erf, derivative=lambda z, f: 2 / math.sqrt(math.pi) * _gaussian(z),
           sympy=lambda z: _sp().erf(z), candidates=start.bumps),
    Symbol(name="elu", complexity=4, function=torch.nn.functional.elu,
           derivative=lambda z, f: 1 + f.clamp(max=0),
           sympy=lambda z: _sp().Max(z, 0) + _sp().exp(_sp().Min(z, 0)) - 1),
    Symbol(name="leaky_relu", complexity=4, function=torch.nn.functional.leaky_relu,
           derivative=lambda z, f: 0.01 + 0.99 * (z > 0).to(z.dtype),
           sympy=lambda z: _sp().Max(z, z / 100), candidates=start.mirrored_inner_shifts, fit_scale=False),
    Symbol(name="hardswish", complexity=4, function=torch.nn.functional.hardswish,
           derivative=lambda z, f: torch.where(z.abs() < 3, (2 * z + 3) / 6, (z > 0).to(z.dtype)),
           sympy=lambda z: z * _sp().Min(_sp().Max(z + 3, 0), 6) / 6, candidates=start.kinked_bends),
    Symbol(name="clip", complexity=4, function=lambda z: z.clamp(-1, 1),
           derivative=lambda z, f: (z.abs() < 1).to(z.dtype), sympy=lambda z: _sp().Min(_sp().Max(z, -1), 1),
           candidates=start.bumps),
])  # fmt: skip
"""Activations of transformers that are no scaled or shifted function of `KAN_LIBRARY`; clip is relu6 and hardtanh.

Examples:
    >>> from kansformer.symbolic import ACTIVATIONS
    >>> ACTIVATIONS.named("mish").function(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.8651])
"""

LIBRARY = SymbolLibrary([*KAN_LIBRARY, *ACTIVATIONS])
"""The default: all of them.

Examples:
    >>> from kansformer.symbolic import LIBRARY
    >>> "sin" in LIBRARY.names, "mish" in LIBRARY.names, "arcsin" in LIBRARY.names
    (True, True, False)
"""

SCIENCE_LIBRARY = SymbolLibrary([
    *(symbol for symbol in KAN_LIBRARY if symbol.name not in ("silu", "gelu", "relu", "sign")),
    Symbol(name="arcsin", complexity=4, function=torch.asin, derivative=lambda z, f: (1 - z.square()).rsqrt(),
           sympy=lambda z: _sp().asin(z), domain=(-1.0, 1.0), candidates=start.inside_unit),
    Symbol(name="arctanh", complexity=4, function=torch.atanh, derivative=lambda z, f: 1 / (1 - z.square()),
           sympy=lambda z: _sp().atanh(z), domain=(-1.0, 1.0), candidates=start.inside_unit),
    Symbol(name="cosh", complexity=3, function=lambda z: torch.cosh(z.clamp(-EXPONENT_BOUND, EXPONENT_BOUND)),
           derivative=lambda z, f: torch.sinh(z.clamp(-EXPONENT_BOUND, EXPONENT_BOUND)),
           sympy=lambda z: _sp().cosh(z), candidates=start.bumps),
])  # fmt: skip
"""Functions of formulas in science: those of `KAN_LIBRARY` without activations, and three more.

Examples:
    >>> from kansformer.symbolic import SCIENCE_LIBRARY
    >>> "sin" in SCIENCE_LIBRARY.names, "arcsin" in SCIENCE_LIBRARY.names, "silu" in SCIENCE_LIBRARY.names
    (True, True, False)
"""

ALL_SYMBOLS = SymbolLibrary([
    *LIBRARY,
    *(symbol for symbol in SCIENCE_LIBRARY if symbol.name not in LIBRARY.names),
    # To be asked for by their own names: scaled and shifted functions of the others, and one that few curves are.
    Symbol(name="cos", complexity=2, function=torch.cos, derivative=lambda z, f: -torch.sin(z),
           sympy=lambda z: _sp().cos(z), candidates=start.waves,
           partner=Partner(function=torch.sin, shift=lambda p, q: torch.atan2(-q, p))),
    Symbol(name="arccos", complexity=4, function=torch.acos, derivative=lambda z, f: -(1 - z.square()).rsqrt(),
           sympy=lambda z: _sp().acos(z), domain=(-1.0, 1.0), candidates=start.inside_unit),
    Symbol(name="sinh", complexity=3, function=lambda z: torch.sinh(z.clamp(-EXPONENT_BOUND, EXPONENT_BOUND)),
           derivative=lambda z, f: torch.cosh(z.clamp(-EXPONENT_BOUND, EXPONENT_BOUND)),
           sympy=lambda z: _sp().sinh(z), candidates=start.bumps),
    Symbol(name="sigmoid", complexity=3, function=torch.sigmoid, derivative=lambda z, f: f * (1 - f),
           sympy=lambda z: 1 / (1 + _sp().exp(-z)), candidates=start.bumps),
    Symbol(name="x*cos", complexity=4, function=lambda z: z * torch.cos(z),
           derivative=lambda z, f: torch.cos(z) - z * torch.sin(z), sympy=lambda z: z * _sp().cos(z),
           candidates=start.waves),
])  # fmt: skip
"""Every function that comes with the package, to look names up.

Examples:
    >>> from kansformer.symbolic import ALL_SYMBOLS
    >>> ALL_SYMBOLS.named("cos").function(torch.zeros(1))
    tensor([1.])
"""
