"""The two operations on tensors of any leading shape and any float dtype.

Both compute in float32 (float64 for float64 inputs) also under autocast, and return that dtype: the caller adds the
result to its base branch and rounds once.

Shape letters: `...` any, I inputs, O outputs, C coefficients, D denominator parameters.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from kansformer.basis import Basis
from kansformer.errors import ShapeError
from kansformer.ops.backend import backend_for


def apply_curves(
    x: Tensor, coefficients_IC: Tensor, domain_I2: Tensor, basis: Basis, denominator_ID: Tensor | None = None
) -> Tensor:
    """Send every input channel through its own curve.

    Args:
        x: (..., I).
        coefficients_IC: (I, C).
        domain_I2: (I, 2), lower and upper end per input.
        basis: the family of curves.
        denominator_ID: (I, D) for rational curves, else None.

    Returns:
        (..., I) in float32, or float64 for float64 x.

    Raises:
        ShapeError: the shapes do not belong together.
    """
    return _run("apply_curves", x, coefficients_IC, domain_I2, basis, denominator_ID, (coefficients_IC.shape[0],))


def sum_edges(
    x: Tensor, coefficients_ICO: Tensor, domain_I2: Tensor, basis: Basis, denominator_ID: Tensor | None = None
) -> Tensor:
    """Send every input through one curve per output and sum at the outputs.

    Args:
        x: (..., I).
        coefficients_ICO: (I, C, O).
        domain_I2, basis, denominator_ID: as in `apply_curves`; the edges of one input share its denominator.

    Returns:
        (..., O) in float32, or float64 for float64 x.

    Raises:
        ShapeError: the shapes do not belong together.
    """
    return _run("sum_edges", x, coefficients_ICO, domain_I2, basis, denominator_ID, (coefficients_ICO.shape[-1],))


def without_autocast(device_type: str) -> AbstractContextManager:
    """Computes in the tensors' own dtypes; a device type that has no autocast (meta) needs nothing."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def _run(operation, x, coefficients, domain_I2, basis, denominator_ID, output_shape):
    if x.ndim == 0 or x.shape[-1] != coefficients.shape[0]:
        raise ShapeError(f"Input of shape {tuple(x.shape)} does not end in the {coefficients.shape[0]} curve inputs.")
    if coefficients.shape[1] != basis.num_coefficients:
        raise ShapeError(
            f"Coefficients of shape {tuple(coefficients.shape)} do not have the {basis.num_coefficients} per curve "
            f"that {basis} needs."
        )
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with without_autocast(x.device.type):
        y = getattr(backend_for(x), operation)(
            x.reshape(-1, x.shape[-1]).to(dtype),
            coefficients.to(dtype),
            None if denominator_ID is None else denominator_ID.to(dtype),
            domain_I2.to(dtype),
            basis,
        )
    return y.reshape(*x.shape[:-1], *output_shape)
