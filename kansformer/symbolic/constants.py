"""Constants of formulas: fitted to samples, removed where they do not matter, and snapped to exact values.

Shape letters: N samples, C constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from types import FunctionType
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from kansformer.errors import ConfigError
from kansformer.symbolic.duals import NUMPY_FUNCTIONS, Dual

STEPS, SNAP_STEPS, TRIALS = 60, 15, 8
FIRST_DAMPING, LESS, MORE, MIN_DAMPING = 1e-3, 0.1, 10.0, 1e-14
# Of the second derivative along a step, and the largest bend of a step, relative to it, that is followed.
ACCELERATION_STEP, MAX_ACCELERATION = 0.1, 0.75
# A fit ends when a step improves the error by less than this share.
SETTLED = 1e-9
# Relative to the target's deviation: errors up to it are those of float64.
ROUNDING = 1e-12
# A constant may be snapped to a value this many standard errors away.
MAX_DEVIATIONS = 3.0
# Exact values: multiples of a unit, the largest factor, and the largest reach of the standard errors, relative to the
# value, at which being near one of them means something.
EXACT_UNITS = (
    (sympy.Integer(1), 12, 0.2), (sympy.Rational(1, 2), 7, 0.05), (sympy.pi, 4, 0.02), (sympy.pi / 2, 5, 0.02),
    (sympy.Rational(1, 3), 5, 0.02), (sympy.Rational(1, 4), 5, 0.02),
)  # fmt: skip
# Directions of constants that change nothing, relative to the one that changes most; and what is part of one.
UNKNOWN, SHARE, TINY = 1e-7, 1e-2, 1e-150
# Values that are zero up to the rounding of dates, relative to the largest one.
NEAR_ZERO = 1e-9
# Factors of exponentials beyond exp(±MAX_LOGARITHM) are moved into the exponents.
MAX_LOGARITHM = 300


def _guarded(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor | float], Tensor]:
    return lambda z: function(torch.as_tensor(z, dtype=torch.float64))


TORCH_FUNCTIONS: dict[str, Any] = {
    **{name: _guarded(getattr(torch, name)) for name in ("exp", "log", "sqrt", "sin", "cos", "tan", "tanh", "cosh",
       "sinh", "asin", "acos", "atan", "atanh", "sign", "erf")},
    "Abs": _guarded(torch.abs),
    "Max": lambda *z: torch.stack(torch.broadcast_tensors(*map(torch.as_tensor, z))).amax(dim=0),
    "Min": lambda *z: torch.stack(torch.broadcast_tensors(*map(torch.as_tensor, z))).amin(dim=0),
    "pi": math.pi, "E": math.e,
}  # fmt: skip


def torch_function(symbols: Sequence[sympy.Symbol], expression: sympy.Basic) -> FunctionType:
    """An expression, or a tuple of them, as a function of tensors for its symbols.

    Raises:
        ConfigError: it has a function that is not among `TORCH_FUNCTIONS`.
    """
    for function in expression.atoms(sympy.Function):
        if (name := type(function).__name__) not in TORCH_FUNCTIONS:
            raise ConfigError(f"{function} cannot be evaluated: {name} is not among {', '.join(TORCH_FUNCTIONS)}.")
    # Names of symbols may be those of functions, and sympy renames dummies one by one.
    columns = [sympy.Symbol(f"column_{index:03}") for index in range(len(symbols))]
    renamed = expression.xreplace(dict(zip(symbols, columns, strict=True)))
    large = {number: sympy.Float(number) for number in renamed.atoms(sympy.Integer) if abs(number) >= 2**63}
    renamed = renamed.xreplace(large)  # torch has no such integers
    renamed = renamed.replace(sympy.sign, sympy.Function("sign"))  # sympy prints a condition, which tensors are not
    return sympy.lambdify(columns, renamed, modules=[TORCH_FUNCTIONS])


def size(expression: sympy.Expr) -> int:
    """The number of operations, variables and numbers."""
    return sum(1 for _ in sympy.preorder_traversal(expression))


def with_float_factors(expression: sympy.Expr) -> sympy.Expr:
    """The expression with extreme factors of exponentials, as those of years have, in their exponents.

    sympy writes exp(b + z) as a product, whose factors may be beyond float64; an integer in an exponent stays there.
    """

    def is_extreme(part: sympy.Expr) -> bool:
        number, _ = part.as_coeff_Mul()
        is_factor = number.is_finite and any(isinstance(p, sympy.exp) for p in part.args)
        return bool(is_factor and abs(sympy.log(abs(number))) > MAX_LOGARITHM)

    def shifted(part: sympy.Expr) -> sympy.Expr:
        number, rest = part.as_coeff_Mul()
        exponential = next(p for p in sympy.Mul.make_args(rest) if isinstance(p, sympy.exp))
        others = [p for p in sympy.Mul.make_args(rest) if p is not exponential]  # a quotient would not be cancelled
        shift = sympy.Integer(round(sympy.log(abs(number))))
        return sympy.Mul(number * sympy.N(sympy.exp(-shift)), sympy.exp(exponential.args[0] + shift), *others)

    return expression.replace(lambda part: part.is_Mul and is_extreme(part), shifted)


@dataclass(frozen=True)
class Formula:
    """A formula of variables and constants.

    Args:
        tree: with a symbol for each constant.
        values: of the constants, (C,).
        variables: names of its variables.
    """

    tree: sympy.Expr
    values: Tensor
    variables: tuple[str, ...]

    @classmethod
    def of(cls, expression: sympy.Expr, variables: Sequence[str]) -> Formula:
        """Every number of an expression that is a float becomes a constant."""
        values: list[float] = []
        tree = _with_constants(expression, values)
        return cls(tree, torch.tensor(values, dtype=torch.float64), tuple(variables))

    @property
    def constants(self) -> list[sympy.Symbol]:
        return [_constant(index) for index in range(len(self.values))]

    def expression(self) -> sympy.Expr:
        """The formula with its numbers."""
        numbers = dict(zip(self.constants, map(sympy.Float, self.values.tolist()), strict=True))
        return with_float_factors(self.tree.xreplace(numbers))

    def size(self) -> int:
        """The number of operations, variables and numbers."""
        return size(self.tree)

    def sensitivity(self, x_NV: Tensor) -> float:
        """The largest change of the values at samples (N, V) by the last digits of the constants; 0 where none is
        finite."""
        values_C1 = self.values.unsqueeze(-1)
        last_C1 = values_C1 * 2 * torch.finfo(torch.float64).eps
        last_C1[1::2] *= -1
        compute, count = self.compiled(), len(x_NV)
        values_N, others_N = (compute(x_NV.mT, c.expand(-1, count)) for c in (values_C1, values_C1 + last_C1))
        return float((values_N - others_N).abs().nan_to_num(0.0).max())

    def compiled(self) -> Callable[[Tensor, Tensor], Tensor]:
        """A function of columns (V, N) and constants (C, N) that gives (N,)."""
        function = self.function()

        def evaluate(x_VN: Tensor, values_CN: Tensor) -> Tensor:
            result = function(*x_VN, *values_CN)
            return torch.as_tensor(result, dtype=x_VN.dtype).expand(x_VN.shape[1])

        return evaluate

    def function(self) -> FunctionType:
        """A function of tensors: columns, then constants."""
        return _compiled(self.tree, len(self.values), self.variables)


@lru_cache(maxsize=1024)
def _compiled(tree: sympy.Expr, constants: int, variables: tuple[str, ...]) -> FunctionType:
    return torch_function([*map(sympy.Symbol, variables), *map(_constant, range(constants))], tree)


@dataclass(frozen=True)
class Fitted:
    """A formula whose constants were fitted.

    Args:
        formula: with the best constants.
        error: root mean square error.
        deviations: standard errors of the constants, (C,); infinite for one that others can replace.
    """

    formula: Formula
    error: float
    deviations: Tensor


def fit_constants(formula: Formula, x: Tensor, y: Tensor, *, steps: int = STEPS) -> Fitted:
    """Fit the constants of a formula to samples by Levenberg-Marquardt with geodesic acceleration.

    Steps follow the bend of narrow valleys (Transtrum and Sethna, 2012), as of c·log(x + b) on a short range.

    Args:
        formula: where to begin.
        x: (N, I).
        y: (N,).
        steps: at most.

    Returns:
        The best constants met; an infinite error if the formula is not finite at all samples.
    """
    columns, target, values = (part.double().numpy(force=True) for part in (x.mT, y, formula.values))
    function = _with_numpy(formula.function())

    def residual_at(values_C: np.ndarray) -> np.ndarray:
        return function(*columns, *values_C) - target

    with np.errstate(all="ignore"):
        residual = residual_at(values)
        loss, damping, space = _loss(residual), FIRST_DAMPING, None
        for _ in range(steps if len(values) and math.isfinite(loss) else 0):
            jacobian = _jacobian(function, columns, values)
            if not np.isfinite(jacobian).all():
                break
            space, before = _Directions.of(jacobian), loss
            for _ in range(TRIALS):
                step = space.damped(residual, damping)
                ahead = residual_at(values - ACCELERATION_STEP * step / space.scale)
                bend = 2 / ACCELERATION_STEP * ((ahead - residual) / ACCELERATION_STEP + space.along(step))
                turn = space.damped(bend, damping) if np.isfinite(bend).all() else np.zeros_like(step)
                if 2 * np.linalg.norm(turn) <= MAX_ACCELERATION * np.linalg.norm(step):
                    step = step + turn / 2
                trial = values - step / space.scale
                residual_there = residual_at(trial)
                if (there := _loss(residual_there)) < loss:
                    values, loss, residual, damping = trial, there, residual_there, max(LESS * damping, MIN_DAMPING)
                    break
                damping *= MORE
            if not before - loss > SETTLED * before:
                break
        deviations = np.full_like(values, math.inf)
        if space is not None:
            deviations = space.standard_errors(loss * len(y) / max(len(y) - len(values), 1))
    fitted = replace(formula, values=torch.tensor(values, dtype=torch.float64))
    return Fitted(fitted, math.sqrt(loss), torch.from_numpy(deviations))


@dataclass(frozen=True)
class _Directions:
    """Singular vectors and values of derivatives (N, C) that are divided by their columns' lengths, the scale (C,).

    The normal equations would lose half of the digits.
    """

    scale: np.ndarray
    of_samples: np.ndarray
    sizes: np.ndarray
    of_constants: np.ndarray

    @classmethod
    def of(cls, jacobian_NC: np.ndarray) -> _Directions:
        scale = np.maximum(np.linalg.norm(jacobian_NC, axis=0), TINY)
        return cls(scale, *np.linalg.svd(jacobian_NC / scale, full_matrices=False))

    def damped(self, rest_N: np.ndarray, damping: float) -> np.ndarray:
        """Steps (C,) that explain rests, where steps cost their squares times the damping."""
        return (self.sizes / (self.sizes**2 + damping) * (rest_N @ self.of_samples)) @ self.of_constants

    def along(self, step_C: np.ndarray) -> np.ndarray:
        """What a step explains, (N,)."""
        return self.of_samples @ (self.sizes * (self.of_constants @ step_C))

    def standard_errors(self, variance: float) -> np.ndarray:
        """Of constants, (C,); infinite where others can take a constant's place."""
        known = self.sizes > UNKNOWN * self.sizes.max()
        errors = np.sqrt(variance * ((self.of_constants[known] / self.sizes[known, None]) ** 2).sum(axis=0))
        replaceable = (np.abs(self.of_constants[~known]) > SHARE).any(axis=0)
        return np.where(replaceable, math.inf, errors / self.scale)


