"""In which dtype a backend computes: float32, float64 for float64 inputs, whatever the tensors are stored in.

Shape letters: N tokens, I inputs, O outputs, C coefficients, D denominator parameters, P curves.
"""

from collections.abc import Callable
from functools import wraps

import torch
from einops import repeat
from torch import Tensor

from kansformer.basis import Basis
from kansformer.ops.activation import KnownActivation


def compute_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64 inputs, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def add_curve(base: Tensor, curve: Tensor) -> Tensor:
    """base + curve, summed in the curve's float32 or float64 and rounded once to the base's dtype.

    Where the curve is zero the result is the base, bit for bit (a negative zero becomes a positive one).
    """
    return (base.to(curve.dtype) + curve).to(base.dtype)


def widened_curves(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a function that computes curves in one dtype take tensors of any dtype, and groups of channels.

    Args:
        function: (x_NI, coefficients_IC, denominator_ID, domain_I2, basis, base_NI, factor_NI) to (N, I), everything
            in one dtype.

    Returns:
        The same for mixed dtypes and P curves; the result has the base's dtype, or the dtype of the computation. A
        `KnownActivation` as the base reaches the function only if everything has one dtype.
    """

    @wraps(function)
    def call(
        x_NI: Tensor,
        coefficients_PC: Tensor,
        denominator_PD: Tensor | None,
        domain_P2: Tensor,
        basis: Basis,
        base_NI: Tensor | KnownActivation | None = None,
        factor_NI: Tensor | None = None,
    ) -> Tensor:
        dtype = compute_dtype(x_NI)
        size = x_NI.shape[1] // max(1, coefficients_PC.shape[0])
        tensors = (x_NI, coefficients_PC, denominator_PD, domain_P2, factor_NI)
        if isinstance(base_NI, KnownActivation) and any(t is not None and t.dtype != dtype for t in tensors):
            base_NI = base_NI.function(x_NI)
        if size == 1 and all(getattr(t, "dtype", dtype) == dtype for t in (*tensors, base_NI)):
            return function(x_NI, coefficients_PC, denominator_PD, domain_P2, basis, base_NI, factor_NI)
        curves = [_per_channel(t, size, dtype) for t in (coefficients_PC, denominator_PD, domain_P2)]
        if isinstance(base_NI, KnownActivation) or all(
            getattr(t, "dtype", dtype) == dtype for t in (base_NI, factor_NI)
        ):
            return function(x_NI.to(dtype), *curves, basis, base_NI, factor_NI)
        y_NI = function(x_NI.to(dtype), *curves, basis, None, None)
        y_NI = y_NI if base_NI is None else add_curve(base_NI, y_NI)
        return y_NI if factor_NI is None else y_NI * factor_NI

    return call


def widened_edges(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same for a function that sums edges: (x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO)."""

    @wraps(function)
    def call(
        x_NI: Tensor,
        coefficients_ICO: Tensor,
        denominator_ID: Tensor | None,
        domain_I2: Tensor,
        basis: Basis,
        base_NO: Tensor | None = None,
    ) -> Tensor:
        dtype = compute_dtype(x_NI)
        curves = [None if t is None else t.to(dtype) for t in (coefficients_ICO, denominator_ID, domain_I2)]
        if base_NO is None or base_NO.dtype == dtype:
            return function(x_NI.to(dtype), *curves, basis, base_NO)
        return add_curve(base_NO, function(x_NI.to(dtype), *curves, basis, None))

    return call


def _per_channel(tensor: Tensor | None, size: int, dtype: torch.dtype) -> Tensor | None:
    if tensor is None:
        return None
    return tensor.to(dtype) if size == 1 else repeat(tensor.to(dtype), "p c -> (p size) c", size=size)
