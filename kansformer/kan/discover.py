"""From a table to a formula: networks of several shapes are fitted, pruned, refined and named until one is exact."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kansformer.errors import ConfigError
from kansformer.kan.data import Dataset
from kansformer.kan.edge_symbols import LAST_STEPS, SETTLED, name_one_by_one
from kansformer.kan.fit import as_dataset, fit, rmse
from kansformer.kan.network import KAN
from kansformer.kan.pruning import prune
from kansformer.kan.scaling import Scaling
from kansformer.kan.single_paths import straighten_chains
from kansformer.kan.symbolic import fit_symbolic, symbolic_formula
from kansformer.kan.threads import few_threads
from kansformer.nn import refine_grid
from kansformer.symbolic import LIBRARY, SCIENCE_LIBRARY, SymbolLibrary

if TYPE_CHECKING:
    import sympy

SPARSITY = 6e-3
SPARSE_STEPS, STEPS, FINE_STEPS = (40, 15), 10, 15
START_GRID, START_ORDER, FINE_GRIDS = 5, 3, (10, 20)
# An edge may be off by the error of the whole network, relative to the targets, times this; no more than the share.
NOISE, MOST_NOISE = 3.0, 0.05
# RMSE of a formula that is the function itself, relative to the targets' standard deviation.
EXACT, ROUNDING = 1e-8, 1e-16
# Curves with an error up to this are named at once, others when all shapes had their turn, the best few of them.
CLOSE, FEW = 1e-4, 2
POLISHING = 100
# Curves on a finer grid follow a function much more closely, and noise only a little: then the coarser grid stays.
FOLLOWS = 0.5
# A network needs so many samples for each of its numbers.
SAMPLES_PER_NUMBER = 2
# Edges are named one by one in networks up to this size, whose curves are as close as this.
MOST_EDGES, WORTHWHILE = 16, 1e-2
# Shares of the outputs' variation that edges must have, tried on curves that do not follow the samples closely.
SPARSER = (0.05, 0.1, 0.2, 0.4)
# The search among samples with noise ends when so many more networks gave no better formula.
PATIENCE = 12


@dataclass(frozen=True)
class Discovery:
    """What `find_formula` found.

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
    width: list[Any]
    seed: int

    def __str__(self) -> str:
        shown = "\n".join(f"y_{index + 1} = {formula}" for index, formula in enumerate(self.formulas))
        test = "" if self.test_rmse != self.test_rmse else f", test {self.test_rmse:.3g}"
        return f"{shown}\nRMSE {self.train_rmse:.3g}{test}; of the curves {self.curves_rmse:.3g}"


