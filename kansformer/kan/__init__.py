"""Stand-alone Kolmogorov-Arnold networks: fit, prune, refine, read the formula."""

from typing import TYPE_CHECKING, Any

from kansformer.kan.data import Dataset, create_dataset
from kansformer.kan.discover import Discovery, find_formula
from kansformer.kan.equations import Derivatives, Equation, solve_equations
from kansformer.kan.fit import fit
from kansformer.kan.from_formula import kan_from_formula
from kansformer.kan.history import FitHistory
from kansformer.kan.network import KAN, Edge
from kansformer.kan.pruning import NodeScores, PruneResult, node_scores, prune, prune_inputs
from kansformer.kan.saving import load_kan, save_kan
from kansformer.kan.symbolic import (
    EdgeFits,
    fit_symbolic,
    fix_symbol,
    suggest_symbols,
    symbolic_formula,
    unfix_symbol,
)

if TYPE_CHECKING:
    from kansformer.kan.estimators import KANClassifier, KANRegressor

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
    "create_dataset",
    "find_formula",
    "fit",
    "fit_symbolic",
    "fix_symbol",
    "kan_from_formula",
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
        from kansformer.kan import estimators
    except ImportError as error:
        raise ImportError(
            f"{name} needs scikit-learn 1.6 or newer. Install it: pip install 'kansformer[sklearn]'."
        ) from error
    return getattr(estimators, name)
