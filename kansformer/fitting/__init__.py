"""Stand-alone Kolmogorov-Arnold networks: fit, prune, refine, read the formula."""

from kansformer.fitting.data import Dataset, create_dataset
from kansformer.fitting.discover import Discovery, find_formula
from kansformer.fitting.fit import FitHistory, fit
from kansformer.fitting.network import KAN, Edge
from kansformer.fitting.pruning import NodeScores, PruneResult, node_scores, prune, prune_inputs
from kansformer.fitting.saving import load_kan, save_kan
from kansformer.fitting.symbolic import (
    EdgeFits,
    fit_symbolic,
    fix_symbol,
    suggest_symbols,
    symbolic_formula,
    unfix_symbol,
)

__all__ = [
    "KAN",
    "Dataset",
    "Discovery",
    "Edge",
    "EdgeFits",
    "FitHistory",
    "NodeScores",
    "PruneResult",
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
    "suggest_symbols",
    "symbolic_formula",
    "unfix_symbol",
]
