"""transformers' Trainer with a learning rate for curves, atomic checkpoints, only finite steps, and perhaps a teacher.

Shape letters: N tokens with a label, T tokens of a block, B blocks of a batch, V words.
"""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from kansformer.checks import check_number
from kansformer.conversion.digest import weight_files
from kansformer.errors import CheckpointError, ShapeError
from kansformer.files import exchange, sync, sync_tree
from kansformer.nn.activation import LearnedActivation
from kansformer.nn.curves import curved_modules
from kansformer.nn.optim import curve_parameters, split_curves
from kansformer.training.guard import NonFiniteGuard
from kansformer.training.sharding import (
    OPTIMIZER_FOLDER,
    check_own_curves,
    optimizer_states_allowed,
    read_optimizer,
    read_weights,
    write_optimizer,
)

ASIDE = "_partial"  # transformers uploads no names that begin so
"""Folder beside the checkpoints in which the next one is written."""

WEIGHT_FILES = weight_files(variant=None)

IGNORED = -100
"""The label of a token that no loss counts, as in torch and transformers."""


class KANTrainer(Trainer):
    """A Trainer that gives curves their own learning rate, and whose checkpoints are atomic.

    Every checkpoint is written aside, synced to the disk and renamed; only then those beyond `save_total_limit` go. A
    loss or gradient that is not finite, and SIGTERM, are the business of its `guard`. `kan_trainer` makes the same of
    another Trainer class.

    Args:
        curve_lr_multiplier: the curves' learning rate divided by that of the weights, as in `optimizer_groups`.
        non_finite: "stop" or "skip", as in `NonFiniteGuard`.
        args, kwargs: as in the Trainer it is made of.

    Raises:
        ConfigError: in training, a loss or gradient is not finite and `non_finite` is "stop", or too many steps in a
            row were skipped; or `curve_lr_multiplier` is not positive.
        CheckpointError: in training, a checkpoint could not be written; those before stay.

    Examples:
        >>> from transformers import TrainingArguments
        >>> from kansformer import KANTrainer, LearnedActivation
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), LearnedActivation(8))
        >>> arguments = TrainingArguments("run", learning_rate=1e-3, report_to="none", use_cpu=True)
        >>> optimizer = KANTrainer(model, arguments).create_optimizer()
        >>> [round(group["lr"], 4) for group in optimizer.param_groups]  # weights, biases, curves
        [0.001, 0.001, 0.03]
    """

    def __init__(
        self, *args: Any, curve_lr_multiplier: float | None = None, non_finite: str = "stop", **kwargs: Any
    ) -> None:
        with optimizer_states_allowed(*args, *kwargs.values()) as save_only_model:
            super().__init__(*args, **kwargs)
        if self.is_distributed_loading_by_transformers:
            self.args.save_only_model = save_only_model  # some classes copy their arguments meanwhile
        if self.model is not None and self.is_fsdp_enabled:
            check_own_curves(self.model)
        self.curve_lr_multiplier = curve_lr_multiplier
        self._optimizer_in_parts = self.is_distributed_loading_by_transformers
        self._aside: Path | None = None
        self._is_first = True
        scaled = self.accelerator.scaler is not None  # which skips infinite gradients by itself
        self.guard = NonFiniteGuard(Path(str(self.args.output_dir)), non_finite, check_gradients=not scaled)
        self.add_callback(self.guard)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """transformers' own, with the curves in groups of their own; an optimizer that was passed in stays as it is.

        Warns where that cannot be done: under FSDP version 1 and with an optimizer of DeepSpeed's.
        """
        given = self.optimizer is not None
        optimizer = super().create_optimizer(*_given(model)) or self.optimizer
        model = self.model if model is None else model
        assert model is not None and optimizer is not None
        self._warn_of_curves_beside_an_adapter(model)
        has_groups = isinstance(optimizer, torch.optim.Optimizer)  # and is not DeepSpeed's placeholder
        flattened = any("coefficients" not in module._parameters for _, module in curved_modules(model))
        if not given and (flattened or any(parameter.requires_grad for _, parameter in curve_parameters(model))):
            if has_groups:
                split_curves(optimizer, model, self.curve_lr_multiplier)
            if flattened or not has_groups:
                warnings.warn(
                    "The model's curves get no learning rate of their own, and so learn little: its "
                    "parameters were flattened, or the optimizer is DeepSpeed's own. Use FSDP2 (fsdp_version 2), or "
                    "leave the optimizer out of DeepSpeed's config.",
                    stacklevel=2,
                )
        return optimizer

    def _warn_of_curves_beside_an_adapter(self, model: nn.Module) -> None:
        beside = [
            name for name, p in curve_parameters(model) if p.requires_grad and ".modules_to_save." not in f".{name}"
        ]
        if beside and hasattr(model, "get_base_model") and self.args.save_strategy != "no":
            warnings.warn(
                f"Checkpoints of a PEFT model hold its adapters only, and not the trained curves, such as {beside[0]}: "
                "a run that is resumed would begin with other curves. Put their modules into modules_to_save.",
                stacklevel=3,
            )

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """transformers' own, recorded by the guard; the first one also sees whether curves on activations take part."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._is_first:
            self._is_first = False
            _warn_of_idle_activations(self.accelerator.unwrap_model(model, keep_torch_compile=False))
        self.guard.record(inputs, loss)
        return loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """transformers' own, without the pickle of the arguments; written aside where it replaces a model.

        Raises:
            CheckpointError: it could not be written, for instance because the disk is full. What was there stays.
        """
        if _internal_call:  # a part of a checkpoint
            super().save_model(output_dir, _internal_call=True)
            return
        target = Path(str(output_dir or self.args.output_dir))
        with self._written_aside(target, "The model") as aside:
            super().save_model(str(aside / "model"))
            (aside / "model" / "training_args.bin").unlink(missing_ok=True)  # the recipe holds them
        if self.args.should_save:
            files = sorted((aside / "model").iterdir())
            written = {file.name for file in files}
            for file in files:
                if (target / file.name).is_dir():  # of an adapter with a name
                    (target / file.name).rename(aside / f"old-{file.name}")
                file.replace(target / file.name)
            if any(map(WEIGHT_FILES.fullmatch, written)):
                for file in target.iterdir():
                    if WEIGHT_FILES.fullmatch(file.name) and file.name not in written:
                        file.unlink()  # of an older model
            sync(target)
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_distributed_loading_by_transformers:
            sharded = self.model if model is None else model
            assert sharded is not None
            read_weights(sharded, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, *_given(model))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not (Path(checkpoint) / OPTIMIZER_FOLDER).is_dir():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        self._optimizer_in_parts = True  # also of a single process, which others may follow
        assert self.model is not None and self.optimizer is not None and self.lr_scheduler is not None
        read_optimizer(self.model, self.optimizer, Path(checkpoint))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._optimizer_in_parts:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        assert self.model is not None and self.optimizer is not None and self.lr_scheduler is not None
        write_optimizer(self.model, self.optimizer, Path(output_dir))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        run_folder, limit = Path(self._get_output_dir(trial)), self.args.save_total_limit
        with self._written_aside(run_folder, f"The checkpoint of step {self.state.global_step}") as aside:
            self._aside, self.args.save_total_limit = aside, None  # nothing is removed before the new one is complete
            try:
                with _under_own_names(self.accelerator.unwrap_model(self.model, keep_torch_compile=False)):
                    super()._save_checkpoint(model, trial)
            finally:
                self._aside, self.args.save_total_limit = None, limit
            if self.state.best_model_checkpoint == str(aside / name):
                self.state.best_model_checkpoint = str(run_folder / name)
                if self.args.should_save:
                    self.state.save_to_json(str(aside / name / TRAINER_STATE_NAME))
        if self.args.should_save:
            new, place = aside / name, run_folder / name
            if not (place.exists() and exchange(new, place)):  # this step was saved before, or in an earlier run
                if place.exists():
                    place.rename(aside / "old")
                new.rename(place)
            sync(run_folder)
            shutil.rmtree(aside, ignore_errors=True)
            if self.args.push_to_hub:
                self._push_from_checkpoint(str(place))
            rotate_checkpoints(
                output_dir=str(run_folder),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._aside is None:  # it is complete, and in its place
            super()._push_from_checkpoint(checkpoint_folder)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._aside) if self._aside is not None else super()._get_output_dir(trial)

    @contextmanager
    def _written_aside(self, folder: Path, what: str) -> Iterator[Path]:
        """An empty folder to write into, synced to the disk afterwards, or removed if that fails."""
        from safetensors import SafetensorError

        aside = folder / ASIDE
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        try:
            yield aside
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                sync_tree(aside)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{what} could not be written to {str(folder)!r}: {reason}. What was saved before is as it was; make "
                "room, and go on with --resume."
            ) from error


def _given(model: nn.Module | None) -> tuple[nn.Module, ...]:
    """The argument of a method that other Trainer classes may define without it."""
    return () if model is None else (model,)


def _warn_of_idle_activations(model: nn.Module) -> None:
    """Warn if trained curves on activations have no gradient while other parameters have."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    curves = [m.coefficients for m in model.modules() if isinstance(m, LearnedActivation)]
    curves = [coefficients for coefficients in curves if coefficients.requires_grad]
    if curves and all(p.grad is None for p in curves) and any(p.grad is not None for p in trained):
        warnings.warn(
            "No curve on an activation has a gradient after the first batch, so none of them takes part: another "
            "forward of the block may have taken its place, such as that of Liger's kernels (use_liger_kernel).",
            stacklevel=3,
        )


