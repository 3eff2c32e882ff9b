"""Functions from their names: the spellings of pykan and of papers, and powers with any exponent.

`x**2`, `x²` and `x^2` are one name, `sgn` is `sign`, and `x^2.5`, `x^(1/3)` or `1/x^3` is made from its name, so that
it is saved and loaded by name like any other function.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING

import kansformer.symbolic.candidates as start
from kansformer.errors import ConfigError
from kansformer.symbolic.symbol import Symbol

if TYPE_CHECKING:
    import sympy

ZERO = "0"
"""pykan's name for an edge that is constant. Such edges are cut, so the library has no such function."""

SPELLINGS = {
    "sgn": "sign", "ln": "log", "|x|": "abs", "1/sqrt": "1/sqrt(x)", "gauss": "gaussian", "logistic": "sigmoid",
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "atanh": "arctanh",
}  # fmt: skip
# Exponents that have functions of their own, with these names.
NAMED_POWERS = {
    Fraction(1): "x", Fraction(1, 2): "sqrt", Fraction(-1, 2): "1/sqrt(x)", Fraction(-1): "1/x",
}  # fmt: skip
MAX_EXPONENT = 100
# Of a name, in letters: names in files may be of any length.
MAX_LENGTH = 60
# Exponents with larger denominators were written as decimal numbers, and are so in formulas.
MAX_DENOMINATOR = 12
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_POWER = re.compile(rf"(1/)?x(?:\^(?:({_NUMBER})|\(({_NUMBER})(?:/(\d+))?\)))?")


def plain_name(name: str) -> str:
    """The name of a function in this package's spelling; a name of no known kind comes back as it is."""
    name = re.sub(r"([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda match: "^" + match[1].translate(SUPERSCRIPTS), name.strip())
    name = name.replace("**", "^").replace(" ", "")
    if name.endswith("(x)") and name != "1/sqrt(x)":
        name = name.removesuffix("(x)")
    name = SPELLINGS.get(name, name)
    exponent = exponent_of(name)
    return name if exponent is None else _power_name(exponent)


def exponent_of(name: str) -> Fraction | None:
    """The exponent in the name of a power of x, None for any other name and for exponents out of range."""
    match = _POWER.fullmatch(name) if len(name) <= MAX_LENGTH else None
    if match is None or (match[4] is not None and int(match[4]) == 0):
        return None
    exponent = Fraction(match[2] or match[3] or 1) / Fraction(match[4] or 1)
    exponent = -exponent if match[1] else exponent
    return exponent if 0 < abs(exponent) <= MAX_EXPONENT else None


@cache
def power(exponent: Fraction) -> Symbol:
    """The power of x with this exponent, as a function for curves.

    Its domain is the positive numbers unless the exponent is a positive integer, as that of `1/x` and `sqrt`.

    Raises:
        ConfigError: the exponent is 0, or its size is above 100.
    """
    if not 0 < abs(exponent) <= MAX_EXPONENT:
        raise ConfigError(f"An exponent must be between -{MAX_EXPONENT} and {MAX_EXPONENT} and not 0, got {exponent}.")
    value = int(exponent) if exponent.denominator == 1 else float(exponent)
    is_polynomial = exponent.denominator == 1 and exponent > 0
    return Symbol(
        name=_power_name(exponent),
        complexity=3 if exponent.denominator == 1 else 4,
        function=lambda z: z**value,
        derivative=lambda z, f: value * z ** (value - 1),
        sympy=_sympy_power(exponent),
        domain=(-math.inf, math.inf) if is_polynomial else (0.0, math.inf),
        candidates=start.wide_shifts if is_polynomial else start.outer_shifts,
        fit_scale=False,
    )


def _power_name(exponent: Fraction) -> str:
    if exponent in NAMED_POWERS:
        return NAMED_POWERS[exponent]
    if exponent.denominator == 1:
        return f"x^{exponent}" if exponent > 0 else f"1/x^{-exponent}"
    # A number that has a few decimal places is written with them.
    decimal = f"{float(exponent):.10g}"
    return f"x^{decimal}" if Fraction(decimal) == exponent else f"x^({exponent})"


def _sympy_power(exponent: Fraction) -> Callable[[sympy.Expr], sympy.Expr]:
    def power_of(z: sympy.Expr) -> sympy.Expr:
        sympy = importlib.import_module("sympy")
        if exponent.denominator <= MAX_DENOMINATOR:
            return z ** sympy.Rational(exponent.numerator, exponent.denominator)
        return z ** sympy.Float(float(exponent))

    return power_of
