"""Steps of least squares within a network's constraints: an active-set method.

In the differences of their coefficients, the constraints of curves are bounds. A step holds some differences at their
bound and solves for the others; those that would leave the bounds are then held, and those whose gradient points inside
are freed, until neither happens (Hintermüller et al., 2002).

Shape letters: I inputs, O outputs, C coefficients, P parameters, F free ones of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from kansformer.kan.constraints import edge_directions
from kansformer.kan.linearize import Parameters

# Changes of the active set in one step; few are needed, and the projection after the step mends what is left.
MAX_CHANGES = 20


@dataclass(frozen=True)
class BoundedVariables:
    """Variables in which the constraints of a network are bounds, and their present values.

    Args:
        mapping: of the variables to the vector of `Parameters`, (P, F).
        values: the present ones, (F,).
        is_bound: mask of those that must be at least 0, (F,).
    """

    mapping: Tensor
    values: Tensor
    is_bound: Tensor

    def step(self, matrix_FF: Tensor, gradient_F: Tensor) -> Tensor | None:
        """The change δ that minimises δᵀMδ/2 - δᵀg while values - δ keep the bounds; None if M is not positive."""
        target_F = matrix_FF @ self.values - gradient_F
        held_F = self.is_bound & (self.values <= 0) & (gradient_F > 0)
        moved_F = self.values
        for _ in range(MAX_CHANGES):
            factor, failed = torch.linalg.cholesky_ex(matrix_FF[~held_F][:, ~held_F])
            if failed:
                return None
            free = torch.cholesky_solve(target_F[~held_F].unsqueeze(-1), factor)[:, 0]
            moved_F = torch.zeros_like(target_F).masked_scatter(~held_F, free)
            slope_F = matrix_FF @ moved_F - target_F
            now_held_F = self.is_bound & torch.where(held_F, slope_F > 0, moved_F < 0)
            if torch.equal(now_held_F, held_F):
                break
            held_F = now_held_F
        return self.values - moved_F


def bounded_variables(parameters: Parameters) -> BoundedVariables | None:
    """The variables of a network; None without constraints."""
    model = parameters.model
    if model.constraints is None:
        return None
    blocks, bounds, vector_P = list[Tensor](), list[Tensor](), parameters.read()
    for index, (i, o) in enumerate(parameters.edges):
        layer, formulas = model.layers[index], model.formulas[index]
        rising_IO, bent_IO = edge_directions(model, index)
        for rising, bent in zip(rising_IO[i, o].tolist(), bent_IO[i, o].tolist(), strict=True):
            curve_CC, is_bound_C = _differences(layer.coefficients.shape[1], rising, bent)
            blocks += [torch.full((1, 1), float(rising or 1)), curve_CC]  # the base weight, then the curve
            bounds += [torch.tensor([rising != 0]), is_bound_C]
        others = len(layer.bias) + formulas.affine.numel()
        blocks.append(torch.eye(others))
        bounds.append(torch.zeros(others, dtype=torch.bool))
    map_PP, is_bound_P = torch.block_diag(*blocks).to(vector_P), torch.cat(bounds).to(vector_P.device)
    values_P = torch.linalg.solve(map_PP, vector_P)
    free_P = torch.ones_like(is_bound_P) if parameters.free_P is None else parameters.free_P
    return BoundedVariables(map_PP[:, free_P], values_P[free_P], is_bound_P[free_P])


@cache
def _differences(count: int, rising: int, bent: int) -> tuple[Tensor, Tensor]:
    """Coefficients of a curve from its first one and its differences, (C, C), and which of these are bound, (C,)."""
    sums_CC = torch.ones(count, count).tril()
    is_bound_C = torch.arange(count) >= (2 if bent else 1)
    if not bent:
        return (rising * sums_CC, is_bound_C) if rising else (torch.eye(count), torch.zeros_like(is_bound_C))
    is_bound_C[1] = rising != 0
    twice_CC = sums_CC @ torch.block_diag(torch.ones(1, 1), sums_CC[1:, 1:])
    return bent * (twice_CC.flip(0) if rising * bent < 0 else twice_CC), is_bound_C
