"""The two operations on tensors of any leading shape and any float dtype.

Curves are computed in float32 (float64 for float64 inputs), also under autocast. With a base they are added to it and
rounded once to its dtype; without one the result has the dtype of the computation. Onto a bfloat16 base, and for 16-bit
inputs on a GPU, edges multiply basis values and coefficients in 16 bits, and add up in float32.

Shape letters: `...` any, I inputs, O outputs, C coefficients, D denominator parameters, P curves.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from kansformer.basis import Basis
from kansformer.errors import ShapeError
from kansformer.ops.activation import KnownActivation
from kansformer.ops.backend import Backend, backend_for
from kansformer.ops.precision import flat


def apply_curves(
    x: Tensor,
    coefficients_PC: Tensor,
    domain_P2: Tensor,
    basis: Basis,
    denominator_PD: Tensor | None = None,
    *,
    base: Tensor | None = None,
    factor: Tensor | None = None,
) -> Tensor:
    """Send every input channel through its own curve, or its group's: (base + s(x)) · factor.

    Args:
        x: (..., I).
        coefficients_PC: (P, C); P divides I, and neighbouring channels share a curve.
        domain_P2: (P, 2), lower and upper end per curve.
        basis: the family of curves.
        denominator_PD: (P, D) for rational curves, else None.
        base: (..., I), what the curves are added to; None means 0.
        factor: (..., I), what the sum is multiplied by; None means 1.

    Returns:
        (..., I) in the base's dtype; without a base in float32, or float64 for float64 x.

    Raises:
        ShapeError: the shapes do not belong together.
    """
    return _apply_curves(backend_for(x), x, (coefficients_PC, denominator_PD, domain_P2), basis, base, factor)


def bend_activation(
    x: Tensor,
    activation: Callable[[Tensor], Tensor],
    name: str | None,
    coefficients_PC: Tensor,
    domain_P2: Tensor,
    basis: Basis,
    denominator_PD: Tensor | None = None,
    *,
    factor: Tensor | None = None,
) -> Tensor:
    """(σ(x) + s(x)) · factor, with σ or its slope computed along with the curves where the backend knows it.

    Args:
        activation: σ.
        name: what kernels know σ as; None for a function they do not know.
        x, coefficients_PC, domain_P2, basis, denominator_PD, factor: as in `apply_curves`.

    Returns:
        (..., I) in the dtype of σ(x).

    Raises:
        ShapeError: the shapes do not belong together.
    """
    backend = backend_for(x)
    known = name is not None and backend.computes(name, basis, x)
    base = KnownActivation(name, activation) if name is not None and known else activation(x)
    return _apply_curves(backend, x, (coefficients_PC, denominator_PD, domain_P2), basis, base, factor)


def sum_edges(
    x: Tensor,
    coefficients_ICO: Tensor,
    domain_I2: Tensor,
    basis: Basis,
    denominator_ID: Tensor | None = None,
    *,
    base: Tensor | None = None,
) -> Tensor:
    """Send every input through one curve per output and sum at the outputs: base_o + Σ_i s_oi(x_i).

    Args:
        x: (..., I).
        coefficients_ICO: (I, C, O).
        domain_I2, basis, denominator_ID: as in `apply_curves`; the edges of one input share its denominator.
        base: (..., O), what the sums are added to; None means 0.

    Returns:
        (..., O) in the base's dtype; without a base in float32, or float64 for float64 x.

    Raises:
        ShapeError: the shapes do not belong together.
    """
    curves = (coefficients_ICO, denominator_ID, domain_I2)
    _check_shapes(_EDGES, x, *curves, basis)
    shape = (*x.shape[:-1], coefficients_ICO.shape[2])
    _check_like("base", base, x, shape)
    with without_autocast(x.device.type):
        y = backend_for(x).sum_edges(flat(x), *curves, basis, flat(base))
    return y.reshape(shape)


def without_autocast(device_type: str) -> AbstractContextManager:
    """Computes in the tensors' own dtypes; nothing needs to be done where no autocast is on, or none exists (meta)."""
    if not torch._C._is_any_autocast_enabled():
        return _NOTHING
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return _NOTHING


_CURVES = ("curves", "coefficients")
_EDGES = ("inputs", "coefficients", "outputs")
_NOTHING: AbstractContextManager = nullcontext()


def _apply_curves(
    backend: Backend,
    x: Tensor,
    curves: tuple[Tensor, Tensor | None, Tensor],
    basis: Basis,
    base: Tensor | KnownActivation | None,
    factor: Tensor | None,
) -> Tensor:
    _check_shapes(_CURVES, x, *curves, basis)
    if isinstance(base, Tensor):
        _check_like("base", base, x, x.shape)
    _check_like("factor", factor, x, x.shape)
    with without_autocast(x.device.type):
        return backend.apply_curves(x, *curves, basis, base, factor)


def _check_like(name: str, tensor: Tensor | None, x: Tensor, shape: tuple[int, ...]) -> None:
    if tensor is not None and tensor.device != x.device:
        raise ShapeError(f"The {name} is on {tensor.device}, the input on {x.device}. Move one to the other.")
    if tensor is not None and tensor.shape != shape:
        raise ShapeError(f"The {name} of shape {tuple(tensor.shape)} does not fit the output of shape {tuple(shape)}.")


def _check_shapes(
    axes: tuple[str, ...],
    x: Tensor,
    coefficients: Tensor,
    denominator: Tensor | None,
    domain: Tensor,
    basis: Basis,
) -> None:
    if coefficients.ndim != len(axes):
        raise ShapeError(f"Coefficients of shape {tuple(coefficients.shape)} are not ({', '.join(axes)}).")
    curves, width = coefficients.shape[:2]
    if width != basis.num_coefficients:
        raise ShapeError(
            f"Coefficients of shape {tuple(coefficients.shape)} do not have the {basis.num_coefficients} per curve "
            f"that {basis} needs."
        )
    for tensor in (coefficients, denominator, domain):
        if tensor is not None and tensor.device != x.device:
            raise ShapeError(f"Curves on {tensor.device} cannot take an input on {x.device}. Move one to the other.")
    shared = axes is _CURVES and x.ndim and curves and x.shape[-1] % curves == 0
    if not shared and (x.ndim == 0 or x.shape[-1] != curves):
        raise ShapeError(f"Input of shape {tuple(x.shape)} does not end in the {curves} curve inputs.")
    if domain.shape != (curves, 2):
        raise ShapeError(f"Domain of shape {tuple(domain.shape)} does not fit the curves: expected {(curves, 2)}.")
    found = None if denominator is None else tuple(denominator.shape)
    expected = (curves, basis.num_denominator) if basis.num_denominator else None
    if found != expected:
        raise ShapeError(f"Denominator of shape {found} does not fit {basis}: expected {expected}.")
