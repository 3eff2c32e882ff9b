"""Modules that own curves, and what training needs to know about them."""

from kansformer.nn.activation import LearnedActivation
from kansformer.nn.feedforward import GatedKANFeedForward, KANFeedForward
from kansformer.nn.grid import refine_grid, update_grid
from kansformer.nn.init import spread_curves
from kansformer.nn.linear import KANLinear
from kansformer.nn.optim import optimizer_groups
from kansformer.nn.penalties import smoothness_penalty, sparsity_penalty

__all__ = [
    "GatedKANFeedForward",
    "KANFeedForward",
    "KANLinear",
    "LearnedActivation",
    "optimizer_groups",
    "refine_grid",
    "smoothness_penalty",
    "sparsity_penalty",
    "spread_curves",
    "update_grid",
]
