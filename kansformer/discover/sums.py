"""Sums m·x + n + Σ c·f(a·x + b) and their fit to the weighted mean of curves.

Shape letters: E curves, S points, A candidates, T columns of a sum, C free numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import sympy
import torch
from torch import Tensor

from kansformer.discover.activation import ActivationTerm
from kansformer.discover.curves import weighted_mean
from kansformer.discover.functions import ELEMENTARY
from kansformer.symbolic import ALL_SYMBOLS
from kansformer.symbolic.constants import MAX_DEVIATIONS, ROUNDING, Formula, exact_values, fit_constants

# Phases of waves at which the search begins, in half periods; the factor's sign gives the other half.
PHASES = 8
# Candidates that are a sum of what is there already, to this share of their square, are not tried.
MIN_NEW = 1e-6
# Errors that are not seen: relative to the mean curve's deviation, and, of rounding, to its standard error.
NEGLIGIBLE, ROUNDED = 1e-3, 0.3
# Curves from which standard errors can be taken.
MIN_CURVES = 8
# Largest scale, on points from -1 to 1, and shift: candidates have at most 32 and 42.
MAX_SCALE, MAX_SHIFT = 64.0, 100.0
# What a term must have beside a line, as a share of its size.
MIN_BENT = 0.01
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

    def values(self, x_S: Tensor) -> Tensor:
        """The sum, (S,)."""
        factors = [self.slope, self.constant, *(factor for factor, _, _ in self._triples())]
        return torch.tensor(factors, dtype=x_S.dtype) @ self.columns(x_S)

    def slope_of(self, place: int, x_S: Tensor) -> Tensor:
        """The derivative of the sum by one of its numbers, (S,)."""
        if place < LINE:
            return x_S if place == 0 else torch.ones_like(x_S)
        number, kind = divmod(place - LINE, 3)
        function, (factor, scale, shift) = ELEMENTARY[self.functions[number]], [*self._triples()][number]
        z_S = scale * x_S + shift
        if kind == 0:
            return function.value_(z_S)
        slope_S = factor * function.slope_(z_S)
        return slope_S * x_S if kind == 1 else slope_S

    def canonical(self) -> Sum:
        """The same function with positive scales where f is even or odd, and phases between -π/2 and π/2."""
        numbers = list(self.numbers)
        for first, function in zip(range(LINE, len(numbers), 3), self.functions, strict=True):
            factor, scale, shift = numbers[first : first + 3]
            parity = ELEMENTARY[function].parity
            if parity and scale < 0:
                factor, scale, shift = parity * factor, -scale, -shift
            if (period := ELEMENTARY[function].period) is not None:
                half = period / 2
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
    """Fits sums to the weighted mean of curves.

    Args:
        x_S: points.
        y_ES: the curves.
        weights_ES: of the squared error of each curve at each point; above 0 for one curve at least.
    """

    def __init__(self, x_S: Tensor, y_ES: Tensor, weights_ES: Tensor) -> None:
        self.x_S, self.y_ES, self.weights_ES = x_S, y_ES, weights_ES
        self.y_S, self.weight_S = weighted_mean(y_ES, weights_ES)
        self.root_S = (self.weight_S / self.weight_S.mean()).sqrt()
        self.deviation = self._rms(self.y_S - (self.weight_S * self.y_S).sum() / self.weight_S.sum())
        self.noise = self._rms((weights_ES * (y_ES - self.y_S)).norm(dim=0) / self.weight_S)
        half = float(x_S[-1] - x_S[0]) / 2
        self._largest_21 = torch.tensor([[MAX_SCALE / half], [MAX_SHIFT]], dtype=torch.float64)
        self._samples = torch.stack([x_S, self.root_S], dim=1)

    def fit(self, start: Sum, steps: int = 60) -> FittedSum:
        """The best free numbers from here on."""
        fitted = fit_constants(start.formula(), self._samples, self.root_S * self.y_S, steps=steps)
        best = start.with_numbers(dict(zip(start.free, fitted.formula.values.tolist(), strict=True)))
        errors = torch.maximum(fitted.deviations, self._errors_from_curves(best))
        deviations = dict(zip(start.free, errors.tolist(), strict=True))
        return FittedSum(best, fitted.error, tuple(deviations.get(place, 0.0) for place in range(len(start.numbers))))

    def _errors_from_curves(self, fitted: Sum) -> Tensor:
        """Standard errors of the free numbers from how much each curve pulls at them (Liang and Zeger, 1986), (C,).

        Curves differ smoothly, so that their points are not independent observations.
        """
        errors = torch.zeros(len(fitted.free), dtype=torch.float64)
        if len(self.y_ES) < MIN_CURVES or not len(errors):
            return errors
        slopes_CS = torch.stack([fitted.slope_of(place, self.x_S) for place in fitted.free])
        if not slopes_CS.isfinite().all():
            return torch.full_like(errors, math.inf)
        size_C1 = (slopes_CS * self.root_S).norm(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        slopes_CS = slopes_CS / size_C1
        pulls_CE = slopes_CS @ (self.weights_ES * (self.y_ES - fitted.values(self.x_S))).mT
        shifts_CE = torch.linalg.pinv(slopes_CS * self.weight_S @ slopes_CS.mT, hermitian=True) @ pulls_CE
        return shifts_CE.norm(dim=-1) / size_C1[:, 0]

    def _rms(self, values_S: Tensor) -> float:
        return float((self.root_S * values_S).square().mean().sqrt())

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
            places = [0, 1, *range(LINE, len(longer.numbers), 3)]
            yield longer.with_numbers(dict(zip(places, factors, strict=True)))

    def snapped(self, fitted: FittedSum) -> FittedSum:
        """With numbers snapped to exact values within their standard errors, and the others rounded.

        Snapping may add an error of the mean curve's standard error, or as much as three standard errors of all numbers
        do where points are independent; rounding a share of it.
        """
        best = self.fit(fitted.sum.canonical(), steps=SNAP_STEPS)
        independent = MAX_DEVIATIONS * best.error * math.sqrt(len(best.sum.free) / len(self.x_S))
        limit = self._tolerated(best.error, max(self.noise, independent))
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
            if trial.error <= limit and self.is_visible(trial.sum):
                best = trial
            else:
                refused.add((place, value))

    def _exact_values(self, fitted: FittedSum, place: int) -> Iterator[tuple[float, float]]:
        number, deviation = fitted.sum.numbers[place], fitted.deviations[place]
        if not math.isfinite(deviation):
            return  # others can take its place, so that nothing speaks for a value
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
            if trial.error <= self._tolerated(fitted.error, ROUNDED * self.noise):
                return trial
        return fitted

    def _tolerated(self, error: float, unseen: float) -> float:
        """The largest error that is taken for the same, where so much more would not be seen."""
        return math.hypot(error, max(unseen, NEGLIGIBLE * self.deviation))

    def is_visible(self, fitted: Sum) -> bool:
        """Whether every term bends over the points, and not between two of them only.

        A piece of a function that is nearly straight there stands for a line or, with a large factor, for a parabola.
        """
        if not fitted.functions:
            return True
        numbers = torch.tensor([(scale, shift) for _, scale, shift in fitted._triples()], dtype=torch.float64)
        if not (numbers.abs().mT <= self._largest_21).all():
            return False
        columns_TS = fitted.columns(self.x_S) * self.root_S
        q_S2, _ = torch.linalg.qr(columns_TS[:LINE].mT)
        terms_TS = columns_TS[LINE:]
        bent_T = (terms_TS - (terms_TS @ q_S2) @ q_S2.mT).norm(dim=-1) / terms_TS.norm(dim=-1)
        is_monomial_T = torch.tensor([ELEMENTARY[function].is_monomial for function in fitted.functions])
        return bool(((bent_T >= MIN_BENT) | is_monomial_T).all())

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
        if (period := ELEMENTARY[function].period) is not None:
            phases = torch.arange(PHASES, dtype=torch.float64) * period / 2 / PHASES
            shifted = torch.stack([torch.zeros_like(phases), phases], dim=-1)
            pairs_A2 = (pairs_A2.unsqueeze(1) + shifted).flatten(0, 1)
        z_AS = pairs_A2[:, :1] * self.x_S + pairs_A2[:, 1:]
        return pairs_A2, ELEMENTARY[function].value_(z_AS) * self.root_S