@contextmanager
def _under_own_names(model: nn.Module) -> Iterator[None]:
    """Inside, `save_pretrained` writes the tensors as `state_dict` names them, and not as the files they came from: a
    Trainer reads checkpoints by `load_state_dict`, which passes over other names."""
    attributes = vars(model)
    had, before = "_weight_conversions" in attributes, attributes.get("_weight_conversions")
    attributes["_weight_conversions"] = []
    try:
        yield
    finally:
        if had:
            attributes["_weight_conversions"] = before
        else:
            del attributes["_weight_conversions"]


def kan_trainer(base: type[Trainer]) -> type[Trainer]:
    """A subclass of another Trainer class that does what `KANTrainer` adds to transformers' own.

    Args:
        base: whose arguments it takes, besides those of `KANTrainer`, such as `trl.SFTTrainer`.

    Returns:
        The class; `KANTrainer` itself for transformers' `Trainer`.

    Examples:
        >>> from transformers import Seq2SeqTrainer
        >>> from kansformer.training import KANTrainer, kan_trainer
        >>> trainer = kan_trainer(Seq2SeqTrainer)
        >>> trainer.__name__, issubclass(trainer, KANTrainer), issubclass(trainer, Seq2SeqTrainer)
        ('KANSeq2SeqTrainer', True, True)
    """
    if issubclass(base, KANTrainer):
        return base
    return KANTrainer if base is Trainer else type(f"KAN{base.__name__}", (KANTrainer, base), {"__doc__": base.__doc__})


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float = 1.0, alpha: float = 0.5
) -> Tensor:
    """α·t²·KL(teacher ‖ student) + (1 - α)·cross-entropy, for next-token prediction (Hinton et al., 2015).

    Both are means over the tokens that have a label, in nats, computed in float32 or better. As in transformers, the
    logits at one token predict the label of the next, and t² keeps the size of gradients at every temperature t.

    Args:
        student_logits: (B, T, V).
        teacher_logits: (B, T, V); no gradient goes into them.
        labels: (B, T), token numbers; -100 is not counted.
        temperature: t > 0, by which both logits are divided in the divergence.
        alpha: share of the divergence, in [0, 1].

    Returns:
        A scalar; 0 where no token has a label.

    Raises:
        ConfigError: a setting is out of range.
        ShapeError: the shapes do not belong together.

    Examples:
        >>> from kansformer.training import distillation_loss
        >>> logits, labels = torch.randn(2, 5, 10), torch.randint(10, (2, 5))
        >>> round(distillation_loss(logits, logits, labels, alpha=1.0).item(), 6)  # the divergence from itself
        0.0
        >>> distillation_loss(logits, logits, labels, alpha=0.5).item() > 0  # and half of the cross-entropy
        True
    """
    check_number("temperature", temperature, above=0)
    check_number("alpha", alpha, 0, 1)
    if student_logits.shape != teacher_logits.shape or student_logits.shape[:-1] != labels.shape or labels.ndim != 2:
        raise ShapeError(
            f"Logits must be (B, T, V) for student and teacher and labels (B, T), got {tuple(student_logits.shape)}, "
            f"{tuple(teacher_logits.shape)} and {tuple(labels.shape)}."
        )
    targets_BT = labels[:, 1:].to(student_logits.device)
    counted = targets_BT != IGNORED
    precise = torch.promote_types(student_logits.dtype, torch.float32)
    student_NV = student_logits[:, :-1][counted].to(precise)
    teacher_NV = teacher_logits.detach()[:, :-1].to(student_logits.device)[counted].to(precise)
    tokens = max(1, len(student_NV))
    log_student, log_teacher = (F.log_softmax(logits / temperature, dim=-1) for logits in (student_NV, teacher_NV))
    divergence = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True) / tokens
    cross_entropy = F.cross_entropy(student_NV, targets_BT[counted], reduction="sum") / tokens
    return alpha * temperature**2 * divergence + (1 - alpha) * cross_entropy


class DistillationTrainer(KANTrainer):
    """A Trainer whose loss is partly the divergence from a teacher's predictions (Hinton et al., 2015).

    Args:
        teacher: a model that takes the student's inputs; it is frozen.
        alpha, temperature: as in `distillation_loss`.
        args, kwargs: as in `KANTrainer`.
    """

    def __init__(self, *args: Any, teacher: nn.Module, alpha: float, temperature: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher.eval().requires_grad_(False).to(self.args.device)
        self.alpha, self.temperature = alpha, temperature
        self.model_accepts_loss_kwargs = False  # the loss is a mean per batch, which the Trainer then scales

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The mixed loss in training; in evaluation the ordinary one, to be compared with other models'."""
        if not model.training:
            outputs = model(**inputs)
            return (outputs.loss, outputs) if return_outputs else outputs.loss
        features = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**features, use_cache=False)
        with torch.no_grad(), self.accelerator.autocast():
            target = self.teacher(**features, use_cache=False).logits
        loss = distillation_loss(
            outputs.logits, target, inputs["labels"], temperature=self.temperature, alpha=self.alpha
        )
        return (loss, outputs) if return_outputs else loss
