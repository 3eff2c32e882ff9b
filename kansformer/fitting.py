"""Stand-alone networks have moved to `kansformer.kan`; the names and functions of this package work for one release."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch import Tensor

import kansformer.kan as kan
import kansformer.symbolic as symbolic
from kansformer._moved import moved_names
from kansformer.errors import ConfigError, ShapeError
from kansformer.kan.data import Samples, Table

P = ParamSpec("P")
R = TypeVar("R")

METHODS = {
    "fit": "fit", "fit_symbolic": "fit_symbolic", "fix_symbol": "fix_symbol", "load_kan": "load",
    "node_scores": "node_scores", "prune": "prune", "prune_inputs": "prune_inputs", "save_kan": "save",
    "suggest_symbols": "suggest_symbols", "symbolic_formula": "formula", "unfix_symbol": "unfix_symbol",
}  # fmt: skip
"""Functions that became methods of `KAN`."""

NAMES = (
    "KAN", "Dataset", "Derivatives", "Discovery", "Edge", "EdgeFits", "Equation", "FitHistory", "KANClassifier",
    "KANRegressor", "NodeScores", "create_dataset", "find_formula", "solve_equations",
)  # fmt: skip


def _renamed(function: Callable[P, R], **new_names: str) -> Callable[..., R]:
    """The function, called with the old names of some arguments."""

    @functools.wraps(function)
    def with_old_names(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **{new_names.get(name, name): value for name, value in kwargs.items()})  # type: ignore[arg-type]

    return with_old_names


def _prune(model: kan.KAN, x: Table, y: Table | None = None, *, threshold: float = 0.03) -> kan.PruneReport:
    if not isinstance(model, kan.KAN):
        raise ConfigError("prune takes a KAN. For a converted model use kansformer.interp.prune(model, scores, …).")
    return model.prune(x if y is None else (x, y), threshold=threshold)


def _fit_symbolic(
    model: kan.KAN | Tensor, x: Tensor | None = None, **settings: object
) -> kan.EdgeFits | symbolic.SymbolicFits:
    if isinstance(model, kan.KAN):
        settings.pop("refined", None)
        return model.fit_symbolic(x, **settings)  # type: ignore[arg-type]
    if x is None:
        raise ShapeError("fit_symbolic takes a KAN, or two tables: points and values of curves.")
    return symbolic.fit_symbolic(model, x, **settings)  # type: ignore[arg-type]


def _find_formula(data: Samples, *, first_seed: int = 0, sparsity: float = 6e-3, **settings: object) -> kan.Discovery:
    search = kan.SearchSettings(sparsity=sparsity)
    return kan.find_formula(data, seed=first_seed, settings=search, **settings)  # type: ignore[arg-type]


STAND_INS = {
    "find_formula": _find_formula,
    "fit": _renamed(kan.KAN.fit, learning_rate="lr"),
    "fit_symbolic": _fit_symbolic,
    "fix_symbol": _renamed(kan.KAN.fix_symbol, x="data"),
    "node_scores": _renamed(kan.KAN.node_scores, x="data"),
    "plot_edge": _renamed(kan.KAN.plot_edge, x="data"),
    "plot_kan": _renamed(kan.KAN.plot, x="data", inputs="variables"),
    "prune": _prune,
    "prune_inputs": _renamed(kan.KAN.prune_inputs, x="data"),
    "suggest_symbols": _renamed(kan.KAN.suggest_symbols, x="data"),
    "unfix_symbol": _renamed(kan.KAN.unfix_symbol, x="data"),
}

__getattr__ = moved_names(
    __name__,
    {
        **{name: f"kansformer.kan.{name}" for name in NAMES},
        **{name: f"kansformer.kan.KAN.{method}" for name, method in METHODS.items()},
        "PruneResult": "kansformer.kan.PruneReport",
        "compile_formula": "kansformer.kan.kan_from_formula",
    },
    stand_ins=__name__,
)