def _with_numpy(function: FunctionType) -> Callable[..., Any]:
    """A function of tensors as one of arrays and duals."""
    return FunctionType(function.__code__, function.__globals__ | NUMPY_FUNCTIONS)


def _jacobian(function: Callable[..., Any], columns: np.ndarray, values_C: np.ndarray) -> np.ndarray:
    """Derivatives of all samples by the constants, (N, C)."""
    constants = map(Dual, values_C, np.eye(len(values_C))[:, :, None])
    result = function(*columns, *constants)
    slopes = result.slopes if isinstance(result, Dual) else 0.0
    return np.broadcast_to(slopes, (len(values_C), columns.shape[1])).T


def _loss(residual: np.ndarray) -> float:
    loss = float(residual @ residual) / len(residual)
    return loss if math.isfinite(loss) else math.inf


def simplified(
    fitted: Fitted, x: Tensor, y: Tensor, *, cost: Callable[[Fitted], float], rounding: float = ROUNDING
) -> Fitted:
    """Snap constants to exact values, the closest first, and fit the others again, as long as the cost does not rise.

    Exact values are integers, simple fractions, and multiples of π; a zero removes a term. Errors up to `rounding`,
    relative to the target's deviation, do not speak against them.
    """
    scale = float(y.std(correction=0)) or 1.0
    best, best_cost, refused = fitted, cost(fitted), set[tuple[int, str]]()
    while True:
        candidates = [
            (distance, index, value)
            for index, (constant, deviation) in enumerate(
                zip(best.formula.values.tolist(), best.deviations.tolist(), strict=True)
            )
            for distance, value in exact_values(constant, deviation, best.error <= rounding * scale)
            if (len(best.formula.values) - index, str(value)) not in refused
        ]
        if not candidates:
            return best
        _, index, value = min(candidates, key=lambda candidate: candidate[:2])
        trial = _snapped(best.formula, index, value)
        refused.add((len(best.formula.values) - index, str(value)))
        if trial is None:
            continue
        there = fit_constants(trial, x, y, steps=SNAP_STEPS)
        there_cost = cost(there)
        if there_cost <= best_cost or there.error <= max(best.error, rounding * scale):
            best, best_cost, refused = there, there_cost, set()


