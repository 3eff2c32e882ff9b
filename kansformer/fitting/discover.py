"""From a table to a formula: sparse fit, pruning, refined grids, names, exact numbers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kansformer.errors import ConfigError
from kansformer.fitting.chains import straighten_chains
from kansformer.fitting.data import Dataset
from kansformer.fitting.fit import as_dataset, few_threads, fit, rmse
from kansformer.fitting.network import KAN
from kansformer.fitting.pruning import prune
from kansformer.fitting.symbolic import fit_symbolic, symbolic_formula
from kansformer.nn import refine_grid
from kansformer.symbolic import LIBRARY, SymbolLibrary

if TYPE_CHECKING:
    import sympy

SPARSITY = 3e-3
FINE_GRIDS = (10, 20)
# An edge may be off by the error of the whole network, relative to the targets, times this; no more than the share.
NOISE, MOST_NOISE = 3.0, 1e-3
# RMSE of a formula that is the function itself, relative to the targets' standard deviation.
EXACT = 1e-8
HIDDEN = 5
SPARSE_STEPS = (40, 20)
# Fits on the way end when four steps improve the error by less than this share.
SETTLED = 1e-2


@dataclass(frozen=True)
class Discovery:
    """What `find_formula` found.

    Args:
        model: the network, its edges formulas.
        curves: the same network before its edges were named.
        formulas: one for each output.
        train_rmse, test_rmse: of the formulas; the latter is NaN without test samples.
        curves_rmse: of the network before, on the training samples.
        seed: of the network that gave them.
    """

    model: KAN
    curves: KAN
    formulas: list[sympy.Expr]
    train_rmse: float
    test_rmse: float
    curves_rmse: float
    seed: int

    def __str__(self) -> str:
        shown = "\n".join(f"y_{index + 1} = {formula}" for index, formula in enumerate(self.formulas))
        test = "" if self.test_rmse != self.test_rmse else f", test {self.test_rmse:.3g}"
        return f"{shown}\nRMSE {self.train_rmse:.3g}{test}; of the curves {self.curves_rmse:.3g}"


def find_formula(
    data: Dataset | tuple[Tensor, Tensor],
    *,
    width: list[Any] | None = None,
    library: SymbolLibrary | None = None,
    seeds: int = 5,
    first_seed: int = 0,
    sparsity: float = SPARSITY,
    variables: list[str] | None = None,
    digits: int | None = 4,
    progress: bool = True,
) -> Discovery:
    """Find formulas for samples of functions.

    A sparse network is fitted and pruned, fitted again on a finer grid, its edges are named, and the numbers in the
    formulas fitted to the last digit. Networks from other seeds are tried until a formula is exact.

    Args:
        data: samples; targets have a column for each output.
        width: of the network; None is one hidden layer of 5 nodes.
        library: functions that may occur; None is all of `LIBRARY`.
        seeds: how many networks are tried at most.
        first_seed: of the first one.
        sparsity: weight of the edges' sizes in the first fit.
        variables: names of the inputs in the formulas; None is x_1, x_2, …
        digits: significant digits of the numbers in the formulas; None keeps all.
        progress: show a bar.

    Returns:
        The best of what was tried.

    Raises:
        ConfigError: no seed is to be tried.
        ShapeError, DataError: the samples do not fit the network or are not finite.
    """
    if seeds < 1:
        raise ConfigError(f"seeds must be 1 or more, got {seeds}.")
    from tqdm import tqdm

    best: tuple[float, Any] | None = None
    bar = tqdm(total=seeds, desc="networks", unit="network", disable=None if progress else True)
    for seed in range(first_seed, first_seed + seeds):
        inputs, outputs = _shape_of(data)
        model = KAN([inputs, HIDDEN, outputs] if width is None else width, seed=seed)
        dataset = as_dataset(model, data)
        x, y = dataset.train_input, dataset.train_target
        with few_threads(x.numel() * sum(p.numel() for p in model.parameters())):
            curves = _named(model, dataset, LIBRARY if library is None else library, sparsity)
        error = rmse(model, x, y)
        error = error if error == error else float("inf")
        bar.update()
        bar.set_postfix_str(f"RMSE {error:.2e}")
        if best is None or error < best[0]:
            best = (error, (model, curves, seed))
        if error <= EXACT * y.std().item():
            break
    bar.close()
    assert best is not None
    error, (model, curves, seed) = best
    test = rmse(model, dataset.test_input, dataset.test_target) if len(dataset.test_input) else float("nan")
    formulas = symbolic_formula(model, variables=variables, digits=digits)
    return Discovery(model, curves, formulas, error, test, rmse(curves, x, y), seed)


def _named(model: KAN, data: Dataset, library: SymbolLibrary, sparsity: float) -> KAN:
    """Take a network all the way, in place; what it was before its edges were named."""
    quiet: dict[str, Any] = {"progress": False}
    x, y = samples = data.train_input, data.train_target
    for steps in SPARSE_STEPS:
        fit(model, samples, steps=steps, sparsity=sparsity, **quiet)
        prune(model, x, y)
        straighten_chains(model, x)
    fit(model, samples, steps=20, tolerance=SETTLED, **quiet)
    for grid_size in FINE_GRIDS:
        refine_grid(model, grid_size)
        fit(model, samples, steps=25, grid_update_every=0, tolerance=SETTLED, **quiet)
    curves = copy.deepcopy(model)
    noise = (NOISE * rmse(model, x, y) / y.std().item()) ** 2
    fit_symbolic(model, x, library=library, noise=min(noise, MOST_NOISE))
    fit(model, samples, steps=60, grid_update_every=0, tolerance=SETTLED, **quiet)
    return curves


def _shape_of(data: Any) -> tuple[int, int]:
    x, y = (data.train_input, data.train_target) if isinstance(data, Dataset) else data
    return x.shape[-1], y.shape[-1] if torch.as_tensor(y).ndim > 1 else 1
