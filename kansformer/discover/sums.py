"""Sums m·x + n + Σ c·f(a·x + b) and their fit to one weighted curve.

Shape letters: S points, A candidates, T columns of a sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import sympy
import torch
from torch import Tensor

from kansformer.discover.activation import ActivationTerm
from kansformer.discover.functions import ELEMENTARY, PERIOD
from kansformer.symbolic import ALL_SYMBOLS
from kansformer.symbolic.constants import ROUNDING, Formula, exact_values, fit_constants

# Phases of waves at which the search begins, in half periods; the factor's sign gives the other half.
PHASES = 8
# Candidates that are a sum of what is there already, to this share of their square, are not tried.
MIN_NEW = 1e-6
# Bits that a number may cost: a snapped or rounded one must not raise the error by more.
BITS_PER_NUMBER = 3.0
# Relative to the curve's deviation: an error this much larger is not seen.
NEGLIGIBLE = 1e-3
SNAP_STEPS, MIN_DIGITS, MAX_DIGITS = 15, 2, 8
LINE = 2  # numbers of the line, before those of the terms


@dataclass(frozen=True)
class Sum:
    """A sum of terms and a line.

    Args:
        functions: f of every term.
        numbers: slope, constant, and then factor, scale and shift of every term.
        exact: places of numbers that are not fitted.
    """

    functions: tuple[str, ...] = ()
    numbers: tuple[float, ...] = (0.0, 0.0)
    exact: frozenset[int] = frozenset()

    @property
    def slope(self) -> float:
        return self.numbers[0]

    @property
    def constant(self) -> float:
        return self.numbers[1]

    @property
    def terms(self) -> tuple[ActivationTerm, ...]:
        """The terms, the largest first."""
        terms = [
            ActivationTerm(function=function, factor=factor, scale=scale, shift=shift)
            for function, (factor, scale, shift) in zip(self.functions, self._triples(), strict=True)
        ]
        return tuple(sorted(terms, key=lambda term: -abs(term.factor)))

    @property
    def free(self) -> list[int]:
        """Places of the numbers that are fitted."""
        return [place for place in range(len(self.numbers)) if place not in self.exact]

    def with_term(self, function: str, scale: float, shift: float) -> Sum:
        """The sum with one more term, of factor 0."""
        first = len(self.numbers)
        exact = set(self.exact)
        if ELEMENTARY[function].is_monomial:
            exact |= {first + 1, first + 2}
        elif not ALL_SYMBOLS.named(function).fit_scale:
            exact.add(first + 1)  # the factor takes its part
        return Sum((*self.functions, function), (*self.numbers, 0.0, scale, shift), frozenset(exact))

    def with_numbers(self, changes: dict[int, float], exact: Sequence[int] = ()) -> Sum:
        """The sum with other numbers at some places."""
        numbers = tuple(changes.get(place, number) for place, number in enumerate(self.numbers))
        return replace(self, numbers=numbers, exact=self.exact | set(exact))

    def columns(self, x_S: Tensor) -> Tensor:
        """x, 1 and every f(a·x + b), (T, S)."""
        columns = [x_S, torch.ones_like(x_S)]
        for function, (_, scale, shift) in zip(self.functions, self._triples(), strict=True):
            columns.append(ELEMENTARY[function].value_(scale * x_S + shift))
        return torch.stack(columns)

    def canonical(self) -> Sum:
        """The same function with positive scales where f is even or odd, and phases between -π/2 and π/2."""
        numbers = list(self.numbers)
        for first, function in zip(range(LINE, len(numbers), 3), self.functions, strict=True):
            factor, scale, shift = numbers[first : first + 3]
            parity = ELEMENTARY[function].parity
            if parity and scale < 0:
                factor, scale, shift = parity * factor, -scale, -shift
            if function in PERIOD:
                half = PERIOD[function] / 2
                turns = round(shift / half)
                factor, shift = factor * (-1) ** turns, shift - turns * half
            numbers[first : first + 3] = factor, scale, shift
        return replace(self, numbers=tuple(numbers))

    def formula(self) -> Formula:
        """As a formula of x, times w, whose constants are the free numbers."""
        free = self.free
        blank = Formula(sympy.S.Zero, torch.tensor([self.numbers[k] for k in free], dtype=torch.float64), ("x", "w"))
        constants = dict(zip(free, blank.constants, strict=True))
        number = [constants.get(place, sympy.Float(value)) for place, value in enumerate(self.numbers)]
        x = sympy.Symbol("x")
        tree = number[0] * x + number[1]
        for first, function in zip(range(LINE, len(number), 3), self.functions, strict=True):
            symbol = ALL_SYMBOLS.named(function)
            tree += number[first] * symbol.sympy(number[first + 1] * x + number[first + 2])
        return replace(blank, tree=sympy.Symbol("w") * tree)

    def _triples(self) -> Iterator[tuple[float, float, float]]:
        for first in range(LINE, len(self.numbers), 3):
            factor, scale, shift = self.numbers[first : first + 3]
            yield factor, scale, shift


@dataclass(frozen=True)
class FittedSum:
    """A sum whose free numbers were fitted.

    Args:
        sum: with the best numbers.
        error: weighted root mean square.
        deviations: standard errors of all numbers; 0 of exact ones, infinite for one that others can replace.
    """

    sum: Sum
    error: float
    deviations: tuple[float, ...]


class SumFitter:
    """Fits sums to one curve.

    Args:
        x_S: points.
        y_S: the curve.
        weight_S: of the squared error at each point, above 0.
    """

    def __init__(self, x_S: Tensor, y_S: Tensor, weight_S: Tensor) -> None:
        self.x_S, self.y_S = x_S, y_S
        self.root_S = (weight_S / weight_S.mean()).sqrt()
        centre = (weight_S * y_S).sum() / weight_S.sum()
        self.deviation = float((weight_S * (y_S - centre).square()).sum().div(weight_S.sum()).sqrt())
        self._samples = torch.stack([x_S, self.root_S], dim=1)

    def fit(self, start: Sum, steps: int = 60) -> FittedSum:
        """The best free numbers from here on."""
        fitted = fit_constants(start.formula(), self._samples, self.root_S * self.y_S, steps=steps)
        found = dict(zip(start.free, fitted.formula.values.tolist(), strict=True))
        errors = dict(zip(start.free, fitted.deviations.tolist(), strict=True))
        deviations = tuple(errors.get(place, 0.0) for place in range(len(start.numbers)))
        return FittedSum(start.with_numbers(found), fitted.error, deviations)

    def extended(self, present: Sum, functions: Sequence[str], count: int) -> Iterator[Sum]:
        """The sum with one more term, from the candidates of each function that explain most of what is left."""
        columns_TS = present.columns(self.x_S) * self.root_S
        q_ST, _ = torch.linalg.qr(columns_TS.mT)
        target_S = self.root_S * self.y_S
        left_S = target_S - q_ST @ (q_ST.mT @ target_S)
        ranked = []
        for function in functions:
            pairs_A2, atoms_AS = self._candidates(function)
            new_AS = atoms_AS - (atoms_AS @ q_ST) @ q_ST.mT
            size_A = new_AS.square().sum(dim=-1)
            is_new = size_A > MIN_NEW * atoms_AS.square().sum(dim=-1)
            gain_A = ((new_AS @ left_S).square() / size_A).where(is_new, -1.0).nan_to_num(-1.0)
            best = int(gain_A.argmax())
            if gain_A[best] > 0:
                ranked.append((float(gain_A[best]), function, *pairs_A2[best].tolist()))
        for _, function, scale, shift in sorted(ranked, reverse=True)[:count]:
            longer = present.with_term(function, scale, shift)
            columns_TS = longer.columns(self.x_S) * self.root_S
            factors = torch.linalg.lstsq(columns_TS.mT, target_S.unsqueeze(-1)).solution[:, 0].tolist()
            yield longer.with_numbers({0: factors[0], 1: factors[1]} | {LINE + 3 * t: c for t, c in enumerate(factors[LINE:])})

    def snapped(self, fitted: FittedSum) -> FittedSum:
        """With numbers snapped to exact values within their standard errors, and the others rounded."""
        best = self.fit(fitted.sum.canonical(), steps=SNAP_STEPS)
        refused = set[tuple[int, float]]()
        while True:
            candidates = [
                (distance, place, value)
                for place in best.sum.free
                for distance, value in self._exact_values(best, place)
                if (place, value) not in refused
            ]
            if not candidates:
                return self._rounded(best)
            _, place, value = min(candidates)
            trial = self.fit(best.sum.with_numbers({place: value}, exact=[place]), steps=SNAP_STEPS)
            if self._is_as_good(trial.error, best.error, numbers=1):
                best = trial
            else:
                refused.add((place, value))

    def _exact_values(self, fitted: FittedSum, place: int) -> Iterator[tuple[float, float]]:
        number, deviation = fitted.sum.numbers[place], fitted.deviations[place]
        is_exact = fitted.error <= ROUNDING * self.deviation
        may_vanish = place < LINE or (place - LINE) % 3 == 2  # without factor or scale there would be no term
        for distance, value in exact_values(number, deviation, is_exact):
            is_third = value.is_Rational and value.q == 3  # not written in few digits
            if (value != 0 or may_vanish) and not is_third:
                yield distance, float(value)

    def _rounded(self, fitted: FittedSum) -> FittedSum:
        """With the fewest digits that leave the error."""
        free = fitted.sum.free
        for digits in range(MIN_DIGITS, MAX_DIGITS + 1):
            rounded = {place: float(f"{fitted.sum.numbers[place]:.{digits}g}") for place in free}
            trial = self.fit(fitted.sum.with_numbers(rounded, exact=free), steps=0)
            if self._is_as_good(trial.error, fitted.error, numbers=len(free)):
                return trial
        return fitted

    def _is_as_good(self, error: float, before: float, numbers: int) -> bool:
        allowed = before * 2 ** (BITS_PER_NUMBER * numbers / len(self.x_S))
        return error <= max(allowed, math.hypot(before, NEGLIGIBLE * self.deviation))

    def _candidates(self, function: str) -> tuple[Tensor, Tensor]:
        """Scales and shifts at which a function's fit may begin, (A, 2), and its values there, weighted, (A, S)."""
        centre, half = float(self.x_S[0] + self.x_S[-1]) / 2, float(self.x_S[-1] - self.x_S[0]) / 2
        if ELEMENTARY[function].is_monomial:
            pairs_A2 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        else:
            pairs_A2 = ALL_SYMBOLS.named(function).candidates().double()
            scale_A, shift_A = pairs_A2[:, 0] / half, pairs_A2[:, 1] - pairs_A2[:, 0] * centre / half
            if not ALL_SYMBOLS.named(function).fit_scale:  # its sign matters only
                scale_A, shift_A = scale_A * half, shift_A * half
            pairs_A2 = torch.stack([scale_A, shift_A], dim=-1)
        if function in PERIOD:
            phases = torch.arange(PHASES, dtype=torch.float64) * PERIOD[function] / 2 / PHASES
            shifted = torch.stack([torch.zeros_like(phases), phases], dim=-1)
            pairs_A2 = (pairs_A2.unsqueeze(1) + shifted).flatten(0, 1)
        z_AS = pairs_A2[:, :1] * self.x_S + pairs_A2[:, 1:]
        return pairs_A2, ELEMENTARY[function].value_(z_AS) * self.root_S
