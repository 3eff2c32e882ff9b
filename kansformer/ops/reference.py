"""The definition of both operations, in plain PyTorch on any device: what tests trust and every backend must equal.

Shape letters: N tokens, I inputs, O outputs, C coefficients, D denominator parameters.
"""

from einops import einsum
from torch import Tensor

from kansformer.basis import Basis


def apply_curves(x_NI: Tensor, coefficients_IC: Tensor, denominator_ID: Tensor | None, domain_I2: Tensor, basis: Basis):
    """One curve per input: s_i(x_i) = Σ_c a_ic B_c(x_i), (N, I)."""
    values_NIC = basis.values(x_NI, domain_I2, denominator_ID)
    return einsum(values_NIC, coefficients_IC, "n i c, i c -> n i")


def sum_edges(x_NI: Tensor, coefficients_ICO: Tensor, denominator_ID: Tensor | None, domain_I2: Tensor, basis: Basis):
    """One curve per edge, summed at the outputs: s_o = Σ_i Σ_c a_ico B_c(x_i), (N, O)."""
    values_NIC = basis.values(x_NI, domain_I2, denominator_ID)
    return einsum(values_NIC, coefficients_ICO, "n i c, i c o -> n o")
