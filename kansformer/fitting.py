"""Old names of `kansformer.kan`, which work for one release; functions among them take their old arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor

import kansformer.kan as kan
import kansformer.symbolic as symbolic
from kansformer._moved import moved_names
from kansformer.errors import ConfigError, ShapeError
from kansformer.kan.data import Samples, Table

NAMES = (
    "KAN Dataset Derivatives Discovery Edge EdgeFits Equation FitHistory KANClassifier KANRegressor NodeScores "
    "create_dataset find_formula solve_equations"
)
METHODS = "fit fit_symbolic fix_symbol node_scores prune prune_inputs suggest_symbols unfix_symbol"
NEW_NAMES = {
    **{name: name for name in NAMES.split()}, **{name: f"KAN.{name}" for name in METHODS.split()},
    "PruneResult": "PruneReport", "compile_formula": "kan_from_formula", "load_kan": "KAN.load", "save_kan": "KAN.save",
    "symbolic_formula": "KAN.formula",
}  # fmt: skip
NEW_ARGUMENTS = {"learning_rate": "lr", "x": "data", "inputs": "variables", "first_seed": "seed"}


def _with_old_arguments(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def renamed(*args: object, **kwargs: object) -> object:
        return function(*args, **{NEW_ARGUMENTS.get(name, name): value for name, value in kwargs.items()})

    return renamed


def _prune(model: kan.KAN, x: Table, y: Table | None = None, *, threshold: float = 0.03) -> kan.PruneReport:
    if not isinstance(model, kan.KAN):
        raise ConfigError("prune takes a KAN. For a converted model use kansformer.interp.prune(model, scores, …).")
    return model.prune(x if y is None else (x, y), threshold=threshold)


def _fit_symbolic(model: kan.KAN | Tensor, x: Tensor | None = None, **settings: object) -> object:
    if isinstance(model, kan.KAN):
        settings.pop("refined", None)
        return model.fit_symbolic(x, **settings)  # type: ignore[arg-type]
    if x is None:
        raise ShapeError("fit_symbolic takes a KAN, or two tables: points and values of curves.")
    return symbolic.fit_symbolic(model, x, **settings)  # type: ignore[arg-type]


def _find_formula(data: Samples, *, sparsity: float = 6e-3, **settings: object) -> object:
    return _with_old_arguments(kan.find_formula)(data, settings=kan.SearchSettings(sparsity=sparsity), **settings)


STAND_INS = {
    **{name: _with_old_arguments(getattr(kan.KAN, name)) for name in (*METHODS.split(), "plot_edge")},
    "plot_kan": _with_old_arguments(kan.KAN.plot),
    "prune": _prune, "fit_symbolic": _fit_symbolic, "find_formula": _find_formula,
}  # fmt: skip

__getattr__ = moved_names(
    __name__, {old: f"kansformer.kan.{new}" for old, new in NEW_NAMES.items()}, stand_ins=__name__
)
