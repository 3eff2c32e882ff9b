"""Formulas for people: fewer digits, nothing that comes from rounding, and still the same function.

Shape letters: S sample points.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kansformer.errors import ConfigError

if TYPE_CHECKING:
    import sympy

# Terms and factors that change their sum or product by less than this share at every point come from rounding.
TRACE = 1e-10
MOST_DIGITS = 17

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "log": torch.log,
    "atan": torch.atan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atanh": torch.atanh,
    "cosh": torch.cosh,
    "sinh": torch.sinh,
    "Abs": torch.abs,
    "sign": torch.sign,
    "erf": torch.erf,
}
FOLDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Mul": torch.mul,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Pow": torch.pow,
}


def evaluate(expression: sympy.Expr, points: Mapping[str, Tensor]) -> Tensor:
    """A formula at points, (S,).

    Args:
        expression: of variables and the functions of `kansformer.symbolic`.
        points: values of every variable by its name, (S,) each.

    Raises:
        ConfigError: a function is not known.
    """
    name = type(expression).__name__
    if expression.is_Symbol:
        return points[expression.name]
    if not expression.args:
        return next(iter(points.values())).new_tensor(float(expression)).expand(len(next(iter(points.values()))))
    values = [evaluate(part, points) for part in expression.args]
    if name in FOLDS:
        return reduce(FOLDS[name], values)
    if name in FUNCTIONS:
        return FUNCTIONS[name](values[0])
    raise ConfigError(f"{expression} cannot be evaluated: {name} is not among {', '.join(FUNCTIONS)}.")


def rounded(expression: sympy.Expr, digits: int, points: Mapping[str, Tensor]) -> sympy.Expr:
    """A formula with its numbers rounded, multiplied out if that needs no more digits, and without traces.

    Args:
        expression: the formula.
        digits: significant digits; more where the function would change by more than the last of them at the points.
        points: as in `evaluate`.
    """
    sp = importlib.import_module("sympy")
    compact = _without_traces(sp, expression, points)
    expanded = _without_traces(sp, sp.expand_power_base(sp.expand(compact)), points)
    exact = evaluate(compact, points)
    allowed = 10.0 ** (1 - digits) * max(float(exact.std()), math.ulp(float(exact.abs().max())))
    for count in range(digits, MOST_DIGITS + 1):
        for form in (expanded, compact):
            shown = form.xreplace({number: _round(sp, number, count) for number in form.atoms(sp.Float)})
            if not (evaluate(shown, points) - exact).square().mean().sqrt() > allowed:
                return shown
    return expanded


def _without_traces(sp: Any, expression: Any, points: Mapping[str, Tensor]) -> Any:
    """The formula without terms and factors that make no difference, innermost first."""
    if not expression.args:
        return expression
    parts = [_without_traces(sp, part, points) for part in expression.args]
    if expression.is_Add:
        sizes = [evaluate(part, points).abs() for part in parts]
        largest = torch.stack(sizes).amax(dim=0)
        parts = [part for part, size in zip(parts, sizes, strict=True) if not (size <= TRACE * largest).all()]
    elif expression.is_Mul:
        parts = [part for part in parts if part.is_number or not ((evaluate(part, points) - 1).abs() <= TRACE).all()]
    return expression.func(*parts)


def _round(sp: Any, number: Any, digits: int) -> Any:
    value = sp.Float(number, digits)
    near = round(float(value))
    return sp.Integer(near) if float(value) == near and abs(near) < 10**digits else value
