"""Tensor functions of curves: the plain definition, the choice of a backend, and the call."""

from kansformer.ops.backend import available_backends, select_backend, set_backend
from kansformer.ops.curves import Curves
from kansformer.ops.functional import apply_curves, sum_edges

__all__ = ["Curves", "apply_curves", "available_backends", "select_backend", "set_backend", "sum_edges"]
