"""The definition of both operations, in plain PyTorch on any device: what tests trust and every backend must equal.

All tensors have the dtype of the computation; `Backend` sees to that.

Shape letters: `...` any, N tokens, I inputs, O outputs, C coefficients.
"""

from einops import einsum
from torch import Tensor

from kansformer.ops.curves import Curves, flat


def apply_curves(x: Tensor, curves: Curves, base: Tensor | None = None, factor: Tensor | None = None) -> Tensor:
    """(base + s(x)) · factor with one curve per channel or group, s_i(x_i) = Σ_c a_ic B_c(x_i), all (..., I)."""
    coefficients_IC, domain_I2, denominator_ID, basis = curves.per_channel(x.shape[-1])
    values_NIC = basis.values(flat(x), domain_I2, denominator_ID)
    y = einsum(values_NIC, coefficients_IC, "n i c, i c -> n i").reshape(x.shape)
    y = y if base is None else base + y
    return y if factor is None else y * factor


def sum_edges(x_NI: Tensor, curves: Curves, base_NO: Tensor | None = None) -> Tensor:
    """One curve per edge, summed at the outputs: base_o + Σ_i Σ_c a_ico B_c(x_i), (N, O)."""
    values_NIC = curves.basis.values(x_NI, curves.domain, curves.denominator)
    y_NO = einsum(values_NIC, curves.coefficients, "n i c, i c o -> n o")
    return y_NO if base_NO is None else base_NO + y_NO
