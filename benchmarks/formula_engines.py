"""Programs that find formulas, each a function from samples to a sympy expression, for `formulas.py`.

kansformer is called with its defaults and gets the columns as they are. The peers get theirs divided by the standard
deviation (pyoperon computes in float32, gplearn draws constants between -1 and 1), search until their CPU time is
over, and offer all formulas that they end with: pyoperon its Pareto front, gplearn the best of its last generation.
Neither fits constants in float64. So scipy fits those of each offer, the Bayesian information criterion, with the size
for the number of parameters, chooses one, and constants that can be 0, 1 or -1 become that; this does not count as
their time.

pyoperon has the settings of its authors' entries of SRBench: objectives R² and length, 1,000 individuals, basic
offspring, balanced trees, keep-best, 5 iterations of local search (as in 2021; the later entry has 1), epsilon 1e-6 in
place of 1e-5, since what differs less counts as equal, and their symbols without pow, which exp and log can write. Of
six equations, 8 CPU seconds each, that found 2, with epsilon 0 also 2, and with the objective R² alone 1.
gplearn has the settings of SRBench (tournament 20, parsimony 0.001, crossover 0.9, mutations 0.01 each), and exp among
its functions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy
from scipy.optimize import least_squares

from kansformer.kan import find_formula
from kansformer.kan.data import Dataset

MAX_CANDIDATES = 20  # of gplearn's last generation
OPERON_SETTINGS: dict[str, Any] = dict(
    allowed_symbols="add,sub,mul,div,sin,cos,exp,log,sqrt,square,constant,variable",
    objectives=["r2", "length"],
    epsilon=1e-6,
    optimizer_iterations=5,
    max_length=50,
    population_size=1000,
)


@dataclass(frozen=True)
class Result:
    """A formula.

    Args:
        expression: in the given symbols, its numbers shown with 4 digits where the program rounds them.
        seconds: CPU seconds of the search.
        test_rmse: as the program itself says; None if it follows from the expression.
    """

    expression: sympy.Expr
    seconds: float
    test_rmse: float | None = None


@dataclass(frozen=True)
class Budget:
    """What a search may take: networks for kansformer, CPU seconds for the others."""

    networks: int
    seconds: float
    seed: int


def search_with_kansformer(data: Dataset, symbols: Sequence[sympy.Symbol], budget: Budget) -> Result:
    begin = time.process_time()
    result = find_formula(data, networks=budget.networks, seed=budget.seed, progress=False)
    seconds = time.process_time() - begin
    names = {sympy.Symbol(symbol.name): symbol for symbol in symbols}
    return Result(result.formulas[0].xreplace(names), seconds, result.test_rmse)


def search_with_pyoperon(data: Dataset, symbols: Sequence[sympy.Symbol], budget: Budget) -> Result:
    from pyoperon.sklearn import SymbolicRegressor

    table = _Scaled.of(data, symbols)
    begin = time.process_time()
    unlimited = dict(generations=10**6, max_evaluations=10**9)
    engine = SymbolicRegressor(**OPERON_SETTINGS, **unlimited, n_threads=1, warm_start=True)
    state = budget.seed
    while (left := budget.seconds - (time.process_time() - begin)) > 0.1:
        state += 1
        engine.set_params(max_time=math.ceil(left), random_state=state)  # of the wall clock, in whole seconds
        engine.fit(table.x, table.y)  # goes on with the population of the last call
    seconds = time.process_time() - begin
    names = {f"X{index + 1}": symbol for index, symbol in enumerate(symbols)}
    texts = {engine.get_model_string(model["tree"], 17).replace("^", "**") for model in engine.pareto_front_}
    return Result(table.best([sympy.sympify(text, locals=names) for text in sorted(texts)]), seconds)


def search_with_gplearn(data: Dataset, symbols: Sequence[sympy.Symbol], budget: Budget) -> Result:
    from gplearn.functions import make_function
    from gplearn.genetic import SymbolicRegressor

    table = _Scaled.of(data, symbols)
    begin = time.process_time()
    exp = make_function(function=lambda x: np.exp(np.clip(x, -50, 50)), name="exp", arity=1)
    engine = SymbolicRegressor(
        population_size=1000,
        generations=1,
        tournament_size=20,
        init_depth=(2, 6),
        parsimony_coefficient=0.001,
        p_crossover=0.9,
        p_subtree_mutation=0.01,
        p_hoist_mutation=0.01,
        p_point_mutation=0.01,
        p_point_replace=0.05,
        function_set=("add", "sub", "mul", "div", "log", "sqrt", "sin", "cos", exp),
        low_memory=True,
        warm_start=True,
        n_jobs=1,
        random_state=budget.seed + 1,
    )
    while time.process_time() - begin < budget.seconds:
        engine.fit(table.x, table.y)
        engine.set_params(generations=engine.generations + 1)
    seconds = time.process_time() - begin
    names = {f"X{index}": symbol for index, symbol in enumerate(symbols)} | {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "log": lambda a: sympy.log(sympy.Abs(a)),
        "sqrt": lambda a: sympy.sqrt(sympy.Abs(a)),
    }
    programs = sorted(engine._programs[-1], key=lambda program: program.raw_fitness_)
    texts = list(dict.fromkeys(str(program) for program in programs[:200]))[:MAX_CANDIDATES]
    offers = [sympy.sympify(text, locals=names) for text in texts]
    return Result(table.best([offer for offer in offers if not offer.has(sympy.zoo, sympy.nan)]), seconds)


Engine = Callable[[Dataset, Sequence[sympy.Symbol], Budget], Result]
ENGINES: dict[str, Engine] = {
    "kansformer": search_with_kansformer,
    "pyoperon": search_with_pyoperon,
    "gplearn": search_with_gplearn,
}


@dataclass(frozen=True)
class _Scaled:
    """Training samples whose columns have the standard deviation 1, and what they were divided by."""

    x: np.ndarray
    y: np.ndarray
    symbols: Sequence[sympy.Symbol]
    input_scales: np.ndarray
    target_scale: float

    @classmethod
    def of(cls, data: Dataset, symbols: Sequence[sympy.Symbol]) -> _Scaled:
        x, y = data.train_input.numpy(), data.train_target.numpy()[:, 0]
        return cls(x / x.std(axis=0), y / y.std(), symbols, x.std(axis=0), float(y.std()))

    def best(self, candidates: Sequence[sympy.Expr]) -> sympy.Expr:
        """The formula with the best information criterion after its constants are fitted, in the samples' units."""
        fitted = [self._fit(*_pattern(candidate)) for candidate in candidates]
        best = self._shorten(min(fitted, key=self._criterion))
        units = {symbol: symbol / float(scale) for symbol, scale in zip(self.symbols, self.input_scales, strict=True)}
        return self.target_scale * best.expression.xreplace(units)

    def _criterion(self, fitted: _Fitted) -> float:
        return len(self.y) * math.log(fitted.error**2 + 1e-24) + fitted.size * math.log(len(self.y))

    def _fit(self, pattern: sympy.Expr, start: dict[sympy.Symbol, float]) -> _Fitted:
        """Constants by least squares from where they are; values that are not finite count as 1e6."""
        function = sympy.lambdify([*start, *self.symbols], pattern, "numpy")

        def residuals(values: np.ndarray) -> np.ndarray:
            with np.errstate(all="ignore"):
                result = np.broadcast_to(function(*values, *self.x.T), self.y.shape) - self.y
            return np.nan_to_num(np.real(result), nan=1e6, posinf=1e6, neginf=-1e6).clip(-1e6, 1e6)

        values = np.array(list(start.values()))
        error = float(np.sqrt(np.mean(residuals(values) ** 2)))
        for tolerance in (1e-8, 1e-15) if start else ():
            if tolerance < 1e-8 and error > 1e-4:
                break  # the last digits matter to what may be exact
            tolerances = dict(ftol=tolerance, xtol=tolerance, gtol=tolerance)
            fit = least_squares(residuals, values, method="lm", max_nfev=30 * (len(start) + 1), **tolerances)
            if (fitted := float(np.sqrt(np.mean(fit.fun**2)))) < error:
                values, error = fit.x, fitted
        return _Fitted(pattern, dict(zip(start, values.tolist(), strict=True)), error)

    def _shorten(self, fitted: _Fitted) -> _Fitted:
        """Constants that can be 0, 1 or -1 become that, the smallest ones first, the others fitted anew."""
        highest = max(1.001 * fitted.error, 1e-10)
        for constant in sorted(fitted.constants, key=lambda constant: abs(fitted.constants[constant])):
            for value in (0, 1, -1):
                pattern = fitted.pattern.xreplace({constant: sympy.Integer(value)})
                start = {c: own for c, own in fitted.constants.items() if pattern.has(c)}
                if pattern.has(sympy.nan, sympy.zoo, sympy.oo) or _Fitted(pattern, start, 0.0).size >= fitted.size:
                    continue
                if (simpler := self._fit(pattern, start)).error <= highest:
                    fitted = simpler
                    break
        return fitted


