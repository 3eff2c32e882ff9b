"""Checks before a run: each raises a sentence, and nothing is written."""

import dataclasses
import os
from enum import Enum
from pathlib import Path
from typing import Annotated, get_args, get_type_hints

import torch
from pydantic import Field, JsonValue, TypeAdapter
from pydantic.fields import FieldInfo
from torch import nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedModel, Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import IntervalStrategy, SchedulerType
from transformers.training_args import OptimizerNames, ParallelMode

from kansformer.errors import ConfigError, DataError
from kansformer.files import check_free_space
from kansformer.training.data import PreparedData
from kansformer.training.field_errors import config_errors
from kansformer.training.recipe import Recipe
from kansformer.wording import counted

DEFAULTS: dict[str, JsonValue] = {
    "report_to": "none",
    "logging_steps": 10,
    "logging_nan_inf_filter": False,  # a non-finite loss ends the run; it is not hidden
    "eval_strategy": "no",
    "save_strategy": "no",
    "optim": "adamw_torch_fused",
    "remove_unused_columns": False,
}
"""Where a recipe's `training` says nothing; everything else is as in transformers."""

NOT_NEGATIVE, POSITIVE = Field(ge=0, allow_inf_nan=False), Field(gt=0, allow_inf_nan=False)
BELOW_1 = Field(ge=0, lt=1)
RANGES: dict[str, FieldInfo] = {
    **dict.fromkeys(("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "adam_epsilon"), NOT_NEGATIVE),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), BELOW_1),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps", "num_train_epochs"), POSITIVE),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), Field(ge=1)),
    **dict.fromkeys(("gradient_accumulation_steps", "save_total_limit"), Field(ge=1)),
    **dict.fromkeys(("dataloader_num_workers",), Field(ge=0)),
    "max_steps": Field(ge=-1),
}
"""Of fields of `TrainingArguments`, which itself checks few of them."""


def training_arguments(recipe: Recipe, output: Path) -> TrainingArguments:
    """transformers' arguments out of a recipe, each field checked; without an accelerator they ask for the CPU."""
    given = dict(recipe.training)
    given |= {name: "no" for name, value in given.items() if value is False and name.endswith("_strategy")}  # YAML's no
    _check_fields(given)
    values = {**DEFAULTS, **given, "seed": recipe.seed, "data_seed": recipe.seed}
    if recipe.early_stop is not None:
        values.setdefault("metric_for_best_model", "eval_loss")
        if "save_strategy" not in given:  # every model that may be the best has to be kept
            values["save_strategy"] = values["eval_strategy"]
            values["save_steps"] = values.get("eval_steps") or values.get("logging_steps", 500)
        values["load_best_model_at_end"] = True
        values.setdefault("restore_callback_states_from_checkpoint", True)  # the patience that is left
    if recipe.non_finite == "skip":
        values["logging_nan_inf_filter"] = True  # or one skipped step would spoil all losses that are logged after it
    if not torch.accelerator.is_available():
        values.setdefault("use_cpu", True)  # or several processes on CPUs would look for a GPU each
        values.setdefault("dataloader_pin_memory", False)
    try:
        arguments = TrainingArguments(output_dir=str(output), **values)  # type: ignore[arg-type]
    except Exception as error:  # a wrong value, a missing package or file
        raise ConfigError(f"training: {error}") from error
    try:
        for callback in get_reporting_integration_callbacks(arguments.report_to):
            callback()  # looks for its package
    except Exception as error:
        raise ConfigError(f"training.report_to: {error}") from error
    if arguments.max_steps == 0:
        raise ConfigError("training.max_steps is 0. Give at least 1, or training.num_train_epochs.")
    schedule = arguments.lr_scheduler_type
    try:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        get_scheduler(
            schedule, optimizer, num_warmup_steps=0, num_training_steps=1,
            scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,  # type: ignore[arg-type]
        )  # fmt: skip
    except Exception as error:  # each schedule checks its arguments in its own way
        raise ConfigError(
            f"training.lr_scheduler_type {SchedulerType(schedule).value!r} cannot be made with "
            f"training.lr_scheduler_kwargs {arguments.lr_scheduler_kwargs!r}: {error}"
        ) from error
    if recipe.rows_per_step is not None:
        arguments.gradient_accumulation_steps = _accumulation(recipe.rows_per_step, arguments)
    return arguments


def _accumulation(rows_per_step: int, arguments: TrainingArguments) -> int:
    """Batches that each process adds up in one optimizer step."""
    at_once = arguments.train_batch_size * arguments.world_size
    if rows_per_step % at_once:
        processes = "1 process does" if arguments.world_size == 1 else f"{arguments.world_size} processes do"
        raise ConfigError(
            f"rows_per_step is {rows_per_step}, which {processes} not make up of batches of "
            f"{arguments.train_batch_size} rows each: it is not a multiple of {at_once}. Change it, "
            "training.per_device_train_batch_size or the number of processes."
        )
    return rows_per_step // at_once


def _check_fields(given: dict[str, JsonValue]) -> None:
    known = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    types = get_type_hints(TrainingArguments)
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"Unknown field 'training.{name}'. Choose from: {', '.join(sorted(known))}.")
        # `SchedulerType | str` means one of the scheduler types.
        choices = [kind for kind in get_args(types[name]) if isinstance(kind, type) and issubclass(kind, Enum)]
        kind: object = choices[0] if choices else types[name]
        adapter: TypeAdapter[object] = TypeAdapter(Annotated[kind, RANGES.get(name, Field())])  # type: ignore[valid-type, arg-type]
        with config_errors(TrainingArguments, f"training.{name}"):
            adapter.validate_python(value, strict=not choices)


