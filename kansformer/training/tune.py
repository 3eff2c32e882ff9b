"""Train the curves of a converted model and nothing else.

Shape letters: N blocks, T tokens of a block, B blocks of a batch.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kansformer.errors import ConfigError, DataError
from kansformer.nn import optimizer_groups
from kansformer.nn.optim import curve_parameters
from kansformer.progress import Progress, loss_and_speed
from kansformer.training.evaluate import check_blocks


@dataclass(frozen=True)
class TuneResult:
    """What a run of `tune_curves` did.

    Args:
        losses: training loss of every step, in nats per token.
        tokens: tokens read, over all steps.
        seconds: wall-clock time.
        parameters: numbers that were trained.
    """

    losses: tuple[float, ...]
    tokens: int
    seconds: float
    parameters: int


def tune_curves(
    model: nn.Module,
    blocks_NT: Tensor,
    *,
    steps: int,
    batch_size: int = 8,
    lr: float = 1e-3,
    curve_lr_multiplier: float | None = None,
    warm_up: float = 0.1,
    clip: float | None = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> TuneResult:
    """Bend the curves of a causal language model on a text, in place, with all base weights frozen.

    AdamW with a linear warm-up and half a cosine down to zero. Dropout stays off, so that the result depends on the
    arguments only; no global random state is read or set.

    Args:
        model: a converted causal language model of transformers.
        blocks_NT: token numbers, int64. Every epoch reads them in a new order, in full batches.
        steps: optimizer steps.
        batch_size: B.
        lr: the learning rate that base weights would have; curves get a multiple of it. The larger the pretrained
            model, the smaller: SmolLM2-135M wants 1.5e-4.
        curve_lr_multiplier: that multiple; None takes the measured one, as `optimizer_groups` does.
        warm_up: share of the steps with a rising learning rate, in [0, 1].
        clip: largest norm of a gradient; None does not clip.
        seed: of the order of the blocks.
        progress: called after every step.

    Returns:
        A `TuneResult`.

    Raises:
        ConfigError: the model has no curves, a setting is out of range, or the loss became infinite or NaN: then the
            curves are put back as they were.
        DataError: the blocks are misshapen, or fewer than one batch.
    """
    check_blocks(blocks_NT, batch_size)
    if steps < 1:
        raise ConfigError(f"steps={steps} must be 1 or more.")
    if not (math.isfinite(lr) and lr > 0):
        raise ConfigError(f"lr={lr} must be a number above 0.")
    if not 0 <= warm_up <= 1:
        raise ConfigError(f"warm_up={warm_up} must be a share of the steps, from 0 to 1.")
    if clip is not None and not clip > 0:
        raise ConfigError(f"clip={clip} must be a number above 0, or None.")
    if len(blocks_NT) < batch_size:
        raise DataError(f"{len(blocks_NT)} blocks are fewer than one batch of {batch_size}.")
    curves = [parameter for _, parameter in curve_parameters(model)]
    if not curves:
        raise ConfigError(f"{type(model).__name__} has no curves to tune. Call kansformer.convert(model) first.")

    losses, begin = [], time.perf_counter()
    with only_trained(model, curves):
        groups = optimizer_groups(model, lr, weight_decay=0.0, curve_lr_multiplier=curve_lr_multiplier)
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_up_and_cosine(step, steps, warm_up))
        start = [parameter.detach().clone() for parameter in curves]
        batches = draw_batches(blocks_NT, batch_size, seed)
        for step in range(1, steps + 1):
            batch_BT = next(batches).to(curves[0].device)
            loss = model(input_ids=batch_BT, labels=batch_BT, use_cache=False).loss
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                put_back(curves, start)
                raise ConfigError(
                    f"The loss became {losses[-1]} at step {step} of {steps}. The curves are as before; choose a lr "
                    f"below {lr:g}."
                )
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(curves, clip)
            optimizer.step()
            scheduler.step()
            if progress is not None:
                rate = step * batch_BT.numel() / (time.perf_counter() - begin)
                progress("tuning", step, steps, loss_and_speed(losses[-1], rate))
    return TuneResult(
        losses=tuple(losses),
        tokens=steps * batch_size * blocks_NT.shape[1],
        seconds=time.perf_counter() - begin,
        parameters=sum(parameter.numel() for parameter in curves),
    )


def draw_batches(blocks_NT: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Full batches (B, T) without end: every epoch in a new order, which depends on the seed only."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order_N = torch.randperm(len(blocks_NT), generator=generator)
        for start in range(0, len(order_N) - batch_size + 1, batch_size):
            yield blocks_NT[order_N[start : start + batch_size]]


@contextmanager
def only_trained(model: nn.Module, trained: list[nn.Parameter]) -> Iterator[None]:
    """Only `trained` require a gradient, in evaluation mode; flags, gradients and mode are put back afterwards."""
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    training, chosen = model.training, {id(parameter) for parameter in trained}
    try:
        model.eval()
        for parameter, _, _ in flags:
            parameter.requires_grad_(id(parameter) in chosen)
            parameter.grad = None
        yield
    finally:
        for parameter, flag, gradient in flags:
            parameter.requires_grad_(flag)
            parameter.grad = gradient
        model.train(training)


@torch.no_grad()
def put_back(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def warm_up_and_cosine(step: int, steps: int, warm_up: float) -> float:
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
