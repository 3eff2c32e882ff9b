"""Formulas that are lines: in every input, or in inputs that are 0 or 1.

Shape letters: N samples, I inputs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import sympy
import torch
from torch import Tensor

from kansformer.kan.rounding import evaluate

MAX_GROWTH = 4
"""Operations that a line may add to a formula: exp(b)·x² becomes x² + 1.718·b·x²."""


MIN_SHARE = 1e-15
"""Unexplained share of the variance that is taken for rounding."""


def fitted_line(x_NI: Tensor, y_N: Tensor, names: Sequence[str]) -> sympy.Expr | None:
    """The line in the inputs that a Bayesian information criterion keeps (Schwarz, 1978), or None if it keeps none.

    Inputs are added one by one and then removed one by one, or only removed; the better of the two lines is returned.
    """
    spread_I, mean_I = x_NI.std(dim=0, correction=0), x_NI.mean(dim=0)
    varying = [i for i, spread in enumerate(spread_I.tolist()) if spread > 0]
    z_NI = (x_NI - mean_I) / torch.where(spread_I > 0, spread_I, 1.0)
    t_N = (y_N - y_N.mean()) / y_N.std(correction=0)
    gram, product = z_NI.T @ z_NI / len(t_N), z_NI.T @ t_N / len(t_N)

    def criterion(kept: Collection[int]) -> float:
        own = sorted(kept)
        factors = torch.linalg.pinv(gram[own][:, own], hermitian=True, rtol=1e-10) @ product[own]
        share = max(1 - float(product[own] @ factors), MIN_SHARE)
        return (len(t_N) * math.log(share) + len(own) * math.log(len(t_N))) / 2

    def improved(kept: frozenset[int], is_growing: bool) -> frozenset[int]:
        while True:
            changed = [kept ^ {i} for i in varying if (i in kept) != is_growing]
            best = min(changed, key=criterion, default=kept)
            if criterion(best) >= criterion(kept):
                return kept
            kept = best

    grown, shrunk = (improved(start, False) for start in (improved(frozenset(), True), frozenset(varying)))
    kept = sorted(grown if criterion(grown) <= criterion(shrunk) else shrunk)
    if not kept:
        return None
    columns = torch.cat([z_NI[:, kept], torch.ones_like(z_NI[:, :1])], dim=1)
    solution = torch.linalg.lstsq(columns, y_N.unsqueeze(-1), driver="gelsd").solution.squeeze(-1)
    slopes = solution[:-1] / spread_I[kept]
    shift = solution[-1] - slopes @ mean_I[kept]
    terms = [sympy.Float(slope) * sympy.Symbol(names[i]) for i, slope in zip(kept, slopes.tolist(), strict=True)]
    return sympy.Add(*terms, sympy.Float(shift.item()))


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
