"""Stand-alone Kolmogorov-Arnold networks: fit, prune, refine, read the formula."""

from typing import TYPE_CHECKING, Any

from kansformer.fitting.compiling import compile_formula
from kansformer.fitting.data import Dataset, create_dataset
from kansformer.fitting.discover import Discovery, find_formula
from kansformer.fitting.equations import Derivatives, Equation, solve_equations
from kansformer.fitting.fit import fit
from kansformer.fitting.network import KAN, Edge
from kansformer.fitting.pruning import NodeScores, PruneResult, node_scores, prune, prune_inputs
from kansformer.fitting.run import FitHistory
from kansformer.fitting.saving import load_kan, save_kan
from kansformer.fitting.symbolic import (
    EdgeFits,
    fit_symbolic,
    fix_symbol,
    suggest_symbols,
    symbolic_formula,
    unfix_symbol,
)

if TYPE_CHECKING:
    from kansformer.fitting.estimators import KANClassifier, KANRegressor

__all__ = [
    "KAN",
    "Dataset",
    "Derivatives",
    "Discovery",
    "Edge",
    "EdgeFits",
    "Equation",
    "FitHistory",
    "KANClassifier",
    "KANRegressor",
    "NodeScores",
    "PruneResult",
    "compile_formula",
    "create_dataset",
    "find_formula",
    "fit",
    "fit_symbolic",
    "fix_symbol",
    "load_kan",
    "node_scores",
    "prune",
    "prune_inputs",
    "save_kan",
    "solve_equations",
    "suggest_symbols",
    "symbolic_formula",
    "unfix_symbol",
]


def __getattr__(name: str) -> Any:
    """The estimators, imported once they are asked for, since scikit-learn is optional."""
    if name not in ("KANClassifier", "KANRegressor"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from kansformer.fitting import estimators
    except ImportError as error:
        raise ImportError(
            f"{name} needs scikit-learn 1.6 or newer. Install it: pip install 'kansformer[sklearn]'."
        ) from error
    return getattr(estimators, name)
