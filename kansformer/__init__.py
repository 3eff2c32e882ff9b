"""Kolmogorov-Arnold feed-forward blocks for Hugging Face transformers: `convert`, train, read, share."""

from kansformer.config import KANConfig
from kansformer.conversion import convert, is_converted, plan_conversion, revert
from kansformer.hub import load_curves, register_loader, save_curves
from kansformer.interp import edge_curves, edge_scores, record_edges, summarize
from kansformer.kan import KAN, create_dataset, find_formula, fit, fit_symbolic, prune, symbolic_formula
from kansformer.nn import (
    GatedKANFeedForward,
    KANFeedForward,
    KANLinear,
    LearnedActivation,
    optimizer_groups,
    refine_grid,
    sparsity_penalty,
    update_grid,
)
from kansformer.ops import available_backends, set_backend
from kansformer.version import __version__ as __version__
from kansformer.views import write_report

register_loader()

__all__ = [
    "KAN",
    "GatedKANFeedForward",
    "KANConfig",
    "KANFeedForward",
    "KANLinear",
    "LearnedActivation",
    "available_backends",
    "convert",
    "create_dataset",
    "edge_curves",
    "edge_scores",
    "find_formula",
    "fit",
    "fit_symbolic",
    "is_converted",
    "load_curves",
    "optimizer_groups",
    "plan_conversion",
    "prune",
    "record_edges",
    "refine_grid",
    "revert",
    "save_curves",
    "set_backend",
    "sparsity_penalty",
    "summarize",
    "symbolic_formula",
    "update_grid",
    "write_report",
]
