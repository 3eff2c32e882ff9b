"""What stops a run before it begins: each a sentence, and nothing is written."""

import os
import shutil
from pathlib import Path

from torch import nn
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from kansformer.errors import CheckpointError, ConfigError, DataError
from kansformer.training.data import PreparedData
from kansformer.training.recipe import Recipe
from kansformer.training.recipe_file import first_difference, read_recipe

RECIPE_FILE = "recipe.yaml"


def find_checkpoint(recipe: Recipe, output: Path) -> str:
    """The last checkpoint of a run of this very recipe.

    Raises:
        CheckpointError: there is none, or the run was of another recipe.
    """
    if not (output / RECIPE_FILE).is_file():
        raise CheckpointError(f"There is no run to resume in {str(output)!r}: it has no {RECIPE_FILE}.")
    difference = first_difference(read_recipe(output / RECIPE_FILE), recipe)
    if difference is not None:
        raise CheckpointError(
            f"The run in {str(output)!r} has another recipe: {difference}. Resume it with its own, "
            f"{output / RECIPE_FILE}, or train into another folder."
        )
    checkpoint = get_last_checkpoint(str(output))
    if checkpoint is None:
        raise CheckpointError(
            f"The run in {str(output)!r} left no checkpoint. Set training.save_strategy=steps and save_steps, and "
            "begin anew in another folder."
        )
    return checkpoint


def refuse_impossible(recipe: Recipe, arguments: TrainingArguments, processes: int) -> None:
    """See that the recipe's fields go together, and with the number of processes.

    Raises:
        ConfigError: they do not.
    """
    by_accelerate = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")
    if by_accelerate and arguments.device.type == "cpu":
        raise ConfigError(
            "The accelerate config asks for FSDP, which accelerate does not do on CPUs: it would keep a whole model in "
            "every process. Launch with distributed_type MULTI_GPU and use_cpu, and set shard=true in the recipe."
        )
    sharded = recipe.shard or by_accelerate or bool(arguments.fsdp)
    if recipe.curves.refine_grid_at and (processes > 1 or sharded):
        raise ConfigError(
            f"curves.refine_grid_at makes new parameters, which works in one process, not in {processes}. Train in "
            "stages, with refine_grid(model, size) between two runs."
        )
    if recipe.curves.update_grid_at and sharded:
        raise ConfigError("curves.update_grid_at cannot refit sharded curves. Set curves.domain=data instead.")
    if (
        recipe.early_stop is not None
        and str(getattr(arguments.eval_strategy, "value", arguments.eval_strategy)) == "no"
    ):
        raise ConfigError("early_stop needs evaluations: set training.eval_strategy=steps and training.eval_steps.")


def refuse_little(data: PreparedData, rows_per_step: int) -> None:
    """See that the data fill one optimizer step.

    Raises:
        DataError: they do not; streamed data are not counted.
    """
    rows = len(data.train) if hasattr(data.train, "__len__") else None
    if rows is not None and rows < rows_per_step:
        raise DataError(
            f"The training data has {rows} rows, fewer than the {rows_per_step} of one step (batch size x accumulation "
            "x processes). Take more data, a smaller training.per_device_train_batch_size, or fewer processes."
        )


def refuse_full_disk(output: Path, model: nn.Module) -> None:
    """See that there is room for the model and one checkpoint with the two moments of Adam.

    Raises:
        CheckpointError: there is not.
    """
    folder = next(p for p in (output.absolute(), *output.absolute().parents) if p.exists())
    needed = sum(p.numel() * p.element_size() * (4 if p.requires_grad else 2) for p in model.parameters())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"{str(folder)!r} has {free / 1e6:,.0f} MB free, and the run needs {needed / 1e6:,.0f} MB for model and "
            "checkpoint. Choose another folder, or make room."
        )
