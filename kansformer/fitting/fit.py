"""Fitting a stand-alone network: Levenberg-Marquardt, L-BFGS or Adam.

Shape letters: N samples, K outputs, P parameters.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kansformer.errors import ConfigError, DataError, ShapeError
from kansformer.fitting.data import Dataset, check_table
from kansformer.fitting.linearize import Parameters, layer_state, linearize
from kansformer.fitting.network import KAN
from kansformer.fitting.penalties import penalty, quadratic_penalty
from kansformer.nn import update_grid

if TYPE_CHECKING:
    import pandas

OPTIMIZERS = ("lm", "lbfgs", "adam")
LOSSES = ("mse", "cross_entropy")
# Levenberg-Marquardt: damping at first, after a step that helped, after one that did not; and a floor for the diagonal.
FIRST_DAMPING, LESS, MORE, LEAST_DAMPING = 1e-2, 0.2, 5.0, 1e-16
# Up to so many parameters a factorisation of the Jacobian takes no longer than the rest of a step.
MOST_EXACT = 64
TRIALS, RIDGE, LEAST_DIAGONAL = 10, 1e-10, 1e-8
# Grids move in this share of the steps, so that the last ones fit on fixed grids.
MOVING = 0.6
GRID_MARGIN = 0.05
# Numbers of a Jacobian from which on several threads pay.
SHARED_WORK = 2**20
# A fit ends when this many steps together improve the error by less than the tolerance.
PATIENCE = 4


@dataclass
class FitHistory:
    """Root mean square errors after every step, and the seconds since the beginning.

    Args:
        train_rmse, test_rmse: of training and test samples; the latter are NaN without any.
        seconds: since the fit began.
        stopped: why it ended before its last step, or None.
    """

    train_rmse: list[float] = field(default_factory=list)
    test_rmse: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stopped: str | None = None

    def __len__(self) -> int:
        return len(self.train_rmse)

    def __str__(self) -> str:
        if not len(self):
            return "No step was made."
        end = f" Ended early: {self.stopped}." if self.stopped else ""
        test = "" if math.isnan(self.test_rmse[-1]) else f", test {self.test_rmse[-1]:.3g}"
        return f"{len(self)} steps in {self.seconds[-1]:.2f} s: RMSE {self.train_rmse[-1]:.3g}{test}.{end}"

    def to_pandas(self) -> pandas.DataFrame:
        """One row per step: train_rmse, test_rmse, seconds."""
        import pandas

        return pandas.DataFrame({name: getattr(self, name) for name in ("train_rmse", "test_rmse", "seconds")})


def fit(
    model: KAN,
    data: Dataset | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]],
    *,
    optimizer: str = "lm",
    loss: str = "mse",
    steps: int = 50,
    sparsity: float = 0.0,
    entropy: float = 2.0,
    grid_update_every: int = 5,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    tolerance: float = 1e-6,
    starts: int = 1,
    progress: bool = True,
) -> FitHistory:
    """Fit a network to samples, in place.

    Args:
        model: the network.
        data: a `Dataset`, a pair (inputs, targets), or an iterable of such pairs such as a DataLoader.
        optimizer: `lm` (Levenberg-Marquardt: full batches, up to a few thousand parameters), `lbfgs` or `adam`.
        loss: `mse`, or `cross_entropy` of outputs as logits and targets as probabilities, not by `lm`.
        steps: optimizer steps; of Adam, passes over the data.
        sparsity: weight of the edges' sizes in the loss, for `prune` to follow; about 1e-3.
        entropy: weight of their entropy beside the sizes.
        grid_update_every: steps between moving hidden grids to their inputs, in the first 60 % of the steps; 0 leaves
            all grids.
        batch_size: of Adam; None takes all samples, or the batches of a DataLoader.
        learning_rate: of Adam (1e-2) and L-BFGS (1.0).
        tolerance: the fit ends when four steps improve the training error by less than this share.
        starts: so many networks with other first coefficients make a fifth of the steps, and the best one goes on.
        progress: show a bar.

    Returns:
        The errors of every step.

    Raises:
        ConfigError: a setting is not among its choices.
        ShapeError, DataError: the samples do not fit the network or are not finite. A fit that becomes so stops, says
            it in `stopped`, and leaves the best network that it had.
    """
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"Unknown optimizer {optimizer!r}. Choose one of: {', '.join(OPTIMIZERS)}.")
    if loss not in LOSSES or (optimizer == "lm" and loss != "mse"):
        raise ConfigError(
            f"The loss {loss!r} cannot be fitted by {optimizer!r}. Choose mse, or cross_entropy by adam or lbfgs."
        )
    for name, value in (("steps", steps), ("grid_update_every", grid_update_every), ("starts", starts - 1)):
        if not isinstance(value, int) or value < 0:
            raise ConfigError(f"{name} is out of range: {value + (name == 'starts')!r}.")
    if sparsity < 0 or entropy < 0:
        raise ConfigError(f"sparsity and entropy must be 0 or more, got {sparsity!r} and {entropy!r}.")
    dataset = as_dataset(model, data)
    settings: dict[str, Any] = {"sparsity": sparsity, "entropy": entropy, "grid_update_every": grid_update_every}
    if starts > 1:
        _begin_with_the_best(model, dataset, starts, optimizer, max(1, steps // 5), settings)
    run = _Run(model, dataset, steps, tolerance, bool(grid_update_every), progress)
    with few_threads(dataset.train_input.shape[0] * sum(p.numel() for p in model.parameters())):
        if optimizer == "lm":
            _levenberg_marquardt(run, **settings)
        else:
            _descend(run, optimizer, loss, batch_size, learning_rate, data, **settings)
    return run.history


@contextmanager
def few_threads(work: int) -> Iterator[None]:
    """One thread for work that is too small to share: waiting for others would take longer than doing it."""
    before = torch.get_num_threads()
    if work < SHARED_WORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def as_dataset(model: KAN, data: Any) -> Dataset:
    """Samples in the network's dtype and on its device.

    Raises:
        ShapeError, DataError: they do not fit.
    """
    if not isinstance(data, Dataset):
        pairs = [data] if isinstance(data, (tuple, list)) and isinstance(data[0], Tensor) else list(data)
        x, y = (torch.cat(column) for column in zip(*pairs, strict=True))
        check_table(x, y, "train")
        data = Dataset(x, y, x[:0], y[:0])
    weight = model.layers[0].weight
    inputs, outputs = sum(model.width[0]), sum(model.width[-1])
    if data.train_input.shape[1] != inputs or data.train_target.shape[1] != outputs:
        raise ShapeError(
            f"The network has {inputs} inputs and {outputs} outputs, the samples {data.train_input.shape[1]} and "
            f"{data.train_target.shape[1]}."
        )
    if not len(data.train_input):
        raise DataError("There are no samples to train on.")
    return data.to(weight)


class _Run:
    """The loop around every optimizer: errors, the bar, the best state, and when to end."""

    def __init__(
        self, model: KAN, data: Dataset, steps: int, tolerance: float, grids_move: bool, progress: bool
    ) -> None:
        self.model, self.data, self.steps, self.tolerance = model, data, steps, tolerance
        self.history, self.grids_move = FitHistory(), grids_move
        self._begin = time.perf_counter()
        self._bar = None
        if progress:
            from tqdm import tqdm

            self._bar = tqdm(total=steps, desc="fit", unit="step", disable=None)

    def update_grids(self, step: int, every: int) -> bool:
        """Move the grids where this step asks for it; whether they moved."""
        due = every and step % every == 0 and step <= MOVING * self.steps
        if due:
            update_grid(self.model, self.data.train_input, margin=GRID_MARGIN)
        return bool(due)

    @torch.no_grad()
    def record(self, train_rmse: float) -> bool:
        """Note a step; whether the fit may end here."""
        history, test = self.history, float("nan")
        if len(self.data.test_input):
            test = rmse(self.model, self.data.test_input, self.data.test_target)
        history.train_rmse.append(train_rmse)
        history.test_rmse.append(test)
        history.seconds.append(time.perf_counter() - self._begin)
        if self._bar is not None:
            self._bar.update()
            self._bar.set_postfix_str(f"RMSE {train_rmse:.2e}, test {test:.2e}")
        recent = history.train_rmse[-PATIENCE - 1 :]
        moving = MOVING * self.steps if self.grids_move else 0  # grids that move may raise the error
        settled = len(history) > moving + PATIENCE
        return settled and recent[0] - recent[-1] < self.tolerance * recent[0]

    def end(self, why: str | None = None) -> None:
        self.history.stopped = why
        if self._bar is not None:
            self._bar.close()


def rmse(model: KAN, x: Tensor, y: Tensor) -> float:
    """Root mean square error."""
    with torch.no_grad():
        return (model(x) - y).square().mean().sqrt().item()


def _levenberg_marquardt(run: _Run, sparsity: float, entropy: float, grid_update_every: int) -> None:
    model, x, y = run.model, run.data.train_input, run.data.train_target
    damping = FIRST_DAMPING
    for step in range(run.steps):
        run.update_grids(step, grid_update_every)
        parameters = Parameters(model)
        now_P = parameters.read()
        outputs, jacobian, states = linearize(model, x)
        residual = (outputs - y).flatten()
        if not residual.isfinite().all():
            run.end("the network's outputs are not finite")
            return
        scale = len(residual) ** -0.5
        jacobian, residual = jacobian.flatten(0, 1) * scale, residual * scale
        quadratic = None
        if sparsity:
            sizes = [formulas.affine.numel() for formulas in model.formulas]
            quadratic = sparsity * quadratic_penalty(states, sizes, entropy)
        before = _objective(residual, now_P, quadratic)
        solve = _Damped(jacobian, residual, now_P, quadratic)
        improved = False
        for _ in range(TRIALS):
            change_P = solve(damping)
            if change_P is not None:
                parameters.write(now_P - change_P)
                new_residual = (model(x) - y).flatten().detach() * scale
                after = _objective(new_residual, now_P - change_P, quadratic)
                if after < before:
                    improved, damping = True, max(LESS * damping, LEAST_DAMPING)
                    residual = new_residual
                    break
            damping *= MORE
        if not improved:
            parameters.write(now_P)
            damping = min(damping, 1 / FIRST_DAMPING)
        ended = run.record(residual.square().sum().sqrt().item())
        moving = grid_update_every and step < MOVING * run.steps
        if ended or not (improved or moving or sparsity):
            run.end("the error no longer falls" if step < run.steps - 1 else None)
            return
    run.end()


def _objective(residual: Tensor, vector_P: Tensor, quadratic: Tensor | None) -> float:
    value = residual.square().sum() / 2
    if quadratic is not None:
        value = value + vector_P @ quadratic @ vector_P / 2
    return value.item() if value.isfinite() else math.inf


class _Damped:
    """Steps that solve (JᵀJ + Q + damping·diagonal) δ = Jᵀr + Qp.

    Few parameters are fitted to the last digit, as those of formulas: a factorisation of J stands in for the normal
    equations there.
    """

    def __init__(self, jacobian: Tensor, residual: Tensor, vector_P: Tensor, quadratic: Tensor | None) -> None:
        self.jacobian, self.residual = jacobian, residual
        self.exact = quadratic is None and 4 * jacobian.shape[1] < len(jacobian) and jacobian.shape[1] <= MOST_EXACT
        self.gradient = jacobian.mT @ residual
        if self.exact:
            self.diagonal = jacobian.square().sum(dim=0)
            self.triangle, rotated = torch.linalg.qr(jacobian)[::-1]
            self.rotated = rotated.mT @ residual
            return
        self.matrix = jacobian.mT @ jacobian
        if quadratic is not None:
            self.matrix, self.gradient = self.matrix + quadratic, self.gradient + quadratic @ vector_P
        self.diagonal = self.matrix.diagonal()

    def __call__(self, damping: float) -> Tensor | None:
        diagonal = damping * self.diagonal.clamp(min=LEAST_DIAGONAL) + RIDGE * damping
        if self.exact:
            rows = torch.cat([self.triangle, diagonal.sqrt().diag()])
            target = torch.cat([self.rotated, torch.zeros_like(self.diagonal)])
            found = torch.linalg.lstsq(rows, target.unsqueeze(-1), driver="gelsd").solution[:, 0]
            return found if found.isfinite().all() else None
        factor, failed = torch.linalg.cholesky_ex(self.matrix + (diagonal + RIDGE).diag())
        return None if failed else torch.cholesky_solve(self.gradient.unsqueeze(-1), factor)[:, 0]


def _descend(
    run: _Run,
    optimizer: str,
    loss: str,
    batch_size: int | None,
    learning_rate: float | None,
    data: Any,
    sparsity: float,
    entropy: float,
    grid_update_every: int,
) -> None:
    model, table = run.model, run.data
    best, best_rmse = copy.deepcopy(model.state_dict()), math.inf
    made: Any = None
    generator = torch.Generator().manual_seed(0)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        states, outputs = [], x
        for index in range(len(model.layers)):
            states.append(layer_state(model, index, outputs))
            outputs = model.nodes(index, states[-1].sums)
        value = (outputs - y).square().mean() if loss == "mse" else torch.nn.functional.cross_entropy(outputs, y)
        return value + sparsity * penalty(states, entropy) if sparsity else value

    for step in range(run.steps):
        if run.update_grids(step, grid_update_every) or made is None:
            made = _torch_optimizer(optimizer, model, learning_rate)
        for x, y in _batches(table, optimizer, batch_size, data, generator):

            def closure(x: Tensor = x, y: Tensor = y, made: Any = made) -> Tensor:
                made.zero_grad()
                value = loss_of(x, y)
                value.backward()
                _keep_dead_edges_dead(model)
                return value

            made.step(closure)
        error = rmse(model, table.train_input, table.train_target)
        if not math.isfinite(error):
            model.load_state_dict(best)
            run.end("the error became infinite, and the best network was put back")
            return
        if error < best_rmse:
            best, best_rmse = copy.deepcopy(model.state_dict()), error
        if run.record(error) and optimizer == "lbfgs":
            run.end("the error no longer falls")
            return
    run.end()


def _torch_optimizer(name: str, model: KAN, learning_rate: float | None) -> Any:
    parameters = [p for p in model.parameters() if p.numel()]
    if name == "adam":
        return torch.optim.Adam(parameters, lr=1e-2 if learning_rate is None else learning_rate)
    rate = 1.0 if learning_rate is None else learning_rate
    return torch.optim.LBFGS(parameters, lr=rate, max_iter=10, history_size=20, line_search_fn="strong_wolfe")


def _batches(
    table: Dataset, optimizer: str, batch_size: int | None, data: Any, generator: torch.Generator
) -> Iterable[tuple[Tensor, Tensor]]:
    x, y = table.train_input, table.train_target
    if optimizer == "lbfgs" or (batch_size is None and isinstance(data, (Dataset, tuple, list))):
        return [(x, y)]
    if batch_size is None:
        return ((a.to(x), b.to(y)) for a, b in data)
    order = torch.randperm(len(x), generator=generator).to(x.device)
    return [(x[rows], y[rows]) for rows in order.split(batch_size)]


def _keep_dead_edges_dead(model: KAN) -> None:
    for index, layer in enumerate(model.layers):
        gone_IO = ~model.curved(index)
        layer.weight.grad[gone_IO.mT] = 0
        layer.coefficients.grad.transpose(1, 2)[gone_IO] = 0


def _begin_with_the_best(
    model: KAN, data: Dataset, starts: int, optimizer: str, steps: int, settings: dict[str, Any]
) -> None:
    best: tuple[float, Any] = (math.inf, None)
    for seed in range(starts):
        trial = copy.deepcopy(model)
        if seed:
            trial.restart(seed)
        history = fit(trial, data, optimizer=optimizer, steps=steps, progress=False, **settings)
        error = history.train_rmse[-1] if len(history) else math.inf
        if error < best[0]:
            best = (error, trial.state_dict())
    if best[1] is not None:
        model.load_state_dict(best[1])
