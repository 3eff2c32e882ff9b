"""Callbacks for curves, and one that keeps the losses. They fit any Trainer of transformers.

The signatures are those of `transformers.TrainerCallback`, and `kwargs` has the other arguments of an event.
"""

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainerState
from transformers.trainer_callback import PrinterCallback

from kansformer.errors import DataError
from kansformer.files import atomic_write_text
from kansformer.nn import refine_grid, update_grid
from kansformer.nn.curve_shapes import CurveShape, hold_curves
from kansformer.nn.optim import CURVE_GROUP, curve_parameters
from kansformer.nn.penalties import smoothness_penalty, sparsity_penalty
from kansformer.progress import Progress, loss_and_speed
from kansformer.training.data.language import BlockCollator
from kansformer.training.recipe import Penalty


class CurveWarmUp(TrainerCallback):
    """Raises the curves' learning rate from 0 over their first steps, beside the scheduler's own warm-up.

    Helps when base weights that start from nothing would first bend the curves to noise.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_begin(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs):
        """Scales the rate that the scheduler has set."""
        if state.global_step < self.steps:
            _scale_curve_rates(optimizer, lr_scheduler, (state.global_step + 1) / (self.steps + 1))

    def on_optimizer_step(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs):
        """Puts it back: some schedulers, such as reduce_lr_on_plateau, go on from the rate that they find."""
        if state.global_step < self.steps:
            _scale_curve_rates(optimizer, lr_scheduler, 1.0)


def _scale_curve_rates(optimizer: torch.optim.Optimizer, lr_scheduler: LRScheduler, share: float) -> None:
    for group, rate in zip(optimizer.param_groups, lr_scheduler.get_last_lr(), strict=True):
        if str(group.get("name", "")).startswith(CURVE_GROUP):
            group["lr"] = rate * share


class MaskAnew(TrainerCallback):
    """Tells a collator the epoch, in each of which it masks a batch otherwise; also in a run that is resumed."""

    def __init__(self, collator: BlockCollator) -> None:
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Before the first batch of an epoch is made."""
        self.collator.epoch = int((state.epoch or 0) + 1e-6)


class StreamEnd(TrainerCallback):
    """Ends a run whose stream is over before its last step, and which several workers read, so that it cannot repeat.

    A Trainer would begin it anew with the gradients of the last step, and a resumed one at another row.
    """

    def __init__(self) -> None:
        self.began_step = False

    def on_epoch_begin(self, args, state, control, **kwargs):
        """An epoch without a step has no batch at all, after which a Trainer stops."""
        self.began_step = False

    def on_step_begin(self, args, state, control, **kwargs):
        """There was a batch."""
        self.began_step = True

    def on_epoch_end(self, args, state, control, **kwargs):
        """The end of the stream, unless the run is at its end or was stopped."""
        if state.global_step < state.max_steps and not (self.began_step and control.should_training_stop):
            raise DataError(
                f"The stream was over after step {state.global_step} of training.max_steps={state.max_steps}, and "
                f"training.dataloader_num_workers={args.dataloader_num_workers} cannot repeat it together. Set "
                "dataloader_num_workers to 0 or 1, take more data or fewer steps."
            )


class BestCheckpoint(TrainerCallback):
    """Tells a resumed run where its best checkpoint is: the state that it reads has the path as it was once typed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_begin(self, args, state, control, **kwargs):
        """After the state was read, which forgets a path that does not exist."""
        state.best_model_checkpoint = str(self.folder)


class CurvePenalties(TrainerCallback):
    """Adds the gradients of the penalties on curves to those of the loss, after clipping.

    Every process adds the same, so nothing has to be exchanged.
    """

    def __init__(self, sparsity: Penalty | None = None, smoothness: Penalty | None = None) -> None:
        pairs = ((sparsity, sparsity_penalty), (smoothness, smoothness_penalty))
        self.penalties = [(weight, penalty) for weight, penalty in pairs if weight is not None]

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Differentiates the penalties alone; they depend on parameters only."""
        for weight, penalty in self.penalties:
            if (strength := weight.at(state.global_step)) > 0:
                with torch.enable_grad():
                    (strength * penalty(model)).backward()


class HoldCurves(TrainerCallback):
    """Keeps all curves in a shape, from the first step on.

    Args:
        shape: what they are held to; see `hold_curves`.

    Raises:
        ConfigError: as training begins, the model's curves cannot be held to it.

    Examples:
        >>> from kansformer.training import CurveShape, HoldCurves
        >>> callbacks = [HoldCurves(CurveShape(monotone=1))]  # of a Trainer
    """

    def __init__(self, shape: CurveShape) -> None:
        self.shape = shape

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Puts them into the shape, or says why it cannot."""
        hold_curves(model, self.shape)

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Puts them back after the optimizer's step."""
        hold_curves(model, self.shape)


