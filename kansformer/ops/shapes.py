"""Whether the tensors of an operation belong together."""

from torch import Tensor

from kansformer.errors import ShapeError
from kansformer.ops.curves import Curves


def check_arguments(x: Tensor, curves: Curves, base: Tensor | str | None, factor: Tensor | None) -> None:
    """Raise a ShapeError unless these are arguments of `apply_curves`."""
    check_curves(x, curves, ("curves", "coefficients"))
    if isinstance(base, Tensor):
        check_like("base", base, x, x.shape)
    if factor is not None:
        check_like("factor", factor, x, x.shape)


def check_like(name: str, tensor: Tensor, x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise a ShapeError unless a tensor has the shape, and x's device."""
    if tensor.device != x.device:
        raise ShapeError(f"The {name} is on {tensor.device}, the input on {x.device}. Move one to the other.")
    if tensor.shape != shape:
        raise ShapeError(f"The {name} of shape {tuple(tensor.shape)} does not fit the output of shape {tuple(shape)}.")


def check_curves(x: Tensor, curves: Curves, axes: tuple[str, ...]) -> None:
    """Raise a ShapeError unless the tensors of curves, whose coefficients have these axes, belong together and to x."""
    coefficients, domain, denominator, basis = curves
    if coefficients.ndim != len(axes):
        raise ShapeError(f"Coefficients of shape {tuple(coefficients.shape)} are not ({', '.join(axes)}).")
    count, width = coefficients.shape[:2]
    if width != basis.num_coefficients:
        raise ShapeError(
            f"Coefficients of shape {tuple(coefficients.shape)} do not have the {basis.num_coefficients} per curve "
            f"that {basis} needs."
        )
    for tensor in (coefficients, denominator, domain):
        if tensor is not None and tensor.device != x.device:
            raise ShapeError(f"Curves on {tensor.device} cannot take an input on {x.device}. Move one to the other.")
    shared = len(axes) == 2 and x.ndim and count and x.shape[-1] % count == 0
    if not shared and (x.ndim == 0 or x.shape[-1] != count):
        raise ShapeError(f"Input of shape {tuple(x.shape)} does not end in the {count} curve inputs.")
    if domain.shape != (count, 2):
        raise ShapeError(f"Domain of shape {tuple(domain.shape)} does not fit the curves: expected {(count, 2)}.")
    actual = None if denominator is None else denominator.shape
    expected = (count, basis.num_denominator) if basis.num_denominator else None
    if actual != expected:
        shape = None if actual is None else tuple(actual)
        raise ShapeError(f"Denominator of shape {shape} does not fit {basis}: expected {expected}.")
