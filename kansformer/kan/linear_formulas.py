"""Formulas that are lines: in every input, or in inputs that are 0 or 1."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sympy
import torch
from torch import Tensor

from kansformer.kan.rounding import evaluate

MAX_GROWTH = 4
"""Operations that a line may add to a formula: exp(b)·x² becomes x² + 1.718·b·x²."""


def is_linear(formula: sympy.Expr) -> bool:
    """Whether a formula has constant slopes, not all of them zero."""
    return bool(formula.free_symbols) and not any(formula.diff(x).free_symbols for x in formula.free_symbols)


def linear_in(expression: sympy.Expr, indicators: Collection[str], points: Mapping[str, Tensor]) -> sympy.Expr:
    """A formula f as f(0) + (f(1) - f(0))·x in the inputs x that are 0 or 1, for which that is the same function.

    An input whose line would make the formula much longer, or that has no value at 0 or 1, keeps its function.
    """
    exact = evaluate(expression, points)
    for symbol in sorted(expression.free_symbols, key=str):
        if symbol.name not in indicators:
            continue
        zero, one = (expression.subs(symbol, value).n() for value in (0, 1))
        if not all(atom.is_Symbol or atom.is_real for atom in zero.atoms() | one.atoms()):
            continue
        line = zero + symbol * sympy.expand(one - zero)
        is_short = line.count_ops() <= expression.count_ops() + MAX_GROWTH
        if is_short and torch.allclose(evaluate(line, points), exact, equal_nan=True):
            expression = line
    return expression