def with_signs(formula: Formula, x: Tensor) -> Formula:
    """The formula with z or -z for |z|, also in roots of z²·…, where z has one sign at all samples x, (N, I).

    A zero up to rounding has either sign, as |t - t_N| has at the last sample of a decay.
    """
    values = formula.values.unsqueeze(-1).expand(-1, len(x))

    def size_of(z: sympy.Expr) -> sympy.Expr:
        at = replace(formula, tree=z).compiled()(x.mT, values)
        zero = NEAR_ZERO * at.abs().max()
        if not zero > 0:
            return sympy.Abs(z)
        return z if (at >= -zero).all() else -z if (at <= zero).all() else sympy.Abs(z)

    def resolved(node: sympy.Expr) -> sympy.Expr:
        node = node.func(*map(resolved, node.args)) if node.args else node
        if isinstance(node, sympy.Abs):
            return size_of(node.args[0])
        if isinstance(node, sympy.Pow) and not node.exp.is_integer:
            factors = sympy.Mul.make_args(node.base)
            squares = [f.base for f in factors if isinstance(f, sympy.Pow) and f.exp == 2]
            sizes = [size_of(z) for z in squares]
            if sizes and not any(isinstance(size, sympy.Abs) for size in sizes):
                rest = sympy.Mul(*(f for f in factors if not (isinstance(f, sympy.Pow) and f.exp == 2)))
                return rest**node.exp * sympy.Mul(*(size ** (2 * node.exp) for size in sizes))
        return node

    result = replace(formula, tree=resolved(formula.tree))
    before, after = (f.compiled()(x.mT, values).isfinite() for f in (formula, result))
    return formula if (before & ~after).any() else result  # powers of a zero that rounding made negative


