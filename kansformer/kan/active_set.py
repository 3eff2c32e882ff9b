"""Steps of least squares within a network's constraints: an active-set method.

In the differences of their coefficients, the constraints of curves are bounds. A step holds some differences at their
bound and solves for the others; those that would leave the bounds are then held, and those whose gradient points inside
are freed, until neither happens (Hintermüller et al., 2002).

A point that the network passes through takes one parameter of each output: its constant follows from the others.

Shape letters: I inputs, O outputs, E edges of the last layer, C coefficients, D all of its coefficients, P parameters,
F variables, T those that bounds or ceilings touch, R the rest of them, or rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from kansformer.kan.constraints import edge_directions
from kansformer.kan.linearize import Inputs, Parameters, jacobian, layer_features, network_states

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

# Changes of the active set in one step; few are needed, and the projection after the step mends what is left.
MAX_CHANGES = 20
# Springs, relative to the mean diagonal: those that pull curves back, and those of variables that nothing else holds;
# as powers of the dtype's precision, since a factorisation has to bear both. In float64 8e3 and 1e-6.
STIFF, SOFT = -0.25, 0.375


@dataclass(frozen=True)
class BoundedVariables:
    """Variables in which the constraints of a network are bounds, and their present values.

    Args:
        mapping: of the variables to the vector of `Parameters`, (P, F).
        values: the present ones, (F,).
        is_bound: mask of those that must be at least 0, (F,).
        ceilings: under which their sums stay, the last column a limit, (R, F + 1).
        is_free: mask of those that no parameter depends on, (F,); they begin at 0.
    """

    mapping: Tensor
    values: Tensor
    is_bound: Tensor
    ceilings: Tensor
    is_free: Tensor

    def step(self, matrix_FF: Tensor, gradient_F: Tensor) -> Tensor | None:
        """The change δ that minimises δᵀMδ/2 - δᵀg while values - δ keep the bounds, and nearly keep the ceilings:
        stiff springs pull back what is beyond. None if M is not positive."""
        mean, precision = matrix_FF.diagonal().mean(), torch.finfo(matrix_FF.dtype).eps
        stiff, soft = precision**STIFF * mean, precision**SOFT * mean
        matrix_FF = matrix_FF + (soft * self.is_free).diag()
        target_F = matrix_FF @ self.values - gradient_F
        held_F = self.is_bound & (self.values <= 0) & (gradient_F > 0)
        # Variables that no bound and no ceiling touches follow from the others, so they are eliminated first.
        touched_F = self.is_bound | self.ceilings[:, :-1].any(dim=0)
        rest_F = ~touched_F
        factor, failed = torch.linalg.cholesky_ex(matrix_FF[rest_F][:, rest_F])
        if failed:
            return None
        across_RT = matrix_FF[rest_F][:, touched_F]
        solved = torch.cholesky_solve(torch.cat([across_RT, target_F[rest_F].unsqueeze(-1)], dim=1), factor)
        slopes_RT, alone_R = solved[:, :-1], solved[:, -1]
        moved_T = _within_ceilings(
            matrix_FF[touched_F][:, touched_F] - across_RT.mT @ slopes_RT,
            target_F[touched_F] - across_RT.mT @ alone_R,
            held_F[touched_F],
            self.is_bound[touched_F],
            self.ceilings[:, pad(touched_F, (0, 1), value=True)],
            stiff,
        )
        if moved_T is None:
            return None
        moved_F = torch.empty_like(target_F)
        moved_F[touched_F], moved_F[rest_F] = moved_T, alone_R - slopes_RT @ moved_T
        return self.values - moved_F


def _within_ceilings(
    matrix_TT: Tensor, target_T: Tensor, held_T: Tensor, is_bound_T: Tensor, ceilings: Tensor, stiff: Tensor
) -> Tensor | None:
    """The values v that minimise vᵀMv/2 - vᵀt within their bounds, with springs at the ceilings that they are beyond;
    None if M is not positive."""
    rows, limits = ceilings[:, :-1], ceilings[:, -1]
    moved_T, beyond = target_T, torch.zeros_like(limits, dtype=torch.bool)
    for _ in range(MAX_CHANGES):
        pulled = stiff * rows[beyond]
        solved = _within_bounds(
            matrix_TT + rows[beyond].mT @ pulled, target_T + limits[beyond] @ pulled, held_T, is_bound_T
        )
        if solved is None:
            return None
        moved_T, held_T = solved
        now_beyond = rows @ moved_T > limits
        if torch.equal(now_beyond, beyond):
            break
        beyond = now_beyond
    return moved_T


def _within_bounds(
    matrix_TT: Tensor, target_T: Tensor, held_T: Tensor, is_bound_T: Tensor
) -> tuple[Tensor, Tensor] | None:
    """The values v that minimise vᵀMv/2 - vᵀt within their bounds, and which of them are held there."""
    moved_T = target_T
    for _ in range(MAX_CHANGES):
        factor, failed = torch.linalg.cholesky_ex(matrix_TT[~held_T][:, ~held_T])
        if failed:
            return None
        free = torch.cholesky_solve(target_T[~held_T].unsqueeze(-1), factor)[:, 0]
        moved_T = torch.zeros_like(target_T).masked_scatter(~held_T, free)
        slope_T = matrix_TT @ moved_T - target_T
        now_held_T = is_bound_T & torch.where(held_T, slope_T > 0, moved_T < 0)
        if torch.equal(now_held_T, held_T):
            break
        held_T = now_held_T
    return moved_T, held_T


def bounded_variables(parameters: Parameters) -> BoundedVariables | None:
    """The variables of a network; None where nothing is asked for but a point."""
    model = parameters.model
    if model.constraints is None or not model.constraints.holds_curves:
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
    mapping_PF, values_F, is_bound_F = map_PP[:, free_P], values_P[free_P], is_bound_P[free_P]
    variables = BoundedVariables(
        mapping=mapping_PF,
        values=values_F,
        is_bound=is_bound_F,
        ceilings=values_F.new_zeros(0, len(values_F) + 1),
        is_free=torch.zeros_like(is_bound_F),
    )
    return _with_rooms(variables, model, parameters.edges[-1][1]) if model.constraints.is_bounded else variables


def _with_rooms(variables: BoundedVariables, model: KAN, outputs_E: Tensor) -> BoundedVariables:
    """Two more variables for each curve of the last layer, the room that it has above and below: its coefficients stay
    in it, and the rooms of an output add up to its bounds."""
    constraints, mapping_PF = model.constraints, variables.mapping
    assert constraints is not None
    bias_O, count = model.layers[-1].bias.detach(), model.layers[-1].coefficients.shape[1]
    edges, outputs = len(outputs_E), len(bias_O)
    lasts_PF = mapping_PF[len(mapping_PF) - outputs - edges * (1 + count) : len(mapping_PF) - outputs]
    curves_DF = lasts_PF.unflatten(0, (edges, 1 + count))[:, 1:].flatten(0, 1)
    room_DE = torch.eye(edges).to(curves_DF).repeat_interleave(count, dim=0)
    of_output_OE = one_hot(outputs_E, outputs).mT.to(curves_DF)
    rows = []
    for side, sign, bounds in ((0, 1, constraints.upper), (1, -1, constraints.lower)):
        limit_O1 = (sign * (bias_O.new_tensor(bounds) - bias_O)).unsqueeze(1)
        around = (side * edges, (1 - side) * edges)  # the variables of the other side
        rows.append(torch.cat([sign * curves_DF, pad(-room_DE, around), torch.zeros_like(room_DE[:, :1])], dim=1))
        rows.append(
            torch.cat([bias_O.new_zeros(outputs, curves_DF.shape[1]), pad(of_output_OE, around), limit_O1], dim=1)
        )
    ceilings, more = torch.cat(rows), (0, 2 * edges)
    return BoundedVariables(
        mapping=pad(mapping_PF, more),
        values=pad(variables.values, more),
        is_bound=pad(variables.is_bound, more),
        ceilings=ceilings[ceilings[:, -1].isfinite()],
        is_free=pad(variables.is_free, more, value=True),
    )


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


def along_the_point(model: KAN, rows: Tensor | Iterator[Tensor]) -> Tensor | Iterator[Tensor]:
    """Derivatives by the parameters, (R, P) or blocks of rows, where the last constants move so that the network still
    passes its point; as they are where it has none."""
    if model.constraints is None or model.constraints.through is None:
        return rows
    point_1I = model.layers[0].weight.new_tensor([model.constraints.through[0]])
    states = network_states(model, Inputs(point_1I, layer_features))[1]
    slopes_OP = jacobian(model, states)[0]

    def along(rows_RP: Tensor) -> Tensor:
        return rows_RP - rows_RP[:, -len(slopes_OP) :] @ slopes_OP  # the vector ends with these constants

    return along(rows) if isinstance(rows, Tensor) else map(along, rows)
