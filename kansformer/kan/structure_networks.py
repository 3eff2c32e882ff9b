"""Networks of curves from structures of formulas.

Shape letters: N samples, I inputs, S sample points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import sympy
import torch
from torch import Tensor

from kansformer.kan.from_formula import kan_from_formula
from kansformer.kan.linearize import fit_layer_curves
from kansformer.kan.structure_formulas import StructureFit, fit_structure
from kansformer.kan.structures import Column, Structure

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

# Of the formula that becomes the network: a function that no transformation has, in place of curves, and how far it is
# shifted from curve to curve.
PLACEHOLDER, STEP = "erf", 2.0**-20
SAMPLES_PER_COEFFICIENT, MARGIN = 8, 0.05


@torch.no_grad()
def network_of(structure: Structure, y: Tensor, names: Sequence[str], like: KAN) -> KAN:
    """A network with the curves of a structure.

    Differences, sums, products and the transformation are formulas on its edges.

    Args:
        structure: with the columns of the samples.
        y: targets, (N,).
        names: of the inputs.
        like: a network with the basis, the grid and the order of the curves.
    """
    basis = like.layers[0].curves.basis
    fitted = fit_structure(structure, y, basis.grid_size)
    curves = _curves(structure, fitted)
    terms = [sympy.erf(column.expression + sympy.Float(STEP * (k + 1))) for k, (column, _) in enumerate(curves)]
    total = sympy.Float(fitted.constant) + sympy.Add(*terms[: len(structure.columns)])
    if structure.product is not None:
        total += sympy.Mul(*terms[len(structure.columns) :])
    total = structure.sign * structure.transformation.sympy(total)
    total = total if structure.factor is None else total / structure.factor.expression
    model = kan_from_formula(total, variables=names, basis=basis.name, grid_size=basis.grid_size, order=basis.order)
    model.to(like.layers[0].weight)
    for index, (layer, formulas) in enumerate(zip(model.layers, model.formulas, strict=True)):
        for i, o, symbol, (_, shift, c, _) in list(formulas.edges()):
            if symbol.name != PLACEHOLDER:
                continue
            sign = math.copysign(1.0, shift)  # sympy writes erf(z) as -erf(-z) where it sorts so
            column, values_of = curves[round(abs(float(shift)) / STEP) - 1]
            lower, upper = (sign * column.values).aminmax()
            room = MARGIN * (upper - lower)
            layer.domain[i] = torch.stack([lower - room, upper + room])
            points = torch.linspace(0, 1, SAMPLES_PER_COEFFICIENT * layer.coefficients.shape[1], dtype=torch.float64)
            x_S = (lower + (upper - lower) * points.to(lower)).to(layer.weight.dtype)
            y_S1 = sign * float(c) * values_of(sign * x_S).unsqueeze(-1)
            layer.coefficients[i, :, o] = fit_layer_curves(layer, i, x_S.to(layer.weight), y_S1.to(layer.weight))[:, 0]
            model.formulas[index].keep(~((formulas.inputs == i) & (formulas.outputs_of == o)))
    return model


def _curves(structure: Structure, fitted: StructureFit) -> list[tuple[Column, Callable[[Tensor], Tensor]]]:
    """Columns, and functions of their values."""
    columns = [*structure.columns, *(structure.product or ())]
    weights = [*fitted.curves, *(fitted.product or ())]

    def values_of(column: Column, weights_C: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x_S: fitted.splines.curve(column, weights_C, x_S.double()).to(x_S)

    return [(column, values_of(column, own)) for column, own in zip(columns, weights, strict=True)]
