"""Tensor functions of curves: the plain definition, the choice of a backend, and the call."""

from kansformer.ops.backend import available_backends, select_backend, set_backend
from kansformer.ops.curves import apply_curves, bend_activation, sum_edges, without_autocast

__all__ = [
    "apply_curves",
    "available_backends",
    "bend_activation",
    "select_backend",
    "set_backend",
    "sum_edges",
    "without_autocast",
]
