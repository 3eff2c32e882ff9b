"""Levenberg-Marquardt, for samples and for differential equations alike.

Shape letters: R residuals, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kansformer.kan.history import Run
from kansformer.kan.linearize import Parameters

# Damping at first, after a step that helped, after one that did not; and a floor for the diagonal.
FIRST_DAMPING, LESS, MORE, MIN_DAMPING = 1e-2, 0.2, 5.0, 1e-16
# Up to this number of parameters a factorisation of the Jacobian takes no longer than the rest of a step.
MAX_EXACT = 64
TRIALS, RIDGE, MIN_DIAGONAL = 10, 1e-10, 1e-8


@dataclass(frozen=True)
class Linearization:
    """Residuals of a network at its present parameters.

    Args:
        residuals: (R,), whose squares are summed.
        linearize: gives their derivatives by the vector of `Parameters`, (R, P), and Q of a penalty pᵀQp / 2, (P, P),
            or None; called while the network still has these parameters.
    """

    residuals: Tensor
    linearize: Callable[[], tuple[Tensor, Tensor | None]]


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
        now_P, free_P = parameters.read(), parameters.free_P
        jacobian, quadratic = here.linearize()
        solve = _Damped(jacobian, here.residuals, now_P, quadratic, free_P)
        before = _objective(here.residuals, now_P, quadratic)
        improved = False
        try:
            for _ in range(TRIALS):
                change_P = solve(damping)
                if change_P is not None:
                    parameters.write(now_P - change_P)
                    there = evaluate()
                    after = _objective(there.residuals, now_P - change_P, quadratic)
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


class _Damped:
    """Steps that solve (JᵀJ + Q + damping·diagonal) δ = Jᵀr + Qp for the free parameters.

    With few parameters, such as those of formulas, a QR factorisation of J replaces the normal equations, which is
    exact to the last digit.
    """

    def __init__(
        self, jacobian: Tensor, residuals: Tensor, vector_P: Tensor, quadratic: Tensor | None, free_P: Tensor | None
    ) -> None:
        self.free_P = free_P
        jacobian = jacobian if free_P is None else jacobian[:, free_P]
        gradient = jacobian.mT @ residuals
        self.exact = quadratic is None and 4 * jacobian.shape[1] < len(jacobian) and jacobian.shape[1] <= MAX_EXACT
        if self.exact:
            self.diagonal = jacobian.square().sum(dim=0)
            rotation, self.triangle = torch.linalg.qr(jacobian)
            self.rotated = rotation.mT @ residuals
            return
        matrix = jacobian.mT @ jacobian
        if quadratic is not None:
            pull_P = quadratic @ vector_P
            if free_P is not None:
                quadratic, pull_P = quadratic[free_P][:, free_P], pull_P[free_P]
            matrix, gradient = matrix + quadratic, gradient + pull_P
        self.matrix, self.gradient, self.diagonal = matrix, gradient, matrix.diagonal()

    def __call__(self, damping: float) -> Tensor | None:
        change_F = self._solve(damping * self.diagonal.clamp(min=MIN_DIAGONAL) + RIDGE * damping)
        if change_F is None or self.free_P is None:
            return change_F
        return change_F.new_zeros(len(self.free_P)).masked_scatter(self.free_P, change_F)

    def _solve(self, diagonal: Tensor) -> Tensor | None:
        if self.exact:
            rows = torch.cat([self.triangle, diagonal.sqrt().diag()])
            target = torch.cat([self.rotated, torch.zeros_like(self.diagonal)])
            solution = torch.linalg.lstsq(rows.cpu(), target.cpu().unsqueeze(-1), driver="gelsd").solution[:, 0]
            return solution.to(rows) if solution.isfinite().all() else None
        factor, failed = torch.linalg.cholesky_ex(self.matrix + (diagonal + RIDGE).diag())
        return None if failed else torch.cholesky_solve(self.gradient.unsqueeze(-1), factor)[:, 0]
