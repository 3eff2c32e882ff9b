"""Fitting a stand-alone network: Levenberg-Marquardt, L-BFGS or Adam.

Shape letters: N samples, K outputs, P parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from kansformer.checks import check_choice, check_integer, check_number
from kansformer.errors import ConfigError, DataError
from kansformer.kan.constraints import (
    checked_constraints,
    constrain,
    hold,
    turn_towards,
)
from kansformer.kan.data import Dataset, Pair, Samples, as_dataset, check_squares, dataset_for, is_pair, of_mapping
from kansformer.kan.descent import descend
from kansformer.kan.history import COLUMNS, FitHistory, Run, few_threads
from kansformer.kan.init import choose_start, draw_at_inputs, start_at_targets
from kansformer.kan.least_squares import Linearization, levenberg_marquardt
from kansformer.kan.linearize import FirstOrder, Inputs, jacobian, layer_features, network_states
from kansformer.kan.penalties import Penalties
from kansformer.kan.selection import Setting, choose_smoothness
from kansformer.progress import Progress, progress_reporter

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

Options = ParamSpec("Options")

Callback: TypeAlias = "Callable[[int, KAN, FitHistory], object]"
Metric: TypeAlias = "Callable[[KAN, Dataset], float | Tensor]"

OPTIMIZERS = ("lm", "lbfgs", "adam")
LOSSES = ("mse", "cross_entropy")
# Most steps of fits that are only judged.
JUDGED_STEPS = 20
# Numbers of a Jacobian that is held as a whole, and of a block of a larger one.
MAX_JACOBIAN, BLOCK = 5 * 10**7, 8 * 10**6


def fit(
    model: KAN,
    data: Samples,
    *,
    optimizer: str = "lm",
    loss: str = "mse",
    steps: int = 50,
    sparsity: float = 0.0,
    entropy: float = 2.0,
    smoothness: float | Literal["auto"] = 0.0,
    grid_update_every: int = 5,
    batch_size: int | None = None,
    lr: float | None = None,
    tolerance: float = 1e-6,
    starts: int = 1,
    constraints: Mapping[str, object] | None = None,
    callback: Callback | None = None,
    metrics: Mapping[str, Metric] | None = None,
    progress: bool | Progress = True,
) -> FitHistory:
    """Fit a network to samples, in place. Parameters that require no gradient stay as they are.

    Samples may have any units: the first fit draws the curves on the range of inputs that are far outside of their
    domain, and makes them small for targets that are.

    The same network and samples give the same bits; with other numbers of threads only where samples times parameters
    are fewer than 2^20, which takes one thread. No global random state is read or set.

    Args:
        model: the network.
        data: a `Dataset`, a pair (inputs, targets) of tensors or arrays, or an iterable of pairs, such as a DataLoader.
        optimizer: `lm` (Levenberg-Marquardt: full batches, up to a few thousand parameters), `lbfgs` or `adam`.
        loss: `mse`, or `cross_entropy` of outputs as logits and targets as probabilities, not by `lm`.
        steps: optimizer steps; of Adam, passes over the data.
        sparsity: weight of the edges' sizes in the loss, for `prune` to follow; about 1e-3, or 1e-2 with the entropy 10
            of pykan's examples. lm leaves one path more often than lbfgs does.
        entropy: weight of their entropy beside the sizes; lbfgs takes that of pykan, in which nodes without large edges
            count less.
        smoothness: weight of the curvature in the loss, the mean squares of the curves' second derivatives by inputs in
            halves of the domain; for noisy samples, about 1e-3. `auto` chooses it by cross-validation: `smoothness` of
            the result.
        grid_update_every: steps between moving the grids to their inputs, in the first 60 % of the steps; 0 leaves
            all grids.
        batch_size: of Adam; None takes all samples, or the batches of a DataLoader, which are read once.
        lr: learning rate of Adam (1e-2) and L-BFGS (1.0).
        tolerance: a fit by lm or lbfgs ends when four steps improve the training error by less than this share.
        constraints: shapes that the network has exactly, everywhere, from now on: `monotone`, for every input 1 (the
            outputs rise with it), -1 (they fall) or 0; `curvature`, 1 (convex), -1 (concave) or 0, without hidden
            layers; `outputs`, 1 or -1 for every output, which turns its `monotone`. A sequence, or a mapping of
            numbers from 0, such as {"monotone": {0: 1}}. `lower` and `upper`: bounds of the outputs, a number or one
            for each of them; `through`: a point (inputs, outputs). Bounds go with `monotone` only; with them the curves
            of the last layer have no base, and are constant outside their domains, for every output. Other edges that
            are held have no base unless it obeys. {} ends all; None keeps those of the fit before. Of B-splines only.
            `save` keeps them, a `state_dict` does not.
        starts: number of networks with different first coefficients that make a fifth of the steps; the best goes on.
        callback: called after every step with its number from 1, the network and the history, to draw a picture, say.
        metrics: functions of the network and the `Dataset` by name, such as {"accuracy": …}; their values after every
            step are in the history.
        progress: True shows a bar; a `Progress` is called after every step.

    Returns:
        The errors of every step.

    Raises:
        ConfigError: a setting is not among its choices.
        ShapeError, DataError: the samples do not fit the network, are not finite, or have targets whose squares are
            not. If the error becomes infinite during the fit, it stops, says so in `stopped`, and restores the best
            network so far.
    """
    check_choice("optimizer", optimizer, OPTIMIZERS)
    if loss not in LOSSES or (optimizer == "lm" and loss != "mse"):
        raise ConfigError(
            f"The loss {loss!r} cannot be fitted by {optimizer!r}. Choose mse, or cross_entropy by adam or lbfgs."
        )
    if optimizer != "lm" and torch.is_inference_mode_enabled():
        raise ConfigError(f"{optimizer} needs gradients, and torch.inference_mode() records none. Fit outside of it.")
    steps, starts = check_integer("steps", steps, 0), check_integer("starts", starts, 1)
    grid_update_every = check_integer("grid_update_every", grid_update_every, 0)
    given = 0.0 if smoothness == "auto" else smoothness
    settings = {"sparsity": sparsity, "entropy": entropy, "smoothness": given, "tolerance": tolerance}
    for name, value in settings.items():
        check_number(name, value, 0)
    if optimizer != "adam" and batch_size is not None:
        raise ConfigError(f"batch_size={batch_size!r} is of adam; {optimizer} takes all samples in every step.")
    if optimizer == "lm" and lr is not None:
        raise ConfigError(f"lr={lr!r} is of adam and lbfgs; lm finds the length of its steps.")
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1)
    if lr is not None:
        check_number("lr", lr, above=0)
    if callback is not None and not callable(callback):
        raise ConfigError(f"callback must be a function of step, network and history, got {callback!r:.80}.")
    if not (isinstance(progress, bool) or callable(progress)):
        raise ConfigError(f"progress must be True, False or a function, got {progress!r:.80}.")
    data = of_mapping(data) if isinstance(data, Mapping) else data
    data = data.tensors if isinstance(data, TensorDataset) else data
    batches = None if isinstance(data, Dataset) or is_pair(data) else list(cast("Iterable[Pair]", data))
    dataset = dataset_for(model, data if batches is None else batches)
    if loss == "cross_entropy":
        _check_probabilities(dataset)
    check_squares(dataset.train_target, "train targets")
    check_squares(dataset.test_target, "test targets")
    metrics = {} if metrics is None else metrics
    for name, metric in metrics.items():
        _value(name, metric, model, dataset)
    expected = model.constraints if constraints is None else checked_constraints(constraints, model)
    if expected is not None:
        checked_constraints(expected.to_dict(), model)  # a loaded network may have formulas
    if expected != model.constraints:
        constrain(model, expected)
        turn_towards(model)
    hold(model)
    if smoothness == "auto":

        def fit_to_judge(trial: KAN, fold: Dataset, setting: Setting) -> None:
            fit(
                trial,
                fold,
                optimizer=optimizer,
                loss=loss,
                steps=min(steps, JUDGED_STEPS),
                sparsity=sparsity,
                entropy=entropy,
                smoothness=setting.smoothness,
                grid_update_every=grid_update_every,
                batch_size=batch_size,
                lr=lr,
                progress=False,
            )

        given = choose_smoothness(model, dataset, fit_to_judge, loss)
    penalties = Penalties(sparsity, entropy, given, idle=1.0 if optimizer == "lbfgs" else 0.0)
    measure = MEASURES[loss]
    x, y, test_x, test_y = vars(dataset).values()

    def watch(history: FitHistory) -> None:
        for name, metric in metrics.items():
            history.metrics.setdefault(name, []).append(_value(name, metric, model, dataset))
        if callback is not None:
            callback(len(history), model, history)

    def fit_once(
        model: KAN,
        steps: int,
        batches: list[Pair] | None,
        progress: bool | Progress,
        watch: Callable[[FitHistory], None] | None = None,
    ) -> FitHistory:
        work = len(x) * sum(p.numel() for p in model.parameters())
        with few_threads(work), progress_reporter(progress, "fit", steps, "step") as report:
            if steps and grid_update_every:
                draw_at_inputs(model, x)
            if steps and loss == "mse":
                start_at_targets(model, x, y)
            test = (lambda: measure(model, test_x, test_y)) if len(test_x) else None
            history = FitHistory(measure="RMSE" if loss == "mse" else "cross entropy", smoothness=given)
            run = Run(model, x, steps, report, grid_update_every, tolerance, test, history, watch=watch)
            if optimizer == "lm":
                if len(x) * y.shape[1] * sum(p.numel() for p in model.parameters()) <= MAX_JACOBIAN:
                    inputs = Inputs(x, layer_features)
                    levenberg_marquardt(run, lambda: _linearized(model, inputs, y, penalties))
                else:
                    levenberg_marquardt(run, lambda: _linearized_in_blocks(model, x, y, penalties))
            else:
                descend(run, dataset, optimizer, loss, measure, batch_size, lr, batches, penalties)
        return history

    if starts > 1 and steps:
        choose_start(model, starts, lambda trial: fit_once(trial, max(1, steps // 5), None, progress=False).train_error)
    return fit_once(model, steps, batches, progress, watch)


@torch.no_grad()
def _value(name: str, metric: Metric, model: KAN, dataset: Dataset) -> float:
    """The value of a metric; a ConfigError if it is not a number, or its name is taken."""
    if name in COLUMNS:
        raise ConfigError(f"A metric cannot be named {name!r}: the history has that column. Taken are {COLUMNS}.")
    try:
        return float(metric(model, dataset))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"The metric {name!r} gives no number for the network and its samples: {error}") from error


def num_curved(model: KAN) -> int:
    """The number of edges that are curves."""
    return sum(int(model.curved(index).sum()) for index in range(len(model.layers)))


def with_warning(
    fit: Callable[Concatenate[KAN, Samples, Options], FitHistory],
) -> Callable[Concatenate[KAN, Samples, Options], FitHistory]:
    """`fit` for callers outside of the library: it warns of networks with more numbers than half of the samples."""

    @wraps(fit)
    def warned(model: KAN, data: Samples, *args: Options.args, **options: Options.kwargs) -> FitHistory:
        if isinstance(data, Dataset) or is_pair(data):
            rows = len(as_dataset(data).train_input)
            numbers = num_curved(model) * model.layers[0].coefficients.shape[1]
            if 2 * numbers > rows and not options.get("smoothness"):
                warnings.warn(
                    f"The network's curves have {numbers} numbers, which {rows} samples hardly determine. Take a "
                    "smaller grid_size, fewer nodes, or smoothness='auto'.",
                    stacklevel=2,
                )
        return fit(model, data, *args, **options)

    return warned


def _check_probabilities(data: Dataset) -> None:
    for part, y in (("train", data.train_target), ("test", data.test_target)):
        if y.shape[1] < 2 or (y < 0).any() or not torch.allclose(y.sum(dim=1), y.new_ones(len(y))):
            raise DataError(
                f"For cross_entropy the {part} targets must be probabilities of two classes or more in every row, such "
                f"as torch.nn.functional.one_hot(labels) of them; got {y.shape[1]} columns."
            )


@torch.no_grad()
def rmse(model: KAN, x: Tensor, y: Tensor) -> float:
    """Root mean square error."""
    return (model(x) - y).square().mean().sqrt().item()


@torch.no_grad()
def _mean_cross_entropy(model: KAN, x: Tensor, y: Tensor) -> float:
    return cross_entropy(model(x), y).item()


MEASURES = {"mse": rmse, "cross_entropy": _mean_cross_entropy}


def _linearized(model: KAN, inputs: Inputs[FirstOrder], y: Tensor, penalties: Penalties) -> Linearization:
    """Errors of a network, each divided by the root of their number, and its penalties."""
    outputs, states = network_states(model, inputs)
    scale = y.numel() ** -0.5

    def linearize() -> tuple[Tensor, Tensor | None]:
        return jacobian(model, states).flatten(0, 1) * scale, penalties.quadratic(model, states)

    return Linearization((outputs - y).flatten() * scale, linearize)


def _linearized_in_blocks(model: KAN, x: Tensor, y: Tensor, penalties: Penalties) -> Linearization:
    """What `_linearized` gives, in bounded memory: blocks of rows are evaluated anew for their derivatives.

    Sizes of edges, which sparsity penalises, are taken from rows in equal distances.
    """
    parameters = sum(p.numel() for p in model.parameters())
    rows, scale = max(1, BLOCK // (parameters * y.shape[1])), y.numel() ** -0.5

    def jacobians() -> Iterator[Tensor]:
        for part in x.split(rows):
            states = network_states(model, Inputs(part, layer_features))[1]
            yield jacobian(model, states).flatten(0, 1) * scale

    def linearize() -> tuple[Iterator[Tensor], Tensor | None]:
        some = x[:: -(-len(x) // rows)]
        return jacobians(), penalties.quadratic(model, network_states(model, Inputs(some, layer_features))[1])

    outputs = torch.cat([network_states(model, Inputs(part, layer_features))[0] for part in x.split(rows)])
    return Linearization((outputs - y).flatten() * scale, linearize)