def check_optim(arguments: TrainingArguments, model: PreTrainedModel) -> None:
    """Check that the package of `training.optim` is installed, and its arguments are complete."""
    try:
        Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    except Exception as error:  # each optimizer checks its arguments in its own way
        name = OptimizerNames(arguments.optim).value
        raise ConfigError(f"training.optim {name!r} cannot be made: {error}") from error


def check_combination(recipe: Recipe, arguments: TrainingArguments, *, resumes: bool = False) -> None:
    """Check that the recipe's fields go together, and with how the run was launched.

    Args:
        resumes: whether there is a checkpoint to go on from; one of a sharded model can also be read by one process.
    """
    by_accelerate = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")
    if by_accelerate and arguments.device.type == "cpu":
        raise ConfigError(
            "The accelerate config asks for FSDP, which accelerate does not do on CPUs: it would keep a whole model in "
            "every process. Launch with distributed_type MULTI_GPU and use_cpu, and set shard=true in the recipe."
        )
    if arguments.fsdp and arguments.parallel_mode != ParallelMode.DISTRIBUTED:
        raise ConfigError("training.fsdp spreads a model over processes. Start several: accelerate launch.")
    curves, sharded = recipe.curves, recipe.shard or by_accelerate or bool(arguments.fsdp)
    for name, value, instead in (
        ("refine_grid_at", curves.refine_grid_at, "Train in stages, with refine_grid(model, size) between two runs."),
        ("update_grid_at", curves.update_grid_at, "Set curves.domain=data instead."),
        ("smoothness", curves.smoothness, "Take curves.sparsity, or train without sharding."),
    ):
        if sharded and value:
            raise ConfigError(f"curves.{name} cannot work on sharded curves. {instead}")
    if sharded and "lora" in recipe.trainable:
        raise ConfigError("trainable has lora, which cannot be merged into a sharded model. Train it without sharding.")
    if recipe.shard and arguments.world_size == 1 and not resumes:
        raise ConfigError(
            "shard=true spreads a model over processes, and there is one. Start several: accelerate launch."
        )
    takes_best = "training.load_best_model_at_end" if recipe.early_stop is None else "early_stop"
    by_steps = arguments.eval_strategy == arguments.save_strategy == IntervalStrategy.STEPS
    if arguments.load_best_model_at_end and by_steps and arguments.save_steps != arguments.eval_steps:
        raise ConfigError(
            f"{takes_best} takes back the best model, which has to be saved: training.save_steps is "
            f"{arguments.save_steps:g}, and evaluations come every {arguments.eval_steps:g} steps. Set it to that."
        )
    if recipe.shard and arguments.load_best_model_at_end:
        raise ConfigError(
            f"{takes_best} takes back the best checkpoint, which shard=true cannot do. Choose one of them."
        )
    if curves.refine_grid_at and arguments.load_best_model_at_end:
        raise ConfigError(
            f"{takes_best} takes back the best checkpoint, which may have a coarser grid than curves.refine_grid_at "
            "has made since. Choose one of them."
        )
    if recipe.distill is not None and recipe.distill.logits > 0 and arguments.label_smoothing_factor:
        raise ConfigError(
            "training.label_smoothing_factor does not go with distill.logits, whose targets are soft already. Leave "
            "one of them out."
        )
    if arguments.fp16 and not arguments.max_grad_norm and (curves.sparsity or curves.smoothness):
        raise ConfigError(
            "curves.sparsity and curves.smoothness need training.max_grad_norm above 0 with training.fp16, whose "
            "gradients have their true size only then. Set it, or train with bf16."
        )
    measured = ("loss", "accuracy") if recipe.task.endswith("classification") else ("loss",)
    if (metric := arguments.metric_for_best_model) is not None and metric.removeprefix("eval_") not in measured:
        raise ConfigError(
            f"training.metric_for_best_model is {metric!r}. For {recipe.task} choose from: {', '.join(measured)}."
        )
    if recipe.early_stop is not None and arguments.eval_strategy == "no":
        raise ConfigError("early_stop needs evaluations: set training.eval_strategy=steps and training.eval_steps.")
    if recipe.data.streaming and arguments.max_steps < 1:
        raise ConfigError("The length of a stream is not known: set training.max_steps.")


def check_enough_data(data: PreparedData, rows_per_step: int) -> None:
    """Check that the data fill one optimizer step; streamed data are not counted."""
    if not isinstance(data.train, IterableDataset) and len(data.train) < rows_per_step:
        raise DataError(
            f"The training data has {counted(len(data.train), 'row')}, fewer than the {rows_per_step} of one step "
            "(batch size x accumulation x processes). Take more data, fewer processes or a smaller "
            "training.per_device_train_batch_size."
        )


def check_free_disk(output: Path, model: nn.Module) -> None:
    """Check that there is room for the model and one checkpoint with the two moments of Adam."""
    needed = sum(p.numel() * p.element_size() * (4 if p.requires_grad else 2) for p in model.parameters())
    check_free_space(output, needed, "the run, for model and checkpoint,")
