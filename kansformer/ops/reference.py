"""The definition of both operations, in plain PyTorch on any device: what tests trust and every backend must equal.

Shape letters: N tokens, I inputs, O outputs, C coefficients, D denominator parameters.
"""

from einops import einsum
from torch import Tensor

from kansformer.basis import Basis
from kansformer.ops.precision import flat_curves, widened_curves, widened_edges


def curves(
    x_NI: Tensor,
    coefficients_IC: Tensor,
    denominator_ID: Tensor | None,
    domain_I2: Tensor,
    basis: Basis,
    base_NI: Tensor | None = None,
    factor_NI: Tensor | None = None,
) -> Tensor:
    """One curve per input, s_i(x_i) = Σ_c a_ic B_c(x_i), and with it (base + s) · factor, (N, I)."""
    values_NIC = basis.values(x_NI, domain_I2, denominator_ID)
    y_NI = einsum(values_NIC, coefficients_IC, "n i c, i c -> n i")
    y_NI = y_NI if base_NI is None else base_NI + y_NI
    return y_NI if factor_NI is None else y_NI * factor_NI


def edges(
    x_NI: Tensor,
    coefficients_ICO: Tensor,
    denominator_ID: Tensor | None,
    domain_I2: Tensor,
    basis: Basis,
    base_NO: Tensor | None = None,
) -> Tensor:
    """One curve per edge, summed at the outputs: base_o + Σ_i Σ_c a_ico B_c(x_i), (N, O)."""
    values_NIC = basis.values(x_NI, domain_I2, denominator_ID)
    y_NO = einsum(values_NIC, coefficients_ICO, "n i c, i c o -> n o")
    return y_NO if base_NO is None else base_NO + y_NO


apply_curves = widened_curves(flat_curves(curves))
sum_edges = widened_edges(edges)
