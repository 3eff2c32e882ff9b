"""Fitting a stand-alone network: Levenberg-Marquardt, L-BFGS or Adam.

Shape letters: N samples, K outputs, P parameters.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kansformer.errors import ConfigError, DataError, ShapeError
from kansformer.kan.data import Dataset, check_squares, check_table
from kansformer.kan.history import FitHistory, Run
from kansformer.kan.least_squares import Evaluation, levenberg_marquardt
from kansformer.kan.linearize import Inputs, jacobian, layer_state, network_states
from kansformer.kan.network import KAN
from kansformer.kan.penalties import Penalties
from kansformer.kan.threads import few_threads

OPTIMIZERS = ("lm", "lbfgs", "adam")
LOSSES = ("mse", "cross_entropy")


def fit(
    model: KAN,
    data: Dataset | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]],
    *,
    optimizer: str = "lm",
    loss: str = "mse",
    steps: int = 50,
    sparsity: float = 0.0,
    entropy: float = 2.0,
    smoothness: float = 0.0,
    grid_update_every: int = 5,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    tolerance: float = 1e-6,
    starts: int = 1,
    progress: bool = True,
) -> FitHistory:
    """Fit a network to samples, in place. Parameters that require no gradient stay as they are.

    The same network and samples give the same bits; with other numbers of threads only where samples times parameters
    are fewer than 2^20, which takes one thread. No global random state is read or set.

    Args:
        model: the network.
        data: a `Dataset`, a pair (inputs, targets) of tensors or arrays, or an iterable of pairs, such as a DataLoader.
        optimizer: `lm` (Levenberg-Marquardt: full batches, up to a few thousand parameters), `lbfgs` or `adam`.
        loss: `mse`, or `cross_entropy` of outputs as logits and targets as probabilities, not by `lm`.
        steps: optimizer steps; of Adam, passes over the data.
        sparsity: weight of the edges' sizes in the loss, for `prune` to follow; about 1e-3.
        entropy: weight of their entropy beside the sizes.
        smoothness: weight of how much the curves bend, the mean squares of their second derivatives by inputs in halves
            of the domain, in the loss; for noisy samples, about 1e-3.
        grid_update_every: steps between moving hidden grids to their inputs, in the first 60 % of the steps; 0 leaves
            all grids.
        batch_size: of Adam; None takes all samples, or the batches of a DataLoader, which are read once.
        learning_rate: of Adam (1e-2) and L-BFGS (1.0).
        tolerance: a fit by lm or lbfgs ends when four steps improve the training error by less than this share.
        starts: so many networks with other first coefficients make a fifth of the steps, and the best one goes on.
        progress: show a bar.

    Returns:
        The errors of every step.

    Raises:
        ConfigError: a setting is not among its choices.
        ShapeError, DataError: the samples do not fit the network, are not finite, or have targets whose squares are
            not. A fit that becomes so stops, says it in `stopped`, and leaves the best network that it had.
    """
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"Unknown optimizer {optimizer!r}. Choose one of: {', '.join(OPTIMIZERS)}.")
    if loss not in LOSSES or (optimizer == "lm" and loss != "mse"):
        raise ConfigError(
            f"The loss {loss!r} cannot be fitted by {optimizer!r}. Choose mse, or cross_entropy by adam or lbfgs."
        )
    for name, value, least in (("steps", steps, 0), ("grid_update_every", grid_update_every, 0), ("starts", starts, 1)):
        if not isinstance(value, Integral) or value < least:
            raise ConfigError(f"{name} must be a whole number of {least} or more, got {value!r}.")
    for name, weight in (("sparsity", sparsity), ("entropy", entropy), ("smoothness", smoothness)):
        if not 0 <= weight < math.inf:
            raise ConfigError(f"{name} must be a number of 0 or more, got {weight!r}.")
    if optimizer != "adam" and batch_size is not None:
        raise ConfigError(f"batch_size={batch_size!r} is of adam; {optimizer} takes all samples in every step.")
    if optimizer == "lm" and learning_rate is not None:
        raise ConfigError(f"learning_rate={learning_rate!r} is of adam and lbfgs; lm finds the length of its steps.")
    if batch_size is not None and (not isinstance(batch_size, Integral) or batch_size < 1):
        raise ConfigError(f"batch_size must be a whole number of 1 or more, got {batch_size!r}.")
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise ConfigError(f"learning_rate must be a positive number, got {learning_rate!r}.")
    batches = None if isinstance(data, Dataset) or _is_pair(data) else list(data)
    dataset = as_dataset(model, data if batches is None else batches)
    if loss == "cross_entropy":
        _check_probabilities(dataset)
    check_squares(dataset.train_target, "train targets")
    check_squares(dataset.test_target, "test targets")
    penalties = Penalties(sparsity, entropy, smoothness)
    if starts > 1:
        settings: dict[str, Any] = {"loss": loss, "grid_update_every": grid_update_every, **vars(penalties)}
        settings |= {"batch_size": batch_size, "learning_rate": learning_rate, "tolerance": tolerance}
        _begin_with_the_best(model, dataset, starts, optimizer, max(1, steps // 5), settings)
    x, y, test_x, test_y = vars(dataset).values()
    measure = MEASURES[loss]
    run = Run(
        model,
        x,
        steps,
        grid_update_every=grid_update_every,
        tolerance=tolerance,
        measure="RMSE" if loss == "mse" else "cross entropy",
        test=(lambda: measure(model, test_x, test_y)) if len(test_x) else None,
        progress=progress,
    )
    with few_threads(dataset.train_input.shape[0] * sum(p.numel() for p in model.parameters())):
        if optimizer == "lm":
            levenberg_marquardt(run, _Samples(model, x, y, penalties))
        else:
            _descend(run, dataset, optimizer, loss, batch_size, learning_rate, batches, penalties)
    return run.history


def as_dataset(model: KAN, data: Any) -> Dataset:
    """Samples in the network's dtype and on its device.

    Raises:
        ShapeError, DataError: they do not fit.
    """
    if not isinstance(data, Dataset):
        pairs = [(torch.as_tensor(x), torch.as_tensor(y)) for x, y in ([data] if _is_pair(data) else data)]
        if not pairs:
            raise DataError("There are no samples to train on.")
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
    return data.like(weight)


def _is_pair(data: Any) -> bool:
    """Inputs and targets, and not batches of them."""
    return isinstance(data, (tuple, list)) and len(data) == 2 and all(hasattr(table, "shape") for table in data)


def _check_probabilities(data: Dataset) -> None:
    for part in ("train", "test"):
        y = getattr(data, f"{part}_target")
        sums = y.sum(dim=1)
        if y.shape[1] < 2 or (y < 0).any() or not torch.allclose(sums, torch.ones_like(sums)):
            raise DataError(
                f"For cross_entropy the {part} targets must be probabilities of two classes or more in every row, such "
                f"as torch.nn.functional.one_hot(labels) of them; got {y.shape[1]} columns."
            )


def rmse(model: KAN, x: Tensor, y: Tensor) -> float:
    """Root mean square error."""
    with torch.no_grad():
        return (model(x) - y).square().mean().sqrt().item()


def _mean_cross_entropy(model: KAN, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return cross_entropy(model(x), y).item()


MEASURES = {"mse": rmse, "cross_entropy": _mean_cross_entropy}


class _Samples:
    """The errors of a network at samples, each over the root of their number, and what keeps it sparse."""

    def __init__(self, model: KAN, x: Tensor, y: Tensor, penalties: Penalties) -> None:
        self.model, self.inputs, self.y, self.penalties = model, Inputs(x), y, penalties

    def evaluate(self) -> Evaluation:
        outputs, states = network_states(self.model, self.inputs)
        scale = self.y.numel() ** -0.5

        def linearize() -> tuple[Tensor, Tensor | None]:
            quadratic = self.penalties.quadratic(self.model, states)
            return jacobian(self.model, states).flatten(0, 1) * scale, quadratic

        return Evaluation((outputs - self.y).flatten() * scale, linearize)


def _descend(
    run: Run,
    table: Dataset,
    optimizer: str,
    loss: str,
    batch_size: int | None,
    learning_rate: float | None,
    batches: list[Any] | None,
    penalties: Penalties,
) -> None:
    model, measure = run.model, MEASURES[loss]
    best, best_error = copy.deepcopy(model.state_dict()), math.inf
    made: Any = None
    generator = torch.Generator().manual_seed(0)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        states, outputs = [], x
        for index in range(len(model.layers)):
            states.append(layer_state(model, index, outputs))
            outputs = model.nodes(index, states[-1].sums)
        value = (outputs - y).square().mean() if loss == "mse" else cross_entropy(outputs, y)
        return value + penalties.of(model, states) if penalties else value

    for step in range(run.steps):
        if run.update_grids(step) or made is None:
            made = _torch_optimizer(optimizer, model, learning_rate)
        for x, y in _batches(table, optimizer, batch_size, batches, generator):

            def closure(x: Tensor = x, y: Tensor = y, made: Any = made) -> Tensor:
                made.zero_grad()
                value = loss_of(x, y)
                value.backward()
                _keep_dead_edges_dead(model)
                return value

            made.step(closure)
        error = measure(model, table.train_input, table.train_target)
        if not math.isfinite(error):
            model.load_state_dict(best)
            run.end("the error became infinite, and the best network was put back")
            return
        if error < best_error:
            best, best_error = copy.deepcopy(model.state_dict()), error
        if run.record(error) and optimizer == "lbfgs":  # mini-batches make errors rise and fall
            run.end("the error no longer falls")
            return
    run.end()


def _torch_optimizer(name: str, model: KAN, learning_rate: float | None) -> Any:
    parameters = [p for p in model.parameters() if p.numel() and p.requires_grad]
    if name == "adam":
        return torch.optim.Adam(parameters, lr=1e-2 if learning_rate is None else learning_rate)
    rate = 1.0 if learning_rate is None else learning_rate
    return torch.optim.LBFGS(parameters, lr=rate, max_iter=10, history_size=20, line_search_fn="strong_wolfe")


def _batches(
    table: Dataset, optimizer: str, batch_size: int | None, batches: list[Any] | None, generator: torch.Generator
) -> Iterable[tuple[Tensor, Tensor]]:
    x, y = table.train_input, table.train_target
    if optimizer == "lbfgs" or (batch_size is None and batches is None):
        return [(x, y)]
    if batch_size is None and batches is not None:
        return ((torch.as_tensor(a).to(x), torch.as_tensor(b).to(y)) for a, b in batches)
    order = torch.randperm(len(x), generator=generator).to(x.device)
    return [(x[rows], y[rows]) for rows in order.split(batch_size)]


def _keep_dead_edges_dead(model: KAN) -> None:
    for index, layer in enumerate(model.layers):
        gone_IO = ~model.curved(index)
        if layer.weight.grad is not None:
            layer.weight.grad[gone_IO.mT] = 0
        if layer.coefficients.grad is not None:
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
        error = history.train_error[-1] if len(history) else math.inf
        if error < best[0]:
            best = (error, trial.state_dict())
    if best[1] is not None:
        model.load_state_dict(best[1])
