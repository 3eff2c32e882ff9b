"""transformers' `TrainingArguments` out of a recipe."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from kansformer.errors import ConfigError
from kansformer.training.recipe import Recipe

DEFAULTS: dict[str, Any] = {
    "report_to": "none",
    "logging_steps": 10,
    "logging_nan_inf_filter": False,  # a loss that is no number ends the run; it is not hidden
    "eval_strategy": "no",
    "save_strategy": "no",
    "optim": "adamw_torch_fused",
    "remove_unused_columns": False,
}
"""Where a recipe's `training` says nothing; everything else is as in transformers."""


def training_arguments(recipe: Recipe, output: Path) -> TrainingArguments:
    """The arguments of a recipe; on a machine without an accelerator they ask for the CPU.

    Raises:
        ConfigError: a field of `training` is unknown to transformers or has an impossible value.
    """
    known = [f.name for f in dataclasses.fields(TrainingArguments) if f.init]
    for name in recipe.training:
        if name not in known:
            raise ConfigError(f"Unknown field 'training.{name}'. Choose from: {', '.join(sorted(known))}.")
    values: dict[str, Any] = {**DEFAULTS, **recipe.training, "seed": recipe.seed, "data_seed": recipe.seed}
    for name in ("eval_strategy", "save_strategy", "logging_strategy"):
        if values.get(name) is False:  # what YAML makes of an unquoted no
            values[name] = "no"
    if recipe.early_stop is not None:
        values.setdefault("metric_for_best_model", "eval_loss")
        if "save_strategy" not in recipe.training:  # every model that may be the best has to be kept
            values["save_strategy"] = values["eval_strategy"]
            values["save_steps"] = values.get("eval_steps", values.get("save_steps", 500))
        values["load_best_model_at_end"] = True
        values.setdefault("restore_callback_states_from_checkpoint", True)  # the patience that is left
    if recipe.non_finite == "skip":
        values["logging_nan_inf_filter"] = True  # or one skipped step would spoil all losses that are logged after it
    if not torch.accelerator.is_available():
        values.setdefault("use_cpu", True)  # or several processes on CPUs would look for a GPU each
        values.setdefault("dataloader_pin_memory", False)
    try:
        return TrainingArguments(output_dir=str(output), **values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"training: {error}") from error
