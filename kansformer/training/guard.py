"""What a run does about non-finite values and about SIGTERM: agreed among all processes, step by step.

The guard's signatures are those of `transformers.TrainerCallback`, and `kwargs` has the other arguments of an event.
"""

import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import TrainerCallback

from kansformer.checks import check_choice
from kansformer.errors import ConfigError
from kansformer.files import atomic_file
from kansformer.nn.parallel import local_part

MAX_SKIPPED_IN_A_ROW = 20
"""Skipped steps after which the weights, not a batch, must be the cause."""

MAX_FILES = 100
"""Skipped steps whose batches are written."""


class NonFiniteGuard(TrainerCallback):
    """Looks at every step before the optimizer takes it.

    A step whose loss or gradient is infinite or NaN is not taken, in no process: with "skip" weights and optimizer stay
    as they were and the schedule goes on, with "stop" the run ends. Either way the batches of the processes that saw it
    are written beside the checkpoints. After SIGTERM the step is finished, saved, and the last one.

    Costs one pass over the gradients and one exchanged tensor of three numbers a step.

    Args:
        folder: for the batches.
        non_finite: "stop" or "skip".
        check_gradients: False where a gradient scaler already leaves out steps with infinite gradients.

    Attributes:
        skipped: steps that were not taken.
        terminated: whether a process received SIGTERM, as all agreed.
    """

    def __init__(self, folder: Path, non_finite: str = "stop", *, check_gradients: bool = True) -> None:
        self.folder, self.check_gradients = folder, check_gradients
        self.non_finite = check_choice("non_finite", non_finite, ("stop", "skip"))
        self.skipped: list[int] = []
        self.terminated = False
        self._received_sigterm = False  # in this process
        self._skipped_in_a_row = 0
        self._batches: list[object] = []
        self._losses: list[Tensor] = []

    def record(self, inputs: object, loss: Tensor) -> None:
        """Called with every batch, or part of one, and its loss; of some Trainer classes it is a list of rows."""
        self._batches.append(inputs)
        self._losses.append(loss.detach())

    @contextmanager
    def handle_sigterm(self) -> Iterator[None]:
        """SIGTERM ends the run after its step inside the context, in the main thread; elsewhere it acts as usual."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_received_sigterm", True))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Agrees on the step, and ends the run or removes the gradients if it is not to be taken."""
        batches, losses = self._batches, self._losses
        self._batches, self._losses = [], []
        bad_loss = torch.stack([~loss.isfinite().all() for loss in losses]).any() if losses else torch.tensor(False)
        bad_gradient = torch.tensor(False)
        gradients = [local_part(p.grad.detach()) for p in model.parameters() if p.grad is not None]
        if self.check_gradients and gradients:
            bad_gradient = ~nn.utils.get_total_norm(gradients).isfinite()
        signals = (bad_loss, bad_gradient, torch.tensor(self._received_sigterm))
        flags = torch.stack([flag.to(args.device) for flag in signals]).to(torch.int32)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        any_loss, any_gradient, self.terminated = map(bool, flags.tolist())
        if not (any_loss or any_gradient):
            self._skipped_in_a_row = 0
            return
        step = state.global_step + 1
        if bad_loss or not any_loss:
            values = [value for value in map(float, losses) if not math.isfinite(value)]
            what = f"The loss became {values[0]}" if values else "A gradient became infinite or NaN"
            cause = f"{what} at step {step} in process {args.process_index}"
            if len(self.skipped) < MAX_FILES:
                cause += f"; its batch is in {str(self._write(batches, step, args.process_index))!r}"
        else:
            cause = f"The loss became infinite or NaN at step {step} in another process"
        if self.non_finite == "stop":
            raise ConfigError(
                f"{cause}. The step was not taken. Leave such steps out with --resume non_finite=skip, or begin anew "
                f"in another folder with a training.learning_rate below {args.learning_rate:g}."
            )
        self.skipped.append(step)
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise ConfigError(
                f"{cause}. It was the {self._skipped_in_a_row}th step in a row, so the weights are the cause."
            )
        for parameter in model.parameters():
            parameter.grad = None  # an optimizer passes over what has no gradient

    def on_step_end(self, args, state, control, **kwargs):
        """After SIGTERM: a checkpoint, and no further step."""
        if self.terminated:
            control.should_save = control.should_training_stop = True

    def _write(self, batches: list[object], step: int, process: int) -> Path:
        from safetensors.torch import save_file

        named = named_tensors(batches[0] if len(batches) == 1 else batches)
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in named}
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"non-finite-step-{step}-process-{process}.safetensors"
        with atomic_file(file) as partial:
            save_file(tensors, partial)
        return file


def named_tensors(value: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested mappings and lists, by the keys and numbers on the way."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping | list | tuple):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from named_tensors(part, f"{name}.{key}" if name else str(key))


def check_finite(model: nn.Module, losses: list[tuple[int, float]]) -> None:
    """Check that training left a model that can be saved.

    Raises:
        ConfigError: a trained parameter or the last loss is infinite or NaN.
    """
    trained = ((name, local_part(p.detach())) for name, p in model.named_parameters() if p.requires_grad)
    broken = [name for name, values in trained if not values.isfinite().all()]
    if broken or (losses and not math.isfinite(losses[-1][1])):
        what = f"{broken[0]} is" if broken else "the loss is"
        raise ConfigError(
            f"Training ended with non-finite values ({what} infinite or NaN), so no model is saved. Begin anew in "
            "another folder with a lower training.learning_rate."
        )
