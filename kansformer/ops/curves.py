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
    return _run("apply_curves", x, coefficients_IC, domain_I2, basis, denominator_ID)


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
    return _run("sum_edges", x, coefficients_ICO, domain_I2, basis, denominator_ID)


def without_autocast(device_type: str) -> AbstractContextManager:
    """Computes in the tensors' own dtypes; nothing needs to be done where no autocast is on, or none exists (meta)."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def _run(
    operation: str, x: Tensor, coefficients: Tensor, domain_I2: Tensor, basis: Basis, denominator_ID: Tensor | None
) -> Tensor:
    _check_shapes(operation, x, coefficients, domain_I2, basis, denominator_ID)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with without_autocast(x.device.type):
        y = getattr(backend_for(x), operation)(
            x.reshape(-1, x.shape[-1]).to(dtype),
            coefficients.to(dtype),
            None if denominator_ID is None else denominator_ID.to(dtype),
            domain_I2.to(dtype),
            basis,
        )
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _check_shapes(
    operation: str, x: Tensor, coefficients: Tensor, domain_I2: Tensor, basis: Basis, denominator_ID: Tensor | None
) -> None:
    axes = ("inputs", "coefficients", "outputs")[: 2 if operation == "apply_curves" else 3]
    if coefficients.ndim != len(axes):
        raise ShapeError(f"Coefficients of shape {tuple(coefficients.shape)} are not ({', '.join(axes)}).")
    inputs, width = coefficients.shape[:2]
    if width != basis.num_coefficients:
        raise ShapeError(
            f"Coefficients of shape {tuple(coefficients.shape)} do not have the {basis.num_coefficients} per curve "
            f"that {basis} needs."
        )
    if x.ndim == 0 or x.shape[-1] != inputs:
        raise ShapeError(f"Input of shape {tuple(x.shape)} does not end in the {inputs} curve inputs.")
    if domain_I2.shape != (inputs, 2):
        raise ShapeError(f"Domain of shape {tuple(domain_I2.shape)} does not fit the curves: expected {(inputs, 2)}.")
    found = None if denominator_ID is None else tuple(denominator_ID.shape)
    expected = (inputs, basis.num_denominator) if basis.num_denominator else None
    if found != expected:
        raise ShapeError(f"Denominator of shape {found} does not fit {basis}: expected {expected}.")
