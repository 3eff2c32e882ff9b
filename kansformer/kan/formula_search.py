"""The search for a formula of one target: structures by linear fits, then networks of several shapes.

Shape letters: N samples, I inputs.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, product

import sympy
import torch
from torch import Tensor

from kansformer.kan.data import Dataset, Scaling, points_around
from kansformer.kan.edge_symbols import LAST_STEPS, SETTLED, name_one_by_one
from kansformer.kan.fitting import fit, rmse
from kansformer.kan.history import few_threads
from kansformer.kan.linear_formulas import fitted_line
from kansformer.kan.monomials import sums_of_monomials
from kansformer.kan.network import KAN, Width
from kansformer.kan.reductions import Reduction, find_reductions
from kansformer.kan.resolution import decimal_error, float_error
from kansformer.kan.sparse import SearchSettings, description_length, sparsified
from kansformer.kan.structure_formulas import formulas_of
from kansformer.kan.structure_search import find_structures
from kansformer.kan.structures import Structure
from kansformer.kan.symbolic import fit_symbolic, formula
from kansformer.nn import refine_grid
from kansformer.progress import Progress
from kansformer.symbolic import LIBRARY, SymbolLibrary
from kansformer.symbolic.constants import (
    ROUNDING,
    Fitted,
    Formula,
    fit_constants,
    simplified,
    torch_function,
    with_signs,
)

# Structures that are named at most, steps of the first fits of their formulas, formulas of each structure that are
# fitted to the end, and formulas that are looked at after one was exact.
STRUCTURES, FIRST_STEPS, FINALISTS, AFTER_EXACT = 10, 10, 2, 3
# Reductions to two variables that are named; the share of the best formula's error that theirs must stay below, and
# that of the error of structures below which they come first.
REDUCTIONS, MIN_PROGRESS, MUCH_BETTER = 2, 0.9, 0.3
# Errors up to which sums of curves of the inputs are named before others are looked for.
LIKELY_SUM = 3e-3
# Nats that an operation of a formula costs.
OPERATION_COST = 2.0
# Share of the targets' deviation that the last digits of a formula's constants may change.
MAX_SENSITIVITY = 1e-3
# A formula may miss rounded numbers by this many times their rounding error: few samples have a larger one.
ENOUGH = 1.25
# Nats that a formula costs which is not finite a little beyond the samples.
NOT_FINITE = 40.0
# Formulas are simplified if they are at most this many nats longer than the best one.
WORTH_A_LOOK = 50.0


@dataclass(frozen=True)
class Shape:
    """A network to try.

    Args:
        width: its nodes.
        linear_products: the edges that leave the last hidden layer's product nodes are lines, so that curves behind a
            product do not bend what the product's own curves could bend.
    """

    width: list[int | Sequence[int]]
    linear_products: bool = False

    def size(self, settings: SearchSettings) -> int:
        """The number of coefficients of its curves."""
        return sum(layer.coefficients.numel() for layer in self.build(0, settings).layers)

    def build(self, seed: int, settings: SearchSettings) -> KAN:
        """The network, without bases, so that its inputs can be scaled."""
        model = KAN(self.width, grid_size=settings.grid_size, order=settings.order, base="zero", seed=seed)
        plain, products = model.width[-2]
        if self.linear_products:
            model.layers[-1].coefficients.data[plain:] = 0
            for node, o in product(range(plain, plain + products), range(model.width[-1][0])):
                model.formulas[-1].add(node, o, LIBRARY.named("x"), (1.0, 0.0, 1.0, 0.0))
        return model


@dataclass(frozen=True)
class Try:
    """A network that was fitted, for scaled columns, with curves on its edges, and what is left of the error."""

    curves: KAN
    error: float
    shape: Shape
    seed: int


def shapes_for(inputs: int) -> list[Shape]:
    """The shapes that `find_formula` tries by default, simple networks first."""
    if inputs == 1:
        return [Shape([1, *hidden, 1]) for hidden in ([], [1], [2], [[2, 1]])]
    shapes: list[tuple[list[int | list[int]], bool]] = [
        ([], False), ([[0, 1]], True), ([1], False), ([[1, 1]], True), ([[0, 1]], False), ([2], False),
        ([[1, 1], [0, 1]], True), ([2, [0, 1]], True), ([[1, 1]], False), ([5], False), ([2, [1, 1]], True),
        ([[3, 2]], False),
    ]  # fmt: skip
    return [Shape([inputs, *hidden, 1], linear_products) for hidden, linear_products in shapes]


@dataclass(frozen=True)
class Problem:
    """Inputs (N, I) with names, targets (N,), and what turns a formula of these into one of the original columns."""

    x: Tensor
    y: Tensor
    names: Sequence[str]
    back: Callable[[sympy.Expr], sympy.Expr]


class FormulaSearch:
    """The search for one output: the formulas found, and the networks whose edges are not named yet."""

    def __init__(
        self,
        dataset: Dataset,
        output: int,
        names: Sequence[str],
        library: SymbolLibrary,
        settings: SearchSettings,
        deadline: float,
    ) -> None:
        self.x, self.y = dataset.train_input, dataset.train_target[:, output]
        self.names, self.library, self.settings, self.deadline = names, library, settings, deadline
        self.deviation = float(self.y.std(correction=0)) or 1.0
        # Relative to it: errors below the one say nothing, and below the other no network can explain more. Structures
        # are sought all the same: numbers with few decimals may be exact.
        self.rounding = float_error(self.y) / self.deviation
        self.exact = max(settings.exact, self.rounding)
        self.enough = max(self.exact, min(ENOUGH * decimal_error(self.y) / self.deviation, settings.max_error))
        column = slice(output, output + 1)
        own = Dataset(self.x, dataset.train_target[:, column], dataset.test_input, dataset.test_target[:, column])
        self.scaling = Scaling.of(own)
        scaled = self.scaling.apply(own)
        self.scaled_x, self.scaled_y = scaled.train_input, scaled.train_target
        self.kept: list[Fitted] = []
        self.best: Fitted | None = None
        self.tried: Try | None = None
        self.best_length = self.min_error = math.inf
        self.unnamed = list[Try]()
        self._since, self.is_out_of_time = 0, False
        self.around = points_around(self.x)

    def run(self, width: Width | None, networks: int, seed: int, report: Progress) -> None:
        """Search until a formula is exact, no better one is expected, or the time is over."""
        self._constant()
        if width is None and self.y.min() < self.y.max():
            self._structures()
            if not self.is_done():
                self._monomials()
        if self.ended():
            report("networks", networks, networks, f"RMSE {self.best_error:.2e}")
            return
        samples, settings = len(self.x), self.settings
        shapes = shapes_for(len(self.names)) if width is None else [Shape(list(width))]
        shapes = [s for s in shapes if settings.samples_per_number * s.size(settings) <= samples] or shapes[:1]
        for number in range(networks):
            self._network(shapes[number % len(shapes)], seed + number // len(shapes))
            if (number + 1) % len(shapes) == 0 or number == networks - 1:
                self._name_the_best()
            report("networks", number + 1, networks, f"RMSE {self.best_error:.2e}")
            if self.ended():
                break

    @property
    def best_error(self) -> float:
        """Of the best formula, relative to the target."""
        return self.best.error / self.deviation if self.best else math.inf

    def result(self) -> Fitted:
        """The formula with the shortest description."""
        if self.best is None:
            self._constant()
        assert self.best is not None
        return self.best

    def front(self) -> list[Fitted]:
        """The formulas that no smaller one equals, the smallest first."""
        result: list[Fitted] = []
        for fitted in sorted(self.kept, key=lambda f: (f.formula.size(), f.error)):
            if not result or max(fitted.error, self.exact * self.deviation) < result[-1].error:
                result.append(fitted)
        return result

    def length(self, fitted: Fitted) -> float:
        """Nats that describe the samples by a formula; infinite if it is not finite, or changes with the last digits of
        its constants, as sqrt(3e31 - 1e16*x) - 6e15 does.
        """
        if not math.isfinite(fitted.error):
            return math.inf
        formula = fitted.formula
        if 2 * len(formula.values) > len(self.y):
            return math.inf  # it would explain anything
        if formula.sensitivity(self.x) > MAX_SENSITIVITY * self.deviation:
            return math.inf
        error = max(fitted.error / self.deviation, self.exact)
        length = description_length(error, len(formula.values), len(self.y)) + OPERATION_COST * formula.size()
        values = formula.compiled()(self.around.mT, formula.values.unsqueeze(-1).expand(-1, len(self.around)))
        return length if values.isfinite().all() else length + NOT_FINITE

    def ended(self) -> bool:
        """Whether another network is not expected to help."""
        settings = self.settings
        is_noisy = settings.max_error < self.min_error < math.inf
        explained = is_noisy and self.min_error / 2 <= self.best_error <= settings.explained * self.min_error
        enough = self.best_error <= self.enough or explained or (is_noisy and self._since >= settings.patience)
        self.is_out_of_time = time.monotonic() >= self.deadline and not self.best_error <= self.enough
        return enough or self.is_out_of_time

    def _constant(self) -> None:
        mean = Formula.of(sympy.Float(float(self.y.mean())), self.names)
        self._record(fit_constants(mean, self.x, self.y), None)

    def _structures(self) -> None:
        """Name the best structures of the inputs, and of pairs of combinations that may be all that matters."""
        self._line()
        self._power_law()
        with few_threads(0):
            sums = find_structures(self.x, self.y, self.names, self.library, self.deadline, combine=False)
            likely = [s for s in sums if s.error < LIKELY_SUM]
            self._name_structures(likely)
            if self.best_error <= self.exact:
                return
            structures = find_structures(self.x, self.y, self.names, self.library, self.deadline)
            self.min_error = min((s.error for s in structures), default=math.inf)
            reductions = find_reductions(self.x, self.y, self.names, self.library, self.deadline)[:REDUCTIONS]
            first = sum(r.error < MUCH_BETTER * self.min_error for r in reductions)  # the best ones come first
            for reduction in reductions[:first]:
                self._reduced(reduction)
            named = {s.key for s in likely}
            self._name_structures([s for s in structures if s.key not in named][:STRUCTURES])
            for reduction in reductions[first:]:
                if reduction.error < MIN_PROGRESS * self.best_error:
                    self._reduced(reduction)

    def _reduced(self, reduction: Reduction) -> None:
        """Name structures of two combinations of the inputs."""
        symbols = [sympy.Symbol(name) for name in self.names]
        parts = [column.expression for column in (*reduction.columns, reduction.factor)]
        function = torch_function(symbols, sympy.Tuple(*parts))
        *columns, factor = function(*self.x.unbind(dim=-1))
        names = [next(n for n in (f"{k}{'_' * i}" for i in count()) if n not in self.names) for k in ("u", "v")]
        meaning = dict(zip(map(sympy.Symbol, names), parts[:2], strict=True))
        x, y = torch.stack(columns, dim=-1), self.y * factor
        if self.is_done() or not (x.isfinite().all() and y.isfinite().all()):
            return
        structures = find_structures(x, y, names, self.library, self.deadline)[:STRUCTURES]
        self._name_structures(structures, Problem(x, y, names, lambda e: e.xreplace(meaning) / parts[2]))

    def _name_structures(self, structures: Sequence[Structure], problem: Problem | None = None) -> None:
        """Keep the best formulas of structures until one is exact or time is over, for the samples or a problem."""
        problem = Problem(self.x, self.y, self.names, lambda e: e) if problem is None else problem
        x, y, names = problem.x, problem.y, problem.names
        exact = self.exact * self.deviation
        for structure in structures:
            if self.is_done():
                break
            first: list[Fitted] = []
            after = 0  # formulas since one was exact
            for expression in formulas_of(structure.at(x, names), x, y, names, self.library):
                formula = Formula.of(problem.back(expression), self.names)
                first.append(fit_constants(formula, self.x, self.y, steps=FIRST_STEPS))
                after += min(f.error for f in first) <= exact
                if after > AFTER_EXACT or time.monotonic() >= self.deadline:
                    break
            for fitted in sorted(first, key=self.length)[:FINALISTS]:
                self._keep(fitted)

    def is_done(self) -> bool:
        """Whether a formula is exact or the time is over."""
        return self.best_error <= self.exact or time.monotonic() >= self.deadline

    def _monomials(self) -> None:
        """Sums of products of powers."""
        if not {"x", "x^2"} <= set(self.library.names):
            return
        with few_threads(0):
            for expression in sums_of_monomials(self.x, self.y, self.names, self.library):
                self._keep(fit_constants(Formula.of(expression, self.names), self.x, self.y, steps=FIRST_STEPS))
                if time.monotonic() >= self.deadline:
                    break

    def _line(self) -> None:
        """The straight line in the inputs that matter."""
        line = fitted_line(self.x, self.y, self.names) if "x" in self.library.names else None
        if line is not None and (formula := Formula.of(line, self.names)).values.isfinite().all():
            self._keep(fit_constants(formula, self.x, self.y, steps=FIRST_STEPS))

    def _power_law(self) -> None:
        """The product of powers of all inputs, where these and the targets have one sign."""
        if (
            "x^1.5" not in self.library.names
            or not (self.x > 0).all()
            or not ((self.y > 0).all() or (self.y < 0).all())
        ):
            return
        rows = torch.cat([self.x.log(), torch.ones_like(self.x[:, :1])], dim=1)
        *exponents, constant = torch.linalg.lstsq(rows, self.y.abs().log().unsqueeze(-1)).solution[:, 0].tolist()
        if not constant < math.log(sys.float_info.max):
            return  # its factor is too large for float64, or NaN
        factors = [sympy.Symbol(name) ** sympy.Float(p) for name, p in zip(self.names, exponents, strict=True)]
        law = sympy.Mul(sympy.Float(math.copysign(math.exp(constant), float(self.y[0]))), *factors)
        self._keep(fit_constants(Formula.of(law, self.names), self.x, self.y, steps=FIRST_STEPS))

    def _keep(self, fitted: Fitted, tried: Try | None = None) -> None:
        """Record a formula, and after a last fit its simpler form."""
        if not math.isfinite(fitted.error):
            return
        fitted = fit_constants(with_signs(fitted.formula, self.x), self.x, self.y)
        if math.isfinite(fitted.error) and self.length(fitted) < self.best_length + WORTH_A_LOOK:
            rounding = max(ROUNDING, self.rounding)
            simple = simplified(fitted, self.x, self.y, cost=self.length, rounding=rounding)
            simple = fit_constants(with_signs(simple.formula, self.x), self.x, self.y, steps=FIRST_STEPS)
            self._record(simple, tried)
        self._record(fitted, tried)

    def _record(self, fitted: Fitted, tried: Try | None) -> None:
        self.kept.append(fitted)
        length = self.length(fitted)
        if self.best is None or length < self.best_length:
            self.best, self.best_length, self.tried, self._since = fitted, length, tried, 0

    def _network(self, shape: Shape, seed: int) -> None:
        """Try one more network."""
        self._since += 1
        model = shape.build(seed, self.settings)
        with few_threads(self.x.numel() * sum(p.numel() for p in model.parameters())):
            tried = Try(*self._grow(model), shape, seed)
            self.min_error = min(self.min_error, tried.error)
            if tried.error <= self.settings.close:
                self._name(tried)
            else:
                self.unnamed.append(tried)

    def _name_the_best(self) -> None:
        """Name the best of the curves that are not named yet."""
        self.unnamed.sort(key=lambda tried: tried.error)
        for tried in self.unnamed[: self.settings.named_later]:
            if not self.is_done():
                self._name(tried)
        self.unnamed = self.unnamed[self.settings.named_later :]

    def _grow(self, model: KAN) -> tuple[KAN, float]:
        """A network with curves on as fine a grid as the samples call for, and its RMSE."""
        x, y, settings = self.scaled_x, self.scaled_y, self.settings
        model, error = sparsified(model, x, y, settings)
        for grid_size in settings.fine_grids:
            finer = copy.deepcopy(model)
            refine_grid(finer, grid_size)
            fit(finer, (x, y), steps=settings.fine_steps, grid_update_every=0, tolerance=SETTLED, progress=False)
            finer_error = rmse(finer, x, y)
            if finer_error > settings.min_gain * error:
                break
            model, error = finer, finer_error
        return model, error

    def _name(self, tried: Try) -> None:
        settings, samples = self.settings, (self.scaled_x, self.scaled_y)
        noise = min((settings.noise_factor * tried.error) ** 2, settings.max_noise)
        model = copy.deepcopy(tried.curves)
        fit_symbolic(model, samples, library=self.library, noise=noise)
        fit(model, samples, steps=LAST_STEPS, grid_update_every=0, tolerance=SETTLED, progress=False)
        self._keep_network(model, tried)
        is_small = len(list(tried.curves.edges())) <= settings.max_edges
        if self.best_error > self.enough and is_small and tried.error < settings.max_error:
            named = name_one_by_one(tried.curves, *samples, library=self.library, noise=noise)
            if named is not None:
                self._keep_network(named, tried)

    def _keep_network(self, model: KAN, tried: Try) -> None:
        """Record the formula of a network for scaled columns."""
        model = copy.deepcopy(model)
        self.scaling.undo(model)
        (expression,) = formula(model, variables=self.names)
        self._keep(fit_constants(Formula.of(expression, self.names), self.x, self.y, steps=FIRST_STEPS), tried)

    def unscaled(self, tried: Try) -> KAN:
        """The curves of a network, for the columns as they are."""
        curves = copy.deepcopy(tried.curves)
        self.scaling.undo(curves)
        return curves
