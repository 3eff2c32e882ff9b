"""What stops a run before it begins: each a sentence, and nothing is written."""

import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainingArguments

from kansformer.errors import CheckpointError, ConfigError, DataError
from kansformer.safe_io import read_json
from kansformer.training.data import PreparedData
from kansformer.training.recipe import Recipe
from kansformer.training.recipe_file import first_difference, read_recipe

RECIPE_FILE, RESULT_FILE = "recipe.yaml", "training.json"


def find_checkpoint(recipe: Recipe, output: Path) -> str | None:
    """The last whole checkpoint of an unfinished run of this very recipe; None if it was stopped before the first.

    Raises:
        CheckpointError: there is no run, it is finished or keeps no checkpoints, or it was of another recipe.
    """
    if not (output / RECIPE_FILE).is_file():
        raise CheckpointError(f"There is no run to resume in {str(output)!r}: it has no {RECIPE_FILE}.")
    begun = replace(read_recipe(output / RECIPE_FILE), non_finite=recipe.non_finite)
    difference = first_difference(begun, recipe)
    if difference is not None:
        raise CheckpointError(
            f"The run in {str(output)!r} has another recipe: {difference}. Resume it with its own, "
            f"{output / RECIPE_FILE}, or train into another folder."
        )
    if (output / RESULT_FILE).exists():
        raise CheckpointError(
            f"The run in {str(output)!r} is finished. To go on training its model, start a recipe with "
            f"model.path={output} in another folder."
        )
    numbered = {int(p.name.rpartition("-")[2]): p for p in output.glob("checkpoint-*") if p.name[11:].isdecimal()}
    whole = [path for _, path in sorted(numbered.items()) if progress_of(path) is not None]
    keeps_checkpoints = recipe.early_stop is not None or recipe.training.get("save_strategy") not in (None, "no", False)
    if not whole and keeps_checkpoints:
        return None
    if not whole:
        raise CheckpointError(
            f"The run in {str(output)!r} left no checkpoint. Set training.save_strategy=steps and save_steps, and "
            "begin anew in another folder."
        )
    return str(whole[-1])


def progress_of(checkpoint: Path) -> tuple[int, int] | None:
    """Optimizer steps that a checkpoint has done and those of the whole run; None for one that was cut off.

    transformers writes the file that says so last.
    """
    try:
        state = read_json(checkpoint / "trainer_state.json")
    except (OSError, CheckpointError):
        return None
    done, steps = (state.get(name) if isinstance(state, dict) else None for name in ("global_step", "max_steps"))
    if not isinstance(done, int) or not isinstance(steps, int) or min(done, steps) < 0:
        return None
    return done, steps


def refuse_impossible(recipe: Recipe, arguments: TrainingArguments) -> None:
    """See that the recipe's fields go together, and with how the run was launched.

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
    for name, instead in (
        ("refine_grid_at", "Train in stages, with refine_grid(model, size) between two runs."),
        ("update_grid_at", "Set curves.domain=data instead."),
        ("smoothness", "Take curves.sparsity, or train without sharding."),
    ):
        if sharded and getattr(recipe.curves, name):
            raise ConfigError(f"curves.{name} cannot work on sharded curves. {instead}")
    if sharded and "lora" in recipe.trainable:
        raise ConfigError("trainable has lora, which cannot be merged into a sharded model. Train it without sharding.")
    if recipe.early_stop is not None and recipe.curves.refine_grid_at:
        raise ConfigError(
            "early_stop takes back the best checkpoint, which may have a coarser grid than curves.refine_grid_at has "
            "made since. Choose one of them."
        )
    if recipe.data.streaming and arguments.max_steps < 1:
        raise ConfigError("A stream has no end that is known: set training.max_steps.")
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


def refuse_broken(model: nn.Module, losses: list[tuple[int, float]]) -> None:
    """See that training left a model that can be saved.

    Raises:
        ConfigError: a trained number or the last loss is infinite or NaN.
    """
    broken = [name for name, p in model.named_parameters() if p.requires_grad and not _own_part(p).isfinite().all()]
    if broken or (losses and not math.isfinite(losses[-1][1])):
        what = f"{broken[0]} is" if broken else "the loss is"
        raise ConfigError(
            f"Training ended with numbers that are infinite or NaN ({what}), so no model is saved. Begin anew in "
            "another folder with a lower training.learning_rate."
        )


def _own_part(parameter: nn.Parameter) -> Tensor:
    """What this process has of a parameter."""
    part = parameter.detach()
    return part.to_local() if isinstance(part, DTensor) else part


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
