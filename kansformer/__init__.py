"""Kolmogorov-Arnold feed-forward blocks for Hugging Face transformers: `convert`, train, read, share."""

from kansformer.config import KANConfig
from kansformer.conversion import convert, is_converted, plan_conversion, revert
from kansformer.hub import register_loader
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
from kansformer.training.trainer_groups import register_groups
from kansformer.version import __version__ as __version__

register_loader()
register_groups()

__all__ = [
    "GatedKANFeedForward",
    "KANConfig",
    "KANFeedForward",
    "KANLinear",
    "LearnedActivation",
    "available_backends",
    "convert",
    "is_converted",
    "optimizer_groups",
    "plan_conversion",
    "refine_grid",
    "revert",
    "set_backend",
    "sparsity_penalty",
    "update_grid",
]
