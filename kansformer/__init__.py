"""Kolmogorov-Arnold feed-forward blocks for Hugging Face transformers: `convert`, train, read, share."""

from typing import TYPE_CHECKING

from kansformer._moved import moved_names
from kansformer.config import KANConfig
from kansformer.conversion import freeze_curves, plan_conversion

# By their module: of its package the documentation takes `convert` for the module of that name.
from kansformer.conversion.convert import convert, is_converted, revert
from kansformer.hub import load_curves, register_loader, save_curves
from kansformer.interp import summarize
from kansformer.nn import (
    GatedKANFeedForward,
    KANFeedForward,
    KANLinear,
    LearnedActivation,
    optimizer_groups,
    refine_grid,
    update_grid,
)
from kansformer.ops import set_backend
from kansformer.version import __version__ as __version__

if TYPE_CHECKING:
    from kansformer.training.trainer import KANTrainer

register_loader()

__all__ = [
    "GatedKANFeedForward",
    "KANConfig",
    "KANFeedForward",
    "KANLinear",
    "KANTrainer",
    "LearnedActivation",
    "convert",
    "freeze_curves",
    "is_converted",
    "load_curves",
    "optimizer_groups",
    "plan_conversion",
    "refine_grid",
    "revert",
    "save_curves",
    "set_backend",
    "summarize",
    "update_grid",
]

_moved = moved_names(
    __name__,
    {
        "KAN": "kansformer.kan.KAN",
        "available_backends": "kansformer.ops.available_backends",
        "create_dataset": "kansformer.kan.create_dataset",
        "edge_curves": "kansformer.interp.edge_curves",
        "edge_scores": "kansformer.interp.edge_scores",
        "find_formula": "kansformer.kan.find_formula",
        "fit": "kansformer.kan.KAN.fit",
        "fit_symbolic": "kansformer.symbolic.fit_symbolic",
        "prune": "kansformer.kan.KAN.prune",
        "record_edges": "kansformer.interp.record_edges",
        "sparsity_penalty": "kansformer.nn.sparsity_penalty",
        "symbolic_formula": "kansformer.kan.KAN.formula",
        "write_report": "kansformer.views.write_report",
    },
    stand_ins="kansformer.fitting",
)


def __getattr__(name: str) -> object:
    """`KANTrainer`, imported once it is asked for since transformers' Trainer takes seconds, and names that moved."""
    if name == "KANTrainer":
        from kansformer.training.trainer import KANTrainer

        return KANTrainer
    return _moved(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
