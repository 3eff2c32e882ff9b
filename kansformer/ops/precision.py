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


def flat(tensor: Tensor | None) -> Tensor | None:
    """(..., I) to (N, I)."""
    return tensor if tensor is None or tensor.ndim == 2 else tensor.reshape(-1, tensor.shape[-1])


def compute_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64 inputs, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def add_curve(base: Tensor, curve: Tensor) -> Tensor:
    """base + curve, summed in the curve's float32 or float64 and rounded once to the base's dtype.

    Where the curve is zero the result is the base, bit for bit (a negative zero becomes a positive one).
    """
    return (base.to(curve.dtype) + curve).to(base.dtype)


def widened_curves(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a function that computes curves in one dtype take tensors of any dtype.

    Args:
        function: (x, coefficients_PC, denominator_PD, domain_P2, basis, base, factor) to (..., I), everything in one
            dtype.

    Returns:
        The same for mixed dtypes; the result has the base's dtype, or the dtype of the computation. A `KnownActivation`
        as the base reaches the function only if everything has one dtype.
    """

    @wraps(function)
    def call(
        x: Tensor,
        coefficients_PC: Tensor,
        denominator_PD: Tensor | None,
        domain_P2: Tensor,
        basis: Basis,
        base: Tensor | KnownActivation | None = None,
        factor: Tensor | None = None,
    ) -> Tensor:
        dtype = compute_dtype(x)
        tensors = (x, coefficients_PC, denominator_PD, domain_P2, factor)
        if isinstance(base, KnownActivation) and any(t is not None and t.dtype != dtype for t in tensors):
            base = base.function(x)
        if all(getattr(t, "dtype", dtype) == dtype for t in (*tensors, base)):
            return function(x, coefficients_PC, denominator_PD, domain_P2, basis, base, factor)
        curves = [None if t is None else t.to(dtype) for t in (coefficients_PC, denominator_PD, domain_P2)]
        if isinstance(base, KnownActivation) or all(getattr(t, "dtype", dtype) == dtype for t in (base, factor)):
            return function(x.to(dtype), *curves, basis, base, factor)
        y = function(x.to(dtype), *curves, basis, None, None)
        y = y if base is None else add_curve(base, y)
        return y if factor is None else y * factor

    return call


def flat_curves(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a function of rows and of one curve per channel, (x_NI, coefficients_IC, denominator_ID, domain_I2, basis,
    base_NI, factor_NI), take tensors of any leading shape, and groups of neighbouring channels that share a curve."""

    @wraps(function)
    def call(
        x: Tensor,
        coefficients_PC: Tensor,
        denominator_PD: Tensor | None,
        domain_P2: Tensor,
        basis: Basis,
        base: Tensor | None = None,
        factor: Tensor | None = None,
    ) -> Tensor:
        curves = [coefficients_PC, denominator_PD, domain_P2]
        size = x.shape[-1] // max(1, coefficients_PC.shape[0])
        if size > 1:
            curves = [None if t is None else repeat(t, "p c -> (p size) c", size=size) for t in curves]
        return function(flat(x), *curves, basis, flat(base), flat(factor)).reshape(x.shape)

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