@dataclass(frozen=True)
class Shape:
    """A network to try.

    Args:
        width: its nodes.
        linear_products: what leaves the last hidden layer's product nodes is a line, so that curves behind a product
            do not bend what the product's own curves could bend.
    """

    width: list[Any]
    linear_products: bool = False

    def numbers(self) -> int:
        """How many numbers of curves a fit begins with."""
        return sum(int(edges.sum()) for edges in self.build(0).alive) * (START_GRID + START_ORDER)

    def build(self, seed: int) -> KAN:
        """The network, without bases, so that its inputs can be scaled."""
        model = KAN(self.width, grid_size=START_GRID, order=START_ORDER, base="zero", seed=seed)
        plain, products = model.width[-2]
        if self.linear_products and products:
            last = model.layers[-1]
            for node in range(plain, plain + products):
                last.coefficients.data[node] = 0
                for o in range(last.out_features):
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
    data: Dataset | tuple[Tensor, Tensor],
    *,
    width: Sequence[Any] | None = None,
    library: SymbolLibrary | None = None,
    networks: int = 24,
    first_seed: int = 0,
    sparsity: float = SPARSITY,
    variables: Sequence[str] | None = None,
    digits: int | None = 4,
    progress: bool = True,
) -> Discovery:
    """Find formulas for samples of functions.

    A sparse network is fitted and pruned, fitted again on finer grids, its edges are named, all at once or else one by
    one, and the numbers in the formulas fitted to the last digit. Networks of other shapes and seeds are tried until a
    formula is exact, simple ones first. Columns may have any units.

    Args:
        data: samples; targets have a column for each output.
        width: of the networks, whose outputs are sums; None tries several shapes, with product nodes and without.
        library: functions that may occur; None is `kansformer.symbolic.SCIENCE_LIBRARY`.
        networks: how many are tried at most.
        first_seed: of the first one.
        sparsity: weight of the edges' sizes in the first fit.
        variables: names of the inputs in the formulas; None is x_1, x_2, …
        digits: significant digits of the numbers in the formulas; None keeps all.
        progress: show a bar.

    Returns:
        The best of what was tried.

    Raises:
        ConfigError: no network is to be tried, or the last layer has products.
        ShapeError, DataError: the samples do not fit the network or are not finite.
    """
    from tqdm import tqdm

    if networks < 1:
        raise ConfigError(f"networks must be 1 or more, got {networks}.")
    library = SCIENCE_LIBRARY if library is None else library
    inputs, outputs = _shape_of(data)
    shapes = shapes_for(inputs, outputs) if width is None else [Shape(list(width))]
    samples = len(data.train_input if isinstance(data, Dataset) else data[0])
    shapes = [shape for shape in shapes if SAMPLES_PER_NUMBER * shape.numbers() <= samples] or shapes[:1]
    if not isinstance(shapes[0].width[-1], int):
        raise ConfigError(f"The last layer of find_formula's networks has sums only, got {shapes[0].width[-1]!r}.")
    data = as_dataset(shapes[0].build(first_seed), data)
    scaling = Scaling.of(data)
    scaled = scaling.apply(data)
    search = _Search(scaled.train_input, scaled.train_target, library, sparsity)
    with tqdm(total=networks, desc="networks", unit="network", disable=None if progress else True) as bar:
        for number in range(networks):
            shape = shapes[number % len(shapes)]
            search.run(shape, first_seed + number // len(shapes))
            if (number + 1) % len(shapes) == 0 or number == networks - 1:
                search.name_the_best()
            bar.update()
            bar.set_postfix_str(f"RMSE {search.best_error:.2e}")
            if search.ended():
                break
    assert search.best is not None
    model, found = search.best
    if search.best_error <= EXACT:
        fit(model, scaled, steps=POLISHING, grid_update_every=0, tolerance=0.0, progress=False)
    curves = copy.deepcopy(found.curves)
    for network in (model, curves):
        scaling.undo(network)
    x, y, test_x, test_y = vars(data).values()
    return Discovery(
        model,
        curves,
        symbolic_formula(model, variables=variables, digits=digits),
        rmse(model, x, y),
        rmse(model, test_x, test_y) if len(test_x) else float("nan"),
        rmse(curves, x, y),
        found.shape.width,
        found.seed,
    )


def shapes_for(inputs: int, outputs: int) -> list[Shape]:
    """What `find_formula` tries by itself, simple networks first."""
    if inputs == 1:
        return [Shape([1, outputs]), Shape([1, 1, outputs]), Shape([1, 2, outputs]), Shape([1, [2, 1], outputs])]
    return [
        Shape([inputs, outputs]),
        Shape([inputs, [0, 1], outputs], linear_products=True),
        Shape([inputs, 1, outputs]),
        Shape([inputs, [1, 1], outputs], linear_products=True),
        Shape([inputs, [0, 1], outputs]),
        Shape([inputs, 2, outputs]),
        Shape([inputs, [1, 1], [0, 1], outputs], linear_products=True),
        Shape([inputs, 2, [0, 1], outputs], linear_products=True),
        Shape([inputs, [1, 1], outputs]),
        Shape([inputs, 5, outputs]),
        Shape([inputs, 2, [1, 1], outputs], linear_products=True),
        Shape([inputs, [3, 2], outputs]),
    ]


class _Search:
    """The networks that were tried, and the best formula among them; errors are relative to the targets."""

    def __init__(self, x: Tensor, y: Tensor, library: SymbolLibrary, sparsity: float) -> None:
        self.x, self.y, self.library, self.sparsity = x, y, library, sparsity
        self.best: tuple[KAN, _Try] | None = None
        self.best_error = self.best_length = self.lowest = float("inf")
        self.unnamed: list[_Try] = []
        self._since = 0

    def run(self, shape: Shape, seed: int) -> None:
        """Try one more network."""
        self._since += 1
        model = shape.build(seed)
        with few_threads(self.x.numel() * sum(p.numel() for p in model.parameters())):
            tried = _Try(*grow(model, self.x, self.y, self.sparsity), shape, seed)
            self.lowest = min(self.lowest, tried.error)
            if tried.error <= CLOSE:
                self._name(tried)
            else:
                self.unnamed.append(tried)

    def ended(self) -> bool:
        """Whether nothing is gained by another network."""
        return self.best_error <= EXACT or (self.lowest > WORTHWHILE and self._since >= PATIENCE)

    def name_the_best(self) -> None:
        """Name the best of the curves that were not."""
        self.unnamed.sort(key=lambda tried: tried.error)
        for tried in self.unnamed[:FEW]:
            if self.best_error > EXACT:
                self._name(tried)
        self.unnamed = self.unnamed[FEW:]

    def _name(self, tried: _Try) -> None:
        noise = min((NOISE * tried.error) ** 2, MOST_NOISE)
        model = copy.deepcopy(tried.curves)
        fit_symbolic(model, self.x, library=self.library, noise=noise)
        fit(model, (self.x, self.y), steps=LAST_STEPS, grid_update_every=0, tolerance=SETTLED, progress=False)
        self._keep(model, tried)
        few = len(list(tried.curves.edges())) <= MOST_EDGES
        if self.best_error > EXACT and few and tried.error < WORTHWHILE:
            named = name_one_by_one(tried.curves, self.x, self.y, library=self.library, noise=noise)
            if named is not None:
                self._keep(named, tried)

    def _keep(self, model: KAN, tried: _Try) -> None:
        error = rmse(model, self.x, self.y)
        symbols = [symbol for formulas in model.formulas for symbol in formulas.symbols]
        numbers = sum(1 + symbol.fit_scale + symbol.fit_shift for symbol in symbols)
        length = description_length(error, numbers, len(self.y))
        if self.best is None or length < self.best_length:
            self._since = 0
            self.best, self.best_error, self.best_length = (model, tried), error, length


def description_length(error: float, numbers: int, samples: int) -> float:
    """Nats that samples take, told by a model with this error and so many fitted numbers (Rissanen, 1978)."""
    if math.isnan(error):
        return float("inf")
    return samples * math.log(max(error, ROUNDING)) + numbers / 2 * math.log(samples)


def grow(model: KAN, x: Tensor, y: Tensor, sparsity: float) -> tuple[KAN, float]:
    """A network with curves on as fine a grid as the samples call for, from its first coefficients; and its RMSE."""
    quiet: dict[str, Any] = {"progress": False}
    for steps in SPARSE_STEPS:
        fit(model, (x, y), steps=steps, sparsity=sparsity, **quiet)
        prune(model, x, y)
        straighten_chains(model, x)
    fit(model, (x, y), steps=STEPS, tolerance=SETTLED, **quiet)
    error = rmse(model, x, y)
    if error > WORTHWHILE:
        model, error = _sparsest(model, x, y, error)
    for grid_size in FINE_GRIDS:
        finer = copy.deepcopy(model)
        refine_grid(finer, grid_size)
        fit(finer, (x, y), steps=FINE_STEPS, grid_update_every=0, tolerance=SETTLED, **quiet)
        finer_error = rmse(finer, x, y)
        if finer_error > FOLLOWS * error:
            break
        model, error = finer, finer_error
    return model, error


def _sparsest(model: KAN, x: Tensor, y: Tensor, error: float) -> tuple[KAN, float]:
    """Of a network and ones with fewer and fewer edges, that with the shortest description; and its RMSE."""

    def length_of(model: KAN, error: float) -> float:
        numbers = sum(int(model.curved(index).sum()) for index in range(len(model.layers)))
        return description_length(error, numbers * (START_GRID + START_ORDER), len(y))

    best = (length_of(model, error), model, error)
    for threshold in SPARSER:
        model = copy.deepcopy(model)
        if not prune(model, x, threshold=threshold).removed:
            continue
        fit(model, (x, y), steps=STEPS, tolerance=SETTLED, progress=False)
        error = rmse(model, x, y)
        best = min(best, (length_of(model, error), model, error), key=lambda found: found[0])
    return best[1:]


def _shape_of(data: Any) -> tuple[int, int]:
    x, y = (data.train_input, data.train_target) if isinstance(data, Dataset) else data
    return x.shape[-1], y.shape[-1] if torch.as_tensor(y).ndim > 1 else 1
