"""Levenberg-Marquardt, for samples and for differential equations alike.

Shape letters: R residuals, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kansformer.kan.active_set import BoundedVariables, along_the_point, bounded_variables
from kansformer.kan.constraints import hold
from kansformer.kan.history import Run
from kansformer.kan.linearize import Parameters

# Damping at first, after a step that helped, after one that did not; and a floor for the diagonal.
FIRST_DAMPING, LESS, MORE, MIN_DAMPING = 1e-2, 0.2, 5.0, 1e-16
# Up to this number of parameters a factorisation of the Jacobian takes no longer than the rest of a step.
MAX_EXACT = 64
# The least diagonal, and what is added to it, of parameters with derivatives of usual size: where the largest square of
# those in one unit is below SMALL, both shrink with it, but for constraints, whose active sets need the ridge.
MIN_DIAGONAL, RIDGE, SMALL = 1e-8, 1e-10, 1e-3
TRIALS = 10


@dataclass(frozen=True)
class Linearization:
    """Residuals of a network at its present parameters.

    Args:
        residuals: (R,), whose squares are summed.
        linearize: gives their derivatives by the vector of `Parameters`, (R, P), or blocks of these rows in order, and
            Q of a penalty pᵀQp added to that sum, (P, P), or None; called while the network still has these parameters.
    """

    residuals: Tensor
    linearize: Callable[[], tuple[Tensor | Iterator[Tensor], Tensor | None]]


@torch.no_grad()
def levenberg_marquardt(run: Run, evaluate: Callable[[], Linearization]) -> None:
    """Minimise the sum of the squared residuals and of the penalty; `evaluate` gives them at the present parameters."""
    model, damping = run.model, FIRST_DAMPING
    here = evaluate()
    for step in range(run.steps):
        if run.update_grids(step):
            here = evaluate()
        if not here.residuals.isfinite().all():
            run.history.stopped = "the network's outputs are not finite"
            return
        parameters = Parameters(model)
        now_P, bounded = parameters.read(), bounded_variables(parameters)
        jacobian, quadratic = here.linearize()
        jacobian = along_the_point(model, jacobian)
        solve = _damped_solver(jacobian, here.residuals, now_P, quadratic, parameters, bounded)
        before = _objective(here.residuals, now_P, quadratic)
        improved = False
        try:
            for _ in range(TRIALS):
                change_P = solve(damping)
                if change_P is not None:
                    parameters.write(now_P - change_P)
                    moved_P = parameters.read() if hold(model) else now_P - change_P
                    there = evaluate()
                    after = _objective(there.residuals, moved_P, quadratic)
                    if after < before:
                        improved, damping, here = True, max(LESS * damping, MIN_DAMPING), there
                        break
                damping *= MORE
        finally:  # after Ctrl-C too
            if not improved:
                parameters.write(now_P)
        damping = damping if improved else min(damping, 1 / FIRST_DAMPING)
        ended = run.record(here.residuals.square().sum().sqrt().item())
        if ended or not (improved or run.grids_move(step) or quadratic is not None):
            run.history.stopped = "the error no longer falls" if step < run.steps - 1 else None
            return


def _objective(residual: Tensor, vector_P: Tensor, quadratic: Tensor | None) -> float:
    value = residual.square().sum() / 2
    value = value if quadratic is None else value + vector_P @ quadratic @ vector_P / 2
    return value.item() if value.isfinite() else math.inf


def _damped_solver(
    jacobian: Tensor | Iterator[Tensor],
    residuals: Tensor,
    vector_P: Tensor,
    quadratic: Tensor | None,
    parameters: Parameters,
    bounded: BoundedVariables | None,
) -> Callable[[float], Tensor | None]:
    """Steps that solve (JᵀJ + Q + damping·diagonal) δ = Jᵀr + Qp for the free parameters, by damping; within bounds.

    With few parameters, such as those of formulas, a QR factorisation of J replaces the normal equations, which is
    exact to the last digit.
    """

    free_P = parameters.free_P

    def reduced(rows: Tensor) -> Tensor:
        if bounded is not None:
            return rows @ bounded.mapping
        return rows if free_P is None else rows[..., free_P]

    blocks = map(reduced, [jacobian] if isinstance(jacobian, Tensor) else jacobian)
    jacobian, whole = next(blocks), isinstance(jacobian, Tensor)
    few = 4 * jacobian.shape[1] < len(jacobian) and jacobian.shape[1] <= MAX_EXACT
    exact = whole and few and quadratic is None and bounded is None
    if exact:
        diagonal_F = jacobian.square().sum(dim=0)
        rotation, triangle = torch.linalg.qr(jacobian)
        target = torch.cat([rotation.mT @ residuals, torch.zeros_like(diagonal_F)])
    else:
        start = len(jacobian)
        matrix, gradient = jacobian.mT @ jacobian, jacobian.mT @ residuals[:start]
        for block in blocks:
            matrix.addmm_(block.mT, block)
            gradient.addmv_(block.mT, residuals[start : start + len(block)])
            start += len(block)
        if quadratic is not None:
            gradient = gradient + reduced(quadratic @ vector_P)
            matrix = matrix + reduced(reduced(quadratic).mT)  # Q is symmetric
        diagonal_F = matrix.diagonal()
    unit_F = torch.ones_like(diagonal_F)
    if parameters.model.constraints is None:
        groups_F = reduced(parameters.groups())
        largest_P = torch.zeros_like(vector_P).scatter_reduce(0, groups_F, diagonal_F, "amax")
        unit_F = (largest_P[groups_F] / SMALL).clamp(torch.finfo(diagonal_F.dtype).tiny ** 0.5, 1)
    floor_F, ridge_F = MIN_DIAGONAL * unit_F, RIDGE * unit_F

    def solve(damping: float) -> Tensor | None:
        damping_F = damping * (diagonal_F.clamp(min=floor_F) + ridge_F)
        if exact:
            rows = torch.cat([triangle, damping_F.sqrt().diag()])
            change_F = torch.linalg.lstsq(rows.cpu(), target.cpu().unsqueeze(-1), driver="gelsd").solution[:, 0]
            if not change_F.isfinite().all():
                return None
            change_F = change_F.to(rows)
        elif bounded is not None:
            step_F = bounded.step(matrix + (damping_F + ridge_F).diag(), gradient)
            return None if step_F is None else bounded.mapping @ step_F
        else:
            factor, failed = torch.linalg.cholesky_ex(matrix + (damping_F + ridge_F).diag())
            if failed:
                return None
            change_F = torch.cholesky_solve(gradient.unsqueeze(-1), factor)[:, 0]
        return change_F if free_P is None else change_F.new_zeros(len(free_P)).masked_scatter(free_P, change_F)

    return solve
