"""Triton kernels of kansformer, as a Hub kernel that stands alone: it imports torch and triton, never kansformer.

`definition` holds what both operations compute, in plain PyTorch.
"""

from . import definition, layers
from .activation import learned_activation
from .edges import sum_edges
from .exact_bases import is_exact

__version__ = "0.1.0"
__all__ = ["definition", "is_exact", "layers", "learned_activation", "sum_edges"]
