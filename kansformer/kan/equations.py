"""Networks as solutions of differential equations, by Levenberg-Marquardt on the equations' residuals.

Shape letters: N points, D inputs and K outputs of the network, R residuals of a point.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.checks import check_integer, check_number
from kansformer.errors import ConfigError, DataError, ShapeError
from kansformer.kan import jets
from kansformer.kan.data import tensor_of
from kansformer.kan.fitting import Callback
from kansformer.kan.history import FitHistory, Run, few_threads
from kansformer.kan.init import choose_start
from kansformer.kan.least_squares import Linearization, levenberg_marquardt
from kansformer.kan.linearize import slopes_of_columns
from kansformer.progress import Progress, progress_reporter

if TYPE_CHECKING:
    from kansformer.kan.network import KAN


@dataclass(frozen=True)
class Derivatives:
    """A network at points.

    Args:
        x: the points, (N, D).
        value: the outputs, (N, K).
        first: their derivatives by every input, (N, K, D).
        second: the second derivative by every input, (N, K, D); mixed ones are not here.

    Examples:
        >>> from kansformer.kan import Derivatives, Equation
        >>> x = torch.linspace(0, 1, 20).unsqueeze(-1)
        >>> wave = Equation(x, lambda at: at.second[:, 0, 0] + at.value[:, 0])  # y'' = -y
        >>> solution = Derivatives(x, x.sin(), x.cos().unsqueeze(-1), -x.sin().unsqueeze(-1))
        >>> wave.residual(solution).abs().max()
        tensor(0.)
    """

    x: Tensor
    value: Tensor
    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class Equation:
    """A residual that should be zero at points: a differential equation inside, or a condition on the boundary.

    Args:
        points: (N, D).
        residual: from `Derivatives` to (N,) or (N, R), each row from its own point only; differentiable.
        weight: of the mean square over the points, beside other equations.

    Examples:
        >>> from kansformer.kan import Equation
        >>> x = torch.rand(100, 2)  # position and time
        >>> heat = Equation(x, lambda at: at.first[:, 0, 1] - 0.1 * at.second[:, 0, 0])
        >>> walls = Equation(torch.tensor([[0.0, 0.5], [1.0, 0.5]]), lambda at: at.value[:, 0], weight=10.0)
    """

    points: Tensor
    residual: Callable[[Derivatives], Tensor]
    weight: float = 1.0


def solve_equations(
    model: KAN,
    equations: Sequence[Equation],
    *,
    steps: int = 50,
    grid_update_every: int = 5,
    tolerance: float = 1e-6,
    starts: int = 1,
    callback: Callback | None = None,
    progress: bool | Progress = True,
) -> FitHistory:
    """Fit a network to differential equations (Raissi et al., 2019), in place.

    All derivatives are exact. Start on a coarse grid, then `refine_grid` and solve again.

    Args:
        model: the network; its curves should bend at least twice (B-splines of order 3 or more).
        equations: inside and on the boundary.
        steps: of Levenberg-Marquardt.
        grid_update_every: steps between moving the grids to their inputs, in the first 60 % of the steps; 0 leaves
            all grids.
        tolerance: it ends when four steps improve the residuals by less than this share.
        starts: number of networks with different first coefficients that make a fifth of the steps; the best goes on.
        callback: called after every step with its number from 1, the network and the history.
        progress: True shows a bar; a `Progress` is called after every step.

    Returns:
        The root of the weighted mean squares, after every step, as `train_error`.

    Raises:
        ConfigError: there is no equation, or a weight is not positive.
        ShapeError: points or residuals have the wrong shape.
        DataError: points, or residuals before the first step, are not finite.

    Warns:
        UserWarning: nothing but derivatives of one order occurs, so that boundary or initial conditions are missing.

    Examples:
        >>> from kansformer.kan import KAN, Equation, solve_equations
        >>> decay = Equation(torch.linspace(0, 1, 20).unsqueeze(-1), lambda at: at.first[:, 0, 0] + at.value[:, 0])
        >>> start = Equation(torch.zeros(1, 1), lambda at: at.value[:, 0] - 1)  # so that the solution is exp(-x)
        >>> model = KAN([1, 1], domain=(0, 1))
        >>> history = solve_equations(model, [decay, start], steps=10, progress=False)
        >>> round(model.predict(torch.ones(1, 1)).item(), 3)
        0.368
    """
    starts = check_integer("starts", starts, 1)
    if not equations:
        raise ConfigError("There is no equation to solve.")
    weight = model.layers[0].weight
    placed = []
    for number, equation in enumerate(equations):
        check_number(f"The weight of equation {number}", equation.weight, above=0)
        points = tensor_of(equation.points, f"points of equation {number}").detach().to(weight)
        if points.ndim != 2 or points.shape[1] != sum(model.width[0]) or not len(points):
            raise ShapeError(
                f"The points of equation {number} must be (points, {sum(model.width[0])}), got {tuple(points.shape)}."
            )
        if not points.isfinite().all():
            raise DataError(f"The points of equation {number} are not finite.")
        placed.append(Equation(points, equation.residual, equation.weight))
    points = torch.cat([equation.points for equation in placed])
    inputs = [jets.InputJets(equation.points) for equation in placed]

    def evaluate(model: KAN) -> Linearization:
        parts = [(equation, *jets.network_jets(model, x)) for equation, x in zip(placed, inputs, strict=True)]

        def linearize() -> tuple[Tensor, None]:
            rows = [jets.jacobian(model, layers, _slopes(equation, outputs)) for equation, outputs, layers in parts]
            return torch.cat([slopes_NRP.flatten(0, 1) for slopes_NRP in rows]), None

        return Linearization(torch.cat([_residuals(equation, y).flatten() for equation, y, _ in parts]), linearize)

    if not evaluate(model).residuals.isfinite().all():
        raise DataError("The equations' residuals are not finite for the network as it is.")
    if model.constraints is None or model.constraints.through is None:  # a point is a condition, too
        _warn_without_conditions(
            [(equation, jets.network_jets(model, x)[0]) for equation, x in zip(placed, inputs, strict=True)]
        )
    work = len(points) * sum(p.numel() for p in model.parameters())

    def solve(
        model: KAN, steps: int, progress: bool | Progress, watch: Callable[[FitHistory], None] | None
    ) -> FitHistory:
        with few_threads(work), progress_reporter(progress, "fit", steps, "step") as report:
            run = Run(model, points, steps, report, grid_update_every, tolerance, watch=watch)
            levenberg_marquardt(run, lambda: evaluate(model))
        return run.history

    def watch(history: FitHistory) -> None:
        if callback is not None:
            callback(len(history), model, history)

    if starts > 1:
        choose_start(model, starts, lambda trial: solve(trial, max(1, steps // 5), False, None).train_error)
    return solve(model, steps, progress, watch)


def _warn_without_conditions(parts: list[tuple[Equation, Tensor]]) -> None:
    """Warn if all residuals have derivatives of one order, and are not more than the outputs."""
    orders = []
    for equation, outputs in parts:
        slopes_NRKJ = _slopes(equation, outputs)
        inputs = equation.points.shape[1]
        for column in slopes_NRKJ.unbind(dim=1):
            derivatives = column[..., 1:].split(inputs, dim=-1)
            orders.append(max((order for order, part in enumerate(derivatives, 1) if part.any()), default=0))
    if orders and 0 < min(orders) == max(orders) and len(orders) <= parts[0][1].shape[1]:
        warnings.warn(
            f"The equations have derivatives of order {max(orders)} and no condition of a lower one, so that their "
            "solution is not unique. Add one at the boundary or start: Equation(points, lambda u: u.value[:, 0]).",
            stacklevel=3,
        )


def _residuals(equation: Equation, outputs: Tensor) -> Tensor:
    """(N, R), times the root of the weight over the number of points."""
    value, first, second = outputs[..., 0], *outputs[..., 1:].chunk(2, dim=-1)
    residual = equation.residual(Derivatives(equation.points, value, first, second))
    if residual.ndim == 1:
        residual = residual.unsqueeze(-1)
    if residual.ndim != 2 or len(residual) != len(equation.points):
        raise ShapeError(
            f"A residual must have a row for each of the {len(equation.points)} points, got {tuple(residual.shape)}."
        )
    return residual * (equation.weight / len(residual)) ** 0.5


def _slopes(equation: Equation, outputs: Tensor) -> Tensor:
    """Derivatives of the residuals by the outputs' jets, (N, R, K, J)."""
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        residuals = _residuals(equation, leaf)
        if not residuals.requires_grad:
            return leaf.new_zeros(len(leaf), residuals.shape[1], *leaf.shape[1:])
        return slopes_of_columns(residuals, leaf)
