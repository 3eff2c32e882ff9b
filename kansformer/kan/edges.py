"""Edges of a stand-alone network: their places, and access to the parameters of a layer's curves.

Shape letters: I inputs, O outputs, C coefficients, D denominator parameters, S sample points.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kansformer.basis import fit_curves
from kansformer.nn import KANLinear


@dataclass(frozen=True)
class Edge:
    """An edge of a stand-alone network: layer, input node and output, counted from 0.

    A product node multiplies two outputs of its layer, which come after the sums: with s sums, product k multiplies the
    outputs s + 2k and s + 2k + 1.
    """

    layer: int
    input: int
    output: int

    def __str__(self) -> str:
        return f"({self.layer}, {self.input} -> {self.output})"


def fit_layer_curves(layer: KANLinear, input: int, x_S: Tensor, y_SO: Tensor) -> Tensor:
    """Coefficients of curves of one input through values at points, on that input's domain, (C, O)."""
    row = slice(input, input + 1)
    denominator = None if layer.denominator is None else layer.denominator[row]
    basis, domain = layer.curves.basis, layer.domain[row]
    return fit_curves(x_S.unsqueeze(0), y_SO.unsqueeze(0), basis, domain, denominator_ID=denominator)[0]
