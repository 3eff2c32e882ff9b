"""From a table to a formula: structures by linear fits first, then networks of several shapes, until one is exact.

Shape letters: N samples, I inputs, O outputs.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from kansformer.checks import check_integer, check_number
from kansformer.errors import ConfigError, DataError
from kansformer.kan.data import (
    Samples,
    as_dataset,
    check_squares,
    column_names,
    dataset_for,
    points_around,
    variable_names,
)
from kansformer.kan.fitting import rmse
from kansformer.kan.history import GRID_MARGIN
from kansformer.kan.network import KAN, Width
from kansformer.kan.sparse import SearchSettings
from kansformer.kan.symbolic import library_of, unfix_symbol
from kansformer.nn import update_grid
from kansformer.progress import Progress, progress_reporter
from kansformer.symbolic import SCIENCE_LIBRARY, SymbolLibrary

if TYPE_CHECKING:
    import sympy


# Curves this many times better than the formula are worth a remark.
MUCH_BETTER = 100.0
MIN_SPREAD = 1e-140
# A curve replaces a symbol if it changes the outputs by this share of their deviation at most.
FOLLOWED, FINE_GRID = 0.02, 20


@dataclass(frozen=True)
class Alternative:
    """A formula on the front of error against size.

    Args:
        formula: of one output.
        size: operations, variables and numbers in it.
        train_rmse: with all its digits.
    """

    formula: sympy.Expr
    size: int
    train_rmse: float


@dataclass(frozen=True)
class Discovery:
    """Result of `find_formula`.

    Args:
        model: a network that computes the formulas, a symbol on every edge.
        curves: a network of curves: the one whose edges were named or, where a formula was found without one, `model`
            with curves instead of symbols.
        formulas: one for each output.
        train_rmse, test_rmse: of the formulas with all their digits; the latter is NaN without test samples.
        curves_rmse: of `curves`, on the training samples.
        width: of the network that was fitted first, or of `model`.
        seed: of its first coefficients.
        alternatives: for each output, the formulas that no smaller one equals, the smallest first.
        stopped: why the search ended early, or None.

    Examples:
        >>> from kansformer.kan import create_dataset, find_formula
        >>> data = create_dataset(lambda x: torch.exp(x[:, 0]), num_inputs=1, num_train=100)
        >>> result = find_formula(data, variables=["t"], progress=False)
        >>> result.formulas, result.test_rmse < 1e-6
        ([exp(t)], True)
    """

    model: KAN = field(repr=False)
    curves: KAN = field(repr=False)
    formulas: list[sympy.Expr]
    train_rmse: float
    test_rmse: float
    curves_rmse: float
    width: list[int | Sequence[int]]
    seed: int
    alternatives: list[list[Alternative]] = field(default_factory=list)
    stopped: str | None = None

    def __str__(self) -> str:
        from kansformer.kan.rounding import text_of

        shown = "\n".join(f"y_{index + 1} = {text_of(formula)}" for index, formula in enumerate(self.formulas))
        test = "" if math.isnan(self.test_rmse) else f", test {self.test_rmse:.3g}"
        lines = [f"{shown}\nRMSE {self.train_rmse:.3g}{test}; of the curves {self.curves_rmse:.3g}"]
        if self.train_rmse > MUCH_BETTER * self.curves_rmse:
            lines.append(
                f"The curves are {self.train_rmse / self.curves_rmse:.0f} times better than the formula: "
                "predict with `curves`, and read the formula as an approximation."
            )
        if self.stopped:
            lines.append(f"The search ended early: {self.stopped}.")
        return "\n".join(lines)


def find_formula(
    data: Samples,
    *,
    width: Width | None = None,
    library: SymbolLibrary | Sequence[str] | None = None,
    networks: int = 24,
    seconds: float | None = None,
    seed: int = 0,
    variables: Sequence[str] | None = None,
    digits: int | None = 4,
    settings: SearchSettings | None = None,
    progress: bool | Progress = True,
) -> Discovery:
    """Find formulas for samples of functions.

    First come structures: an output, transformed, as a sum of curves of inputs and of their differences, sums, products
    and ratios, with a product of two curves; each is one linear fit, and the best ones are named. Then the output times
    powers of inputs is tried as a function of two of these combinations. Where that is not enough, networks of several
    shapes and seeds are fitted, made sparse and named, simple ones first. The constants of all formulas are fitted to
    the samples and snapped to exact values within their errors; the shortest description of the samples wins (Rissanen,
    1978). Columns may have any units.

    Args:
        data: samples; targets have a column for each output.
        width: of networks, whose outputs are sums, to begin with at once; None tries structures, then several shapes.
        library: functions that may occur, or their names; None is `kansformer.symbolic.SCIENCE_LIBRARY`.
        networks: the maximum number of networks for each output.
        seconds: after which the best formula so far is returned; None sets no limit. Ctrl-C does the same.
        seed: of the first network.
        variables: names of the inputs in the formulas; None is those of a data frame's columns, else x_1, x_2, …
        digits: significant digits of the numbers in the formulas; None keeps all.
        settings: of the search; None for the defaults.
        progress: True shows a bar; a `Progress` is called after every network.

    Returns:
        The best formulas found.

    Raises:
        ConfigError: no network is to be tried, the last layer has products, or the time is not positive.
        ShapeError, DataError: the samples do not fit the network or are not finite.

    Examples:
        >>> from kansformer.kan import create_dataset, find_formula
        >>> data = create_dataset(lambda x: x[:, 0] / x[:, 1], num_inputs=2, num_train=100, ranges=(1, 2))
        >>> find_formula(data, variables=["U", "R"], progress=False).formulas
        [U/R]
    """
    import sympy

    from kansformer.kan.formula_search import FormulaSearch, Shape
    from kansformer.kan.from_formula import kan_from_formula
    from kansformer.kan.rounding import rounded
    from kansformer.symbolic.constants import size, torch_function

    check_integer("networks", networks, 1)
    if digits is not None:
        check_integer("digits", digits, 1)
    if seconds is not None:
        check_number("seconds", seconds, above=0)
    settings = SearchSettings() if settings is None else settings
    dataset = as_dataset(data)
    inputs, outputs = dataset.train_input.shape[1], dataset.train_target.shape[1]
    if width is not None and not isinstance(width[-1], int):
        raise ConfigError(f"The last layer of find_formula's networks has sums only, got {width[-1]!r}.")
    default = (None if variables else column_names(data)) or [f"x_{index + 1}" for index in range(inputs)]
    names = variable_names(variables, default)
    dataset = dataset_for(Shape([inputs, outputs] if width is None else list(width)).build(seed, settings), dataset)
    check_squares(dataset.train_target, "targets")
    for spread in (dataset.train_target - dataset.train_target[:1]).abs().amax(dim=0).tolist():
        if 0 < spread < MIN_SPREAD:
            raise DataError(f"A target varies by {spread:.3g} only, whose square is too small for float64. Scale it.")
    library = library_of(library, SCIENCE_LIBRARY)
    for symbol in library:
        torch_function([sympy.Symbol("z")], symbol.sympy(sympy.Symbol("z")))  # else the search would end in an error
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    searches, stopped = list[FormulaSearch](), None
    try:
        with progress_reporter(progress, "networks", networks, "network") as report:
            for output in range(outputs):
                searches.append(FormulaSearch(dataset, output, names, library, settings, deadline))
                searches[-1].run(width, networks, seed, report)
    except KeyboardInterrupt:
        stopped = "interrupted"
    if stopped is None and any(search.is_out_of_time for search in searches):
        stopped = f"{seconds:g} seconds were over"
    searches += [FormulaSearch(dataset, o, names, library, settings, deadline) for o in range(len(searches), outputs)]
    best = [search.result() for search in searches]
    expressions = [min(e, sympy.powsimp(e), key=size) for e in (fitted.formula.expression() for fitted in best)]
    x, y, test_x, test_y = vars(dataset).values()
    model = kan_from_formula(expressions, variables=names)
    update_grid(model, x, margin=GRID_MARGIN)  # where `model.formula(digits=…)` judges what may be left out
    tried = searches[0].tried if outputs == 1 else None
    curves = searches[0].unscaled(tried) if tried is not None else None
    if curves is None:
        curves = _with_curves(kan_from_formula(expressions, variables=names, grid_size=FINE_GRID), x)
    points, around = (dict(zip(names, p.unbind(dim=-1), strict=True)) for p in (x, points_around(x)))

    def shown(expression: sympy.Expr) -> sympy.Expr:
        return expression if digits is None else rounded(expression, digits, points, around)

    return Discovery(
        model,
        curves,
        [shown(expression) for expression in expressions],
        rmse(model, x, y),
        rmse(model, test_x, test_y) if len(test_x) else float("nan"),
        rmse(curves, x, y),
        list(model.width) if tried is None else tried.shape.width,
        seed if tried is None else tried.seed,
        [[Alternative(shown(f.formula.expression()), f.formula.size(), f.error) for f in s.front()] for s in searches],
        stopped,
    )


def _with_curves(model: KAN, x: Tensor) -> KAN:
    """The network with curves instead of symbols, where these are finite on the samples' range."""
    result, outputs = copy.deepcopy(model), model.predict(x)
    limit = FOLLOWED * float(outputs.std(correction=0))
    for edge in list(model.edges()):
        trial = copy.deepcopy(result)
        try:
            unfix_symbol(trial, edge, x)
        except DataError:
            continue  # a pole at the end of the range
        if rmse(trial, x, outputs) <= limit:
            result = trial
    return result
