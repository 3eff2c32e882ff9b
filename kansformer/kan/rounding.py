"""Readable formulas: numbers with few digits, without terms that come from rounding, and the same function.

Shape letters: S sample points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce

import sympy
import torch
from torch import Tensor

from kansformer.errors import ConfigError
from kansformer.symbolic.constants import TORCH_FUNCTIONS, size, with_float_factors

# Terms and factors that change their sum or product by less than this share at every point come from rounding.
TRACE = 1e-10
MAX_DIGITS, FLOAT_DIGITS = 17, 15
# Share of a formula's range that an expansion may change.
LOST = 1e-9

FOLDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add, "Mul": torch.mul, "Max": torch.maximum, "Min": torch.minimum, "Pow": torch.pow,
}  # fmt: skip


def evaluate(expression: sympy.Expr, points: Mapping[str, Tensor]) -> Tensor:
    """Evaluate a formula at points, values (S,) of every variable by its name; a ConfigError for unknown functions."""
    name = type(expression).__name__
    if expression.is_Symbol:
        return points[expression.name]
    if not expression.args:
        return torch.full_like(next(iter(points.values())), float(expression))
    values = [evaluate(part, points) for part in expression.args]
    if name in FOLDS:
        return reduce(FOLDS[name], values)
    if name in TORCH_FUNCTIONS:
        return TORCH_FUNCTIONS[name](values[0])
    raise ConfigError(f"{expression} cannot be evaluated: {name} is not among {', '.join(TORCH_FUNCTIONS)}.")


def text_of(formula: sympy.Expr) -> str:
    """A formula for people: of a number alone, sympy prints all digits."""
    return sympy.sstr(formula, full_prec=False)


def expanded(expression: sympy.Expr, points: Mapping[str, Tensor]) -> sympy.Expr:
    """A formula as a sum, with all its digits; as it is where the sum would lose some, as powers of dates do."""
    given, result = (with_float_factors(e) for e in (expression, sympy.expand(expression, power_exp=False)))
    try:
        values = evaluate(given, points)
    except ConfigError:  # a function of one's own
        return given
    finite = values.isfinite()
    values, differences = values[finite], (evaluate(result, points) - values)[finite]
    spread = values.max() - values.min() if len(values) else values.new_tensor(math.inf)
    return result if (differences.abs() <= LOST * spread.clamp(min=math.ulp(0.0))).all() else given


def rounded(
    expression: sympy.Expr, digits: int, points: Mapping[str, Tensor], around: Mapping[str, Tensor] | None = None
) -> sympy.Expr:
    """Round the numbers of a formula in its shortest form, and drop terms that come from rounding.

    More digits stay where the function would change by more than the last of them at the points, or would not be finite
    at others around them where it is.
    """
    expression = expression.replace(lambda part: part.is_number and isinstance(part, sympy.Function), sympy.N)
    try:
        evaluate(expression, points)
    except ConfigError:  # a function of one's own: nothing can be compared
        return expression.xreplace({number: _round(number, digits) for number in expression.atoms(sympy.Float)})
    compact = _without_traces(_with_small_phases(with_float_factors(expression)), points)
    expanded = with_float_factors(sympy.expand(compact, power_exp=False))
    expanded = _without_traces(sympy.expand_power_base(expanded), points)
    forms = dict.fromkeys([expanded, compact, sympy.powsimp(compact), sympy.factor_terms(expanded)])
    values = evaluate(compact, points)
    finite = values.isfinite()  # points may lie beyond the samples
    if not finite.any():
        return expanded
    points, exact = {name: column[finite] for name, column in points.items()}, values[finite]
    spread = float(exact.std()) if exact.min() < exact.max() else float(exact.abs().max())
    allowed = 10.0 ** (1 - digits) * max(spread, math.ulp(float(exact.abs().max())))
    around = points if around is None else around
    finite_around = evaluate(compact, around).isfinite()
    for count in range(digits, MAX_DIGITS + 1):
        rounded_forms = (f.xreplace({number: _round(number, count) for number in f.atoms(sympy.Float)}) for f in forms)
        for shown in sorted(rounded_forms, key=size):
            is_close = (evaluate(shown, points) - exact).square().mean().sqrt() <= allowed
            if is_close and not (finite_around & ~evaluate(shown, around).isfinite()).any():
                return shown
    return expanded


def _with_small_phases(expression: sympy.Expr) -> sympy.Expr:
    """The formula with phases of sines between -π/2 and π/2."""

    def shifted(wave: sympy.Expr) -> sympy.Expr:
        phase, rest = wave.args[0].as_independent(*wave.free_symbols, as_Add=True)
        turns = round(float(phase) / math.pi) if phase.is_number and phase.is_real else 0
        return (-1) ** turns * wave.func(rest + phase - turns * math.pi) if turns else wave

    return expression.replace(lambda part: isinstance(part, (sympy.sin, sympy.cos)), shifted)


def _without_traces(expression: sympy.Expr, points: Mapping[str, Tensor]) -> sympy.Expr:
    """The formula without terms and factors that do not change its values, innermost first."""
    if not expression.args:
        return expression
    parts = [_without_traces(part, points) for part in expression.args]
    if expression.is_Add:
        sizes = [evaluate(part, points).abs() for part in parts]
        largest = torch.stack(sizes).amax(dim=0)
        is_trace = [((size <= TRACE * largest) & (size < math.inf)).all() for size in sizes]
        parts = [part for part, trace in zip(parts, is_trace, strict=True) if not trace]
    elif expression.is_Mul:
        parts = [part for part in parts if part.is_number or not ((evaluate(part, points) - 1).abs() <= TRACE).all()]
    return expression.func(*parts)


def _round(number: sympy.Float, digits: int) -> sympy.Expr:
    """The number that is read where this one is printed; beyond float64, this one."""
    value = sympy.Float(str(sympy.Float(number, digits)), max(digits, FLOAT_DIGITS))
    if not math.isfinite(float(value)):
        return number
    near = round(float(value))
    return sympy.Integer(near) if float(value) == near and abs(near) < 10**digits else value