@dataclass(frozen=True)
class _Fitted:
    """A formula with symbols for its constants, their values, and its error."""

    pattern: sympy.Expr
    constants: dict[sympy.Symbol, float]
    error: float

    @cached_property
    def expression(self) -> sympy.Expr:
        return self.pattern.xreplace({symbol: sympy.Float(value) for symbol, value in self.constants.items()})

    @cached_property
    def size(self) -> int:
        return expression_size(self.expression)


def _pattern(expression: sympy.Expr) -> tuple[sympy.Expr, dict[sympy.Symbol, float]]:
    numbers = sorted(expression.atoms(sympy.Float), key=str)
    constants = sympy.symbols(f"c:{len(numbers)}", real=True)
    pattern = expression.xreplace(dict(zip(numbers, constants, strict=True)))
    return pattern, {symbol: float(number) for symbol, number in zip(constants, numbers, strict=True)}


def tidy(expression: sympy.Expr, digits: int = 4) -> sympy.Expr:
    """Numbers evaluated and rounded to significant digits; whole numbers become integers, so that 1.000·x is x."""
    evaluated = sympy.sympify(expression).evalf(15)
    return evaluated.xreplace({number: _rounded(float(number), digits) for number in evaluated.atoms(sympy.Float)})


def expression_size(expression: sympy.Expr) -> int:
    """Nodes of the expression's tree, the fewest of three ways to write it."""
    tidied = tidy(expression)
    forms = (tidied, sympy.powsimp(tidied), sympy.factor_terms(tidied))
    return min(sum(1 for _ in sympy.preorder_traversal(form)) for form in forms)


def _rounded(number: float, digits: int) -> sympy.Number:
    value = float(f"{number:.{digits}g}")
    return sympy.Integer(int(value)) if value.is_integer() and abs(value) < 1000 else sympy.Float(value, digits)
