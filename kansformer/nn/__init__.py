"""Modules that own curves, and what training needs to know about them."""

from kansformer.nn.activation import LearnedActivation
from kansformer.nn.feedforward import GatedKANFeedForward, KANFeedForward
from kansformer.nn.grid import refine_grid, update_grid
from kansformer.nn.linear import KANLinear
from kansformer.nn.optim import optimizer_groups

__all__ = [
    "GatedKANFeedForward",
    "KANFeedForward",
    "KANLinear",
    "LearnedActivation",
    "optimizer_groups",
    "refine_grid",
    "update_grid",
]
