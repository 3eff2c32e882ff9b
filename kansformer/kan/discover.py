"""From a table to a formula: networks of several shapes are fitted, pruned, refined and named until one is exact."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from torch import Tensor

from kansformer.checks import check_integer
from kansformer.errors import ConfigError
from kansformer.kan.data import Samples, Scaling, as_dataset, dataset_for
from kansformer.kan.edge_symbols import LAST_STEPS, SETTLED, name_one_by_one
from kansformer.kan.fitting import fit, rmse
from kansformer.kan.history import few_threads
from kansformer.kan.network import KAN, Width
from kansformer.kan.sparse import SearchSettings, description_length, sparsified
from kansformer.kan.symbolic import fit_symbolic, formula, library_of
from kansformer.nn import refine_grid
from kansformer.progress import Progress, progress_reporter
from kansformer.symbolic import LIBRARY, SCIENCE_LIBRARY, SymbolLibrary

if TYPE_CHECKING:
    import sympy


@dataclass(frozen=True)
class Discovery:
    """Result of `find_formula`.

    Args:
        model: the network, its edges formulas.
        curves: the same network before its edges were named.
        formulas: one for each output.
        train_rmse, test_rmse: of the formulas with all their digits; the latter is NaN without test samples.
        curves_rmse: of the network before, on the training samples.
        width: of the network that was fitted first.
        seed: of its first coefficients.
    """

    model: KAN
    curves: KAN
    formulas: list[sympy.Expr]
    train_rmse: float
    test_rmse: float
    curves_rmse: float
    width: list[int | Sequence[int]]
    seed: int

    def __str__(self) -> str:
        shown = "\n".join(f"y_{index + 1} = {formula}" for index, formula in enumerate(self.formulas))
        test = "" if math.isnan(self.test_rmse) else f", test {self.test_rmse:.3g}"
        return f"{shown}\nRMSE {self.train_rmse:.3g}{test}; of the curves {self.curves_rmse:.3g}"


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
class _Try:
    """A network that was fitted, for scaled columns."""

    curves: KAN
    error: float
    shape: Shape
    seed: int


def find_formula(
    data: Samples,
    *,
    width: Width | None = None,
    library: SymbolLibrary | Sequence[str] | None = None,
    networks: int = 24,
    seed: int = 0,
    variables: Sequence[str] | None = None,
    digits: int | None = 4,
    settings: SearchSettings | None = None,
    progress: bool | Progress = True,
) -> Discovery:
    """Find formulas for samples of functions.

    A sparse network is fitted and pruned, fitted again on finer grids, its edges are named, all at once or else one by
    one, and the numbers in the formulas fitted to the last digit. Networks of other shapes and seeds are tried until a
    formula is exact, simple ones first. Columns may have any units.

    Args:
        data: samples; targets have a column for each output.
        width: of the networks, whose outputs are sums; None tries several shapes, with product nodes and without.
        library: functions that may occur, or their names; None is `kansformer.symbolic.SCIENCE_LIBRARY`.
        networks: the maximum number of networks.
        seed: of the first one.
        variables: names of the inputs in the formulas; None is x_1, x_2, …
        digits: significant digits of the numbers in the formulas; None keeps all.
        settings: of the search; None for the defaults.
        progress: True shows a bar; a `Progress` is called after every network.

    Returns:
        The best of the networks tried.

    Raises:
        ConfigError: no network is to be tried, or the last layer has products.
        ShapeError, DataError: the samples do not fit the network or are not finite.
    """
    check_integer("networks", networks, 1)
    settings = SearchSettings() if settings is None else settings
    dataset = as_dataset(data)
    inputs, outputs = dataset.train_input.shape[1], dataset.train_target.shape[1]
    shapes = shapes_for(inputs, outputs) if width is None else [Shape(list(width))]
    samples = len(dataset.train_input)
    shapes = [shape for shape in shapes if settings.samples_per_number * shape.size(settings) <= samples] or shapes[:1]
    if not isinstance(shapes[0].width[-1], int):
        raise ConfigError(f"The last layer of find_formula's networks has sums only, got {shapes[0].width[-1]!r}.")
    dataset = dataset_for(shapes[0].build(seed, settings), dataset)
    scaling = Scaling.of(dataset)
    scaled = scaling.apply(dataset)
    search = _Search(scaled.train_input, scaled.train_target, library_of(library, SCIENCE_LIBRARY), settings)
    with progress_reporter(progress, "networks", networks, "network") as report:
        for number in range(networks):
            search.run(shapes[number % len(shapes)], seed + number // len(shapes))
            if (number + 1) % len(shapes) == 0 or number == networks - 1:
                search.name_the_best()
            report("networks", number + 1, networks, f"RMSE {search.best_error:.2e}")
            if search.ended():
                break
    assert search.best is not None
    model, best = search.best
    if search.best_error <= settings.exact:
        fit(model, scaled, steps=settings.polish_steps, grid_update_every=0, tolerance=0.0, progress=False)
    curves = copy.deepcopy(best.curves)
    for network in (model, curves):
        scaling.undo(network)
    x, y, test_x, test_y = vars(dataset).values()
    return Discovery(
        model,
        curves,
        formula(model, variables=variables, digits=digits),
        rmse(model, x, y),
        rmse(model, test_x, test_y) if len(test_x) else float("nan"),
        rmse(curves, x, y),
        best.shape.width,
        best.seed,
    )


def shapes_for(inputs: int, outputs: int) -> list[Shape]:
    """The shapes that `find_formula` tries by default, simple networks first."""
    if inputs == 1:
        return [Shape([1, *hidden, outputs]) for hidden in ([], [1], [2], [[2, 1]])]
    shapes: list[tuple[list[int | list[int]], bool]] = [
        ([], False), ([[0, 1]], True), ([1], False), ([[1, 1]], True), ([[0, 1]], False), ([2], False),
        ([[1, 1], [0, 1]], True), ([2, [0, 1]], True), ([[1, 1]], False), ([5], False), ([2, [1, 1]], True),
        ([[3, 2]], False),
    ]  # fmt: skip
    return [Shape([inputs, *hidden, outputs], linear_products) for hidden, linear_products in shapes]


class _Search:
    """The networks that were tried, and the best formula among them; errors are relative to the targets."""

    def __init__(self, x: Tensor, y: Tensor, library: SymbolLibrary, settings: SearchSettings) -> None:
        self.x, self.y, self.library, self.settings = x, y, library, settings
        self.best: tuple[KAN, _Try] | None = None
        self.best_error = self.best_length = self.min_error = float("inf")
        self.unnamed: list[_Try] = []
        self._since = 0

    def run(self, shape: Shape, seed: int) -> None:
        """Try one more network."""
        self._since += 1
        model = shape.build(seed, self.settings)
        with few_threads(self.x.numel() * sum(p.numel() for p in model.parameters())):
            tried = _Try(*self._grow(model), shape, seed)
            self.min_error = min(self.min_error, tried.error)
            if tried.error <= self.settings.close:
                self._name(tried)
            else:
                self.unnamed.append(tried)

    def ended(self) -> bool:
        """Whether another network is not expected to help."""
        settings = self.settings
        is_noisy = self.min_error > settings.max_error
        return self.best_error <= settings.exact or (is_noisy and self._since >= settings.patience)

    def name_the_best(self) -> None:
        """Name the best of the curves that are not named yet."""
        self.unnamed.sort(key=lambda tried: tried.error)
        for tried in self.unnamed[: self.settings.named_later]:
            if self.best_error > self.settings.exact:
                self._name(tried)
        self.unnamed = self.unnamed[self.settings.named_later :]

    def _grow(self, model: KAN) -> tuple[KAN, float]:
        """A network with curves on as fine a grid as the samples call for, and its RMSE."""
        x, y, settings = self.x, self.y, self.settings
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

    def _name(self, tried: _Try) -> None:
        settings = self.settings
        noise = min((settings.noise_factor * tried.error) ** 2, settings.max_noise)
        model = copy.deepcopy(tried.curves)
        fit_symbolic(model, self.x, library=self.library, noise=noise)
        fit(model, (self.x, self.y), steps=LAST_STEPS, grid_update_every=0, tolerance=SETTLED, progress=False)
        self._keep(model, tried)
        is_small = len(list(tried.curves.edges())) <= settings.max_edges
        if self.best_error > settings.exact and is_small and tried.error < settings.max_error:
            named = name_one_by_one(tried.curves, self.x, self.y, library=self.library, noise=noise)
            if named is not None:
                self._keep(named, tried)

    def _keep(self, model: KAN, tried: _Try) -> None:
        """Record a formula if it is the best so far."""
        error = rmse(model, self.x, self.y)
        symbols = [symbol for formulas in model.formulas for symbol in formulas.symbols]
        numbers = sum(1 + symbol.fit_scale + symbol.fit_shift for symbol in symbols)
        length = description_length(error, numbers, len(self.y))
        if self.best is None or length < self.best_length:
            self._since = 0
            self.best, self.best_error, self.best_length = (model, tried), error, length
