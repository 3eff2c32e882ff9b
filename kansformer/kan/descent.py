"""Fitting a stand-alone network by the optimizers of torch: L-BFGS, or Adam in batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kansformer.kan.constraints import hold, missing_at_point, without_base
from kansformer.kan.data import Dataset, Pair
from kansformer.kan.history import Run
from kansformer.kan.linearize import Inputs, layer_features, network_states
from kansformer.kan.penalties import Penalties

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

MIN_CHANGE = 1e-32


def descend(
    run: Run,
    data: Dataset,
    optimizer: str,
    loss: str,
    measure: Callable[[KAN, Tensor, Tensor], float],
    batch_size: int | None,
    lr: float | None,
    batches: list[Pair] | None,
    penalties: Penalties,
) -> None:
    """Take a run's steps by the gradients of the loss.

    Args:
        run: its network is fitted, and every step recorded.
        data: samples.
        optimizer, loss, batch_size, lr: as in `fit`.
        measure: of an error, as it is recorded.
        batches: that Adam reads in place of the samples; None takes these.
        penalties: that are added to the loss.
    """
    model = run.model
    best, best_error = copy.deepcopy(model.state_dict()), math.inf
    stepper: torch.optim.Optimizer | None = None
    generator = torch.Generator().manual_seed(0)

    bounded = optimizer == "lbfgs" and penalties.sparsity > 0
    weights: list[Tensor] | None = None

    whole = Inputs(data.train_input, layer_features)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        outputs, states = network_states(model, whole if x is whole.x else Inputs(x, layer_features))
        outputs = outputs + missing_at_point(model)
        value = (outputs - y).square().mean() if loss == "mse" else cross_entropy(outputs, y)
        if not penalties:
            return value
        return value + (penalties.of(model, states) if weights is None else penalties.bound(model, states, weights))

    for step in range(run.steps):
        if run.update_grids(step) or stepper is None:
            stepper = _torch_optimizer(optimizer, model, lr)
        if bounded:
            with torch.no_grad():
                weights = penalties.weights_of_variances(network_states(model, whole)[1])
        for x, y in _batches(data, optimizer, batch_size, batches, generator):

            def closure(x: Tensor = x, y: Tensor = y, stepper: torch.optim.Optimizer = stepper) -> float:
                stepper.zero_grad()
                value = loss_of(x, y)
                value.backward()
                _clear_gradients_of_fixed_numbers(model)
                return value.item()

            before = copy.deepcopy(model.state_dict()) if optimizer == "lbfgs" else None
            try:
                stepper.step(closure)
            except BaseException:  # after Ctrl-C in a search along a line
                if before is not None:
                    model.load_state_dict(before)
                raise
            finally:
                hold(model)
            if optimizer == "lbfgs" and model.constraints is not None and model.constraints.holds_curves:
                stepper = _torch_optimizer(optimizer, model, lr)  # what it remembers is of other points
        error = measure(model, data.train_input, data.train_target)
        if not math.isfinite(error):
            model.load_state_dict(best)
            run.history.stopped = "the error became infinite, and the best network was put back"
            return
        if error < best_error:
            best, best_error = copy.deepcopy(model.state_dict()), error
        objective = None
        if bounded:
            weights = None
            with torch.no_grad():
                objective = loss_of(data.train_input, data.train_target).item()
        if run.record(error, objective) and optimizer == "lbfgs":  # mini-batches make errors rise and fall
            run.history.stopped = "the error no longer falls"
            return


def _torch_optimizer(name: str, model: KAN, lr: float | None) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.numel() and p.requires_grad]
    if name == "adam":
        return torch.optim.Adam(parameters, lr=1e-2 if lr is None else lr)
    return torch.optim.LBFGS(
        parameters,
        lr=1.0 if lr is None else lr,
        max_iter=10,
        tolerance_grad=MIN_CHANGE,  # its own 1e-7 ends a fit of formulas at errors of 1e-5
        tolerance_change=MIN_CHANGE,
        history_size=20,
        line_search_fn="strong_wolfe",
    )


def _batches(
    data: Dataset, optimizer: str, batch_size: int | None, batches: list[Pair] | None, generator: torch.Generator
) -> Iterable[tuple[Tensor, Tensor]]:
    x, y = data.train_input, data.train_target
    if batch_size is not None:
        order = torch.randperm(len(x), generator=generator, device="cpu").to(x.device)
        return [(x[rows], y[rows]) for rows in order.split(batch_size)]
    if optimizer == "lbfgs" or batches is None:
        return [(x, y)]
    pairs = ((torch.as_tensor(a).detach().to(x), torch.as_tensor(b).detach().to(y)) for a, b in batches)
    return ((a, b.unsqueeze(-1) if b.ndim == 1 else b) for a, b in pairs)


def _clear_gradients_of_fixed_numbers(model: KAN) -> None:
    """Of pruned edges and of frozen formulas."""
    for index, (layer, formulas) in enumerate(zip(model.layers, model.formulas, strict=True)):
        if formulas.affine.grad is not None:
            formulas.affine.grad[formulas.frozen] = 0
        gone_IO = ~model.curved(index)
        if layer.weight.grad is not None:
            layer.weight.grad[(gone_IO | without_base(model, index)).mT] = 0
        if layer.coefficients.grad is not None:
            layer.coefficients.grad.transpose(1, 2)[gone_IO] = 0
