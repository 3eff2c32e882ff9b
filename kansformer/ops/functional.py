"""The two operations on tensors of any leading shape and any float dtype.

Curves are computed in float32 (float64 for float64 inputs), also under autocast. With a base they are added to it and
rounded once to its dtype; without one the result has the dtype of the computation. Onto a bfloat16 base, and for 16-bit
inputs on a GPU, edges multiply basis values and coefficients in 16 bits, and add up in float32. On a GPU the inputs of
edges are rounded to the base's dtype first, as those of a linear layer are under autocast.

Shape letters: `...` any, I inputs, O outputs, P curves.
"""

import torch
from torch import Tensor

from kansformer.ops.backend import backend_for
from kansformer.ops.curves import Curves, flat
from kansformer.ops.shapes import check_curves, check_like


def apply_curves(x: Tensor, curves: Curves, base: Tensor | str | None = None, factor: Tensor | None = None) -> Tensor:
    """Send every input channel through its own curve, or its group's: (base + s(x)) · factor.

    Args:
        x: (..., I).
        curves: one per channel, or per group of neighbouring channels: P divides I.
        base: (..., I), what the curves are added to; a key of `ACTIVATIONS` means that function of x, None means 0.
        factor: (..., I), what the sum is multiplied by; None means 1.

    Returns:
        (..., I) in the base's dtype; without a base in float32, or float64 for float64 x.

    Raises:
        ShapeError: the shapes do not belong together.

    Examples:
        >>> from kansformer.basis import Basis
        >>> from kansformer.ops import Curves, apply_curves
        >>> curves = Curves(torch.eye(3), torch.tensor([[-1.0, 1.0]] * 3), None, Basis(name="chebyshev", order=2))
        >>> apply_curves(torch.full((1, 3), 0.5), curves)  # T_0(x) = 1, T_1(x) = x, T_2(x) = 2x² - 1
        tensor([[ 1.0000,  0.5000, -0.5000]])
    """
    if torch._C._is_any_autocast_enabled() and is_autocast_enabled(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            return apply_curves(x, curves, base, factor)
    return backend_for(x).apply_curves(x, curves, base, factor)


def sum_edges(x: Tensor, curves: Curves, base: Tensor | None = None) -> Tensor:
    """Send every input through one curve per output and sum at the outputs: base_o + Σ_i s_oi(x_i).

    Args:
        x: (..., I).
        curves: one per edge.
        base: (..., O), what the sums are added to; None means 0.

    Returns:
        (..., O) in the base's dtype; without a base in float32, or float64 for float64 x.

    Raises:
        ShapeError: the shapes do not belong together.

    Examples:
        >>> from kansformer.basis import Basis
        >>> from kansformer.ops import Curves, sum_edges
        >>> basis = Basis(name="chebyshev", order=2)
        >>> curves = Curves(torch.eye(3).expand(2, 3, 3), torch.tensor([[-1.0, 1.0]] * 2), None, basis)
        >>> sum_edges(torch.full((1, 2), 0.5), curves)
        tensor([[ 2.,  1., -1.]])
    """
    if is_autocast_enabled(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            return sum_edges(x, curves, base)
    check_curves(x, curves, ("inputs", "coefficients", "outputs"))
    shape = (*x.shape[:-1], curves.coefficients.shape[2])
    if base is not None:
        check_like("base", base, x, shape)
    return backend_for(x).sum_edges(flat(x), curves, None if base is None else flat(base)).reshape(shape)


def is_autocast_enabled(device_type: str) -> bool:
    """Whether PyTorch would compute in other dtypes than the tensors' own; no device type is an error (meta)."""
    if not torch._C._is_any_autocast_enabled():
        return False
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