def exact_values(constant: float, deviation: float, is_exact: bool) -> Iterator[tuple[float, sympy.Expr]]:
    """Exact values near a constant, with their costs: standard errors away, plus what they are worse than others."""
    if not math.isfinite(deviation):
        yield 0.25 + 0.25 * abs(constant) / (1 + abs(constant)), sympy.Integer(0)  # the smallest ones first
        yield 1.0, sympy.Integer(1 if constant > 0 else -1)
        return
    reach = MAX_DEVIATIONS * deviation + (1e-7 * abs(constant) if is_exact else 0.0)
    if abs(constant) <= max(reach, 1e-9 if is_exact else 0.0):
        yield 0.0, sympy.Integer(0)
    for rank, (unit, largest, tolerance) in enumerate(EXACT_UNITS):
        factor = round(constant / float(unit))
        distance = abs(constant - factor * float(unit))
        if factor and abs(factor) <= largest and distance <= reach <= tolerance * abs(constant):
            yield 2.0 + rank + distance / (deviation or 1.0), factor * unit


def _snapped(formula: Formula, index: int, value: sympy.Expr) -> Formula | None:
    """The formula with an exact value for one constant; None if it is not a finite real one."""
    names = formula.constants
    tree = formula.tree.xreplace({names[index]: value})
    if tree.has(sympy.nan, sympy.zoo, sympy.oo, sympy.I):
        return None
    used = [k for k, name in enumerate(names) if tree.has(name)]
    renamed = {names[k]: sympy.Dummy() for k in used}
    back = {dummy: _constant(number) for number, dummy in enumerate(renamed.values())}
    return Formula(tree.xreplace(renamed).xreplace(back), formula.values[used], formula.variables)


@cache
def _constant(index: int) -> sympy.Symbol:
    return sympy.Dummy(f"k{index}")


def _with_constants(expression: sympy.Expr, values: list[float]) -> sympy.Expr:
    if expression.is_Float:
        values.append(float(expression))
        return _constant(len(values) - 1)
    if not expression.args:
        return expression
    return expression.func(*(_with_constants(part, values) for part in expression.args))
