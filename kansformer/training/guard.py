"""What a run does about numbers that are none, and about SIGTERM: agreed among all processes, step by step."""

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from kansformer.errors import ConfigError

MOST_IN_A_ROW = 20
"""Skipped steps after which the weights, not a batch, must be the cause."""

MOST_FILES = 100
"""Skipped steps whose batches are written."""


class StepGuard(TrainerCallback):
    """Looks at every step before the optimizer takes it.

    A step whose loss or gradient is infinite or NaN is not taken, in no process: with "skip" weights and optimizer stay
    as they were and the schedule goes on, with "stop" the run ends. Either way the batches of the processes that saw it
    are written beside the checkpoints. After SIGTERM the step is finished, saved, and the last one.

    Costs one pass over the gradients and one exchanged tensor of three numbers a step.

    Args:
        folder: for the batches.
        non_finite: "stop" or "skip".
        check_gradients: False where a gradient scaler already leaves out steps with infinite gradients.
    """

    def __init__(self, folder: Path, non_finite: str = "stop", *, check_gradients: bool = True) -> None:
        self.folder, self.non_finite, self.check_gradients = folder, non_finite, check_gradients
        self.skipped: list[int] = []
        self.terminated = False  # by SIGTERM, agreed
        self._asked = False  # by SIGTERM, in this process
        self._in_a_row = 0
        self._batches: list[dict[str, Any]] = []
        self._losses: list[Tensor] = []

    def saw(self, inputs: dict[str, Any], loss: Tensor) -> None:
        """Called with every batch, or part of one, and its loss."""
        self._batches.append(inputs)
        self._losses.append(loss.detach())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """SIGTERM is taken note of meanwhile, in the main thread; in another it does what it did."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._take_note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _take_note(self, number: int, frame: Any) -> None:
        self._asked = True

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Agrees on the step, and leaves it without gradients if it is not to be taken.

        Raises:
            ConfigError: the step is not finite, and the run shall stop; or too many in a row were skipped.
        """
        batches, losses = self._batches, self._losses
        self._batches, self._losses = [], []
        bad_loss = torch.stack([~loss.isfinite().all() for loss in losses]).any() if losses else torch.tensor(False)
        bad_gradient = torch.tensor(False)
        if self.check_gradients and (own := _own_gradients(model)):
            bad_gradient = ~torch.nn.utils.get_total_norm(own).isfinite()
        flags = torch.stack([flag.to(args.device) for flag in (bad_loss, bad_gradient, torch.tensor(self._asked))])
        any_loss, any_gradient, self.terminated = self._agree(flags)
        if not (any_loss or any_gradient):
            self._in_a_row = 0
            return
        step = state.global_step + 1
        if bad_loss or not any_loss:
            what = f"The loss became {_first_bad(losses)}" if bad_loss else "A gradient became infinite or NaN"
            told = f"{what} at step {step} in process {args.process_index}"
            if len(self.skipped) < MOST_FILES:
                told += f"; its batch is in {str(self._write(batches, step, args.process_index))!r}"
        else:
            told = f"The loss became infinite or NaN at step {step} in another process"
        if self.non_finite == "stop":
            raise ConfigError(
                f"{told}. The step was not taken. Leave such steps out with --resume non_finite=skip, or begin anew in "
                f"another folder with a training.learning_rate below {args.learning_rate:g}."
            )
        self.skipped.append(step)
        self._in_a_row += 1
        if self._in_a_row >= MOST_IN_A_ROW:
            raise ConfigError(f"{told}. It was the {self._in_a_row}th step in a row, so the weights are to blame.")
        for parameter in model.parameters():
            parameter.grad = None  # an optimizer passes over what has no gradient

    def on_step_end(self, args, state, control, **kwargs):
        """After SIGTERM: a checkpoint, and no further step."""
        if self.terminated:
            control.should_save = control.should_training_stop = True

    @staticmethod
    def _agree(flags: Tensor) -> list[bool]:
        flags = flags.to(torch.int32)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        return [bool(flag) for flag in flags.tolist()]

    def _write(self, batches: list[dict[str, Any]], step: int, process: int) -> Path:
        from safetensors.torch import save_file

        tensors = {
            (name if len(batches) == 1 else f"{index}.{name}"): value.detach().cpu().contiguous().clone()
            for index, batch in enumerate(batches)
            for name, value in batch.items()
            if isinstance(value, Tensor)
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"non-finite-step-{step}-process-{process}.safetensors"
        save_file(tensors, file)
        return file


def _own_gradients(model: torch.nn.Module) -> list[Tensor]:
    """The gradients, or what this process has of them."""
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in found]


def _first_bad(losses: list[Tensor]) -> float:
    return next(value for value in (float(loss) for loss in losses) if not math.isfinite(value))