class GridSchedule(TrainerCallback):
    """Moves grids to where their inputs have gone, and makes them finer, after given optimizer steps.

    Moving helps in the first steps from scratch, when inputs drift. Refining helps when a coarse grid has been fitted:
    fewer coefficients learn faster at first, more fit better at the end.

    Args:
        batches: inputs to read ranges from, the same in every process.
        update_at: steps after which `update_grid` is called, with the `quantile`.
        refine_at: {step: grid size} for `refine_grid`.

    Attributes:
        wrapped: returns the wrapper of the model in several processes, once training has begun.
    """

    def __init__(
        self,
        batches: list[dict[str, Tensor]],
        update_at: tuple[int, ...] = (),
        refine_at: dict[int, int] | None = None,
        quantile: float = 0.99,
    ) -> None:
        self.batches, self.update_at, self.quantile = batches, update_at, quantile
        self.refine_at = refine_at or {}
        self.wrapped: Callable[[], nn.Module | None] = lambda: None

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        """A finer grid has new coefficients: they replace the old ones in the optimizer, without its moments."""
        if state.global_step in self.refine_at:
            old = dict(curve_parameters(model))
            refine_grid(model, self.refine_at[state.global_step])
            exchange_parameters(optimizer, old, dict(curve_parameters(model)))
            if isinstance(ddp := self.wrapped(), DistributedDataParallel):
                reduce_new_parameters(ddp)
        if state.global_step in self.update_at:
            update_grid(model, to_device(self.batches, args.device), quantile=self.quantile)


def to_device(batches: list[dict[str, Tensor]], device: torch.device) -> list[dict[str, Tensor]]:
    """The same batches where the model is."""
    return [{name: value.to(device) for name, value in batch.items()} for batch in batches]


def exchange_parameters(
    optimizer: torch.optim.Optimizer, old: dict[str, nn.Parameter], new: dict[str, nn.Parameter]
) -> None:
    """Replace old parameters of an optimizer by new ones of the same name, which begin without moments."""
    successor = {id(parameter): new[name] for name, parameter in old.items() if new[name] is not parameter}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) in successor:
                optimizer.state.pop(parameter, None)
        group["params"] = [successor.get(id(parameter), parameter) for parameter in group["params"]]


DDP_SETTINGS = (
    "device_ids", "output_device", "dim", "broadcast_buffers", "process_group", "find_unused_parameters",
    "gradient_as_bucket_view", "static_graph",
)  # fmt: skip


def reduce_new_parameters(ddp: DistributedDataParallel) -> None:
    """Have DDP exchange the gradients of the parameters that its module has now, in place of those that it had.

    It is made once more in its own place, since a Trainer holds it in many. Hooks on communication are lost.
    """
    settings, module = {name: getattr(ddp, name) for name in DDP_SETTINGS}, ddp.module
    del ddp.reducer, ddp.logger  # and with them the hooks on the old parameters
    DistributedDataParallel.__init__(ddp, module, **settings)


class Reporter(TrainerCallback):
    """Keeps the losses, writes them as CSV, and reports progress.

    Args:
        path: the CSV file, with `LOSS_COLUMNS`; a resumed run appends to it. None writes nothing.
        tokens_per_step: over all processes, tokens or rows.
        progress: called after every step, with the `stage`.

    Attributes:
        losses: (optimizer step, mean training loss since the last one).
        first: optimizer steps taken before this call.
    """

    def __init__(
        self, path: Path | None, tokens_per_step: int, progress: Progress | None = None, stage: str = "training"
    ) -> None:
        self.path, self.tokens_per_step, self.progress, self.stage = path, tokens_per_step, progress, stage
        self.losses: list[tuple[int, float]] = []
        self.began, self.first = time.perf_counter(), 0  # also of a run without a further step

    def attach(self, trainer: Trainer) -> None:
        """Take the place of transformers' own bar and printed losses."""
        for callback in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(callback)
        trainer.add_callback(self)

    def on_train_begin(self, args, state, control, **kwargs):
        """The clock starts here, after everything was prepared."""
        self.began, self.first = time.perf_counter(), state.global_step
        if self.path is not None and state.is_world_process_zero:
            _keep_rows_up_to(self.path, state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        """Reports progress with the latest loss, unless one is about to be logged."""
        if not control.should_log:
            self._report(state)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Keeps, writes and reports a loss, or writes an evaluation."""
        if "loss" in logs:
            self.losses.append((state.global_step, float(logs["loss"])))
        if self.path is not None and state.is_world_process_zero and logs.keys() & {"loss", "eval_loss"}:
            row = [state.global_step, *(logs.get(name, "") for name in LOSS_COLUMNS[1:-1])]
            with self.path.open("a", encoding="utf-8", newline="") as file:
                csv.writer(file).writerow([*row, round(time.perf_counter() - self.began, 2)])
        if "loss" in logs:
            self._report(state)

    def _report(self, state: TrainerState) -> None:
        if self.progress is not None and state.is_world_process_zero:
            taken = state.global_step - self.first
            speed = taken * self.tokens_per_step / max(1e-9, time.perf_counter() - self.began)
            loss = self.losses[-1][1] if self.losses else None
            self.progress(self.stage, state.global_step, state.max_steps, loss_and_speed(loss, speed))


LOSS_COLUMNS = ("step", "loss", "learning_rate", "eval_loss", "seconds")


def _keep_rows_up_to(path: Path, step: int) -> None:
    """Start the CSV file, or drop what an interrupted run wrote after the checkpoint that is resumed."""
    rows: list[list[str]] = []
    if step and path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            complete = [row for row in csv.reader(file) if len(row) == len(LOSS_COLUMNS)]  # the last may be cut off
        rows = [row for row in complete[1:] if int(row[0]) <= step]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([list(LOSS_COLUMNS), *rows])
    atomic_write_text(path, text.getvalue())
