"""What a run goes on from: its folder, its last complete checkpoint, and whether recipe and processes fit them."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback
from transformers.trainer import TRAINER_STATE_NAME

from kansformer.errors import CheckpointError
from kansformer.safe_io import read_json
from kansformer.training.recipe import Recipe
from kansformer.training.recipe_file import first_difference, read_recipe

RECIPE_FILE, RESULT_FILE = "recipe.yaml", "training.json"
DATA_FILE = "data.json"
"""What is known of the data of a run that is not finished: `training.json` has it later."""
LEFT_BY_CHECKS = (".kansformer-", f".{RECIPE_FILE}.partial-")
"""How names begin that a run leaves in its folder when it is killed before it wrote its recipe."""


def has_run(recipe: Recipe, output: Path) -> bool:
    """Whether a folder holds a run of this recipe; False where it is new or empty, so that a run can begin there.

    `non_finite` may be another than the run began with, and `rows_per_step` may be added.

    Raises:
        CheckpointError: the folder holds something else, or the run of another recipe.
    """
    if not (output / RECIPE_FILE).is_file():
        if not output.exists() or (output.is_dir() and all(map(_is_leftover, os.listdir(output)))):
            return False
        raise CheckpointError(f"There is no run to resume in {str(output)!r}: it has no {RECIPE_FILE}.")
    begun = dataclasses.replace(read_recipe(output / RECIPE_FILE), non_finite=recipe.non_finite)
    if recipe.rows_per_step is not None and begun.rows_per_step is None:
        training = {name: value for name, value in begun.training.items() if name != "gradient_accumulation_steps"}
        begun = dataclasses.replace(begun, rows_per_step=recipe.rows_per_step, training=training)
    difference = first_difference(begun, recipe)
    if difference is not None:
        raise CheckpointError(
            f"The run in {str(output)!r} has another recipe: {difference}. Resume it with its own, "
            f"{output / RECIPE_FILE}, or train into another folder."
        )
    return True


def _is_leftover(name: str) -> bool:
    return name.startswith(LEFT_BY_CHECKS)


def find_checkpoint(recipe: Recipe, output: Path) -> Path | None:
    """The last complete checkpoint of a run; None if it was stopped before the first.

    Raises:
        CheckpointError: the recipe saves none.
    """
    numbered = [path for path in output.glob("checkpoint-*") if path.name[11:].isdecimal()]
    complete = [path for path in numbered if steps_of(path) is not None]
    keeps_checkpoints = recipe.early_stop is not None or recipe.training.get("save_strategy") not in (None, "no", False)
    if not complete and not keeps_checkpoints:
        raise CheckpointError(
            f"The run in {str(output)!r} left no checkpoint. Set training.save_strategy=steps and save_steps, and "
            "begin anew in another folder."
        )
    return max(complete, key=lambda path: int(path.name[11:]), default=None)


def check_same_data(facts: Mapping[str, Any], output: Path) -> None:
    """Check that a run goes on with the data that it began with.

    Args:
        facts: of the data as they are now.
        output: folder of the run. One without the file that tells of its data is not checked.

    Raises:
        CheckpointError: the data were changed.
    """
    begun = read_json(output / DATA_FILE) if (output / DATA_FILE).exists() else {}
    changed = [name for name in facts if name.endswith("sha256") and begun.get(name, facts[name]) != facts[name]]
    if changed:
        raise CheckpointError(
            f"The data of the run in {str(output)!r} were changed since it began ({changed[0]} is another). Resume it "
            "with the same data, or train into another folder."
        )


def steps_of(checkpoint: Path) -> tuple[int, int] | None:
    """Optimizer steps done in a checkpoint and those of the whole run; None for one that was cut off.

    transformers writes the file that holds them last.
    """
    try:
        state = read_json(checkpoint / TRAINER_STATE_NAME)
    except (OSError, CheckpointError):
        return None
    done, steps = (state.get(name) if isinstance(state, dict) else None for name in ("global_step", "max_steps"))
    return (done, steps) if isinstance(done, int) and isinstance(steps, int) and min(done, steps) >= 0 else None


def is_last(checkpoint: Path, patience: int | None) -> bool:
    """Whether a checkpoint is the end of its run: its last step, or that at which its patience, if any, was over."""
    done, steps = steps_of(checkpoint) or (0, 1)
    states = read_json(checkpoint / TRAINER_STATE_NAME).get("stateful_callbacks", {})
    worse = (
        states.get(EarlyStoppingCallback.__name__, {}).get("attributes", {}).get("early_stopping_patience_counter", 0)
    )
    return done >= steps or (patience is not None and worse >= patience)


def find_best(checkpoint: Path, output: Path) -> Path | None:
    """The best checkpoint of a run so far, as its last one names it: in `output`, wherever that was moved to.

    Returns:
        The folder; None if none was the best yet.

    Raises:
        CheckpointError: it is missing.
    """
    named = read_json(checkpoint / TRAINER_STATE_NAME).get("best_model_checkpoint")
    if not named:
        return None
    best = output / Path(named).name
    if not best.is_dir():
        raise CheckpointError(
            f"{str(best)!r} is missing, the best checkpoint of the run as {str(checkpoint)!r} names it. The run would "
            "have to end with another model: put it back, or begin anew in another folder."
        )
    return best


def check_optimizer(checkpoint: Path) -> None:
    """Check that further steps can go on from a checkpoint, by whatever Trainer, FSDP or DeepSpeed wrote into it.

    Raises:
        CheckpointError: it has a model only.
    """
    if not any(next(checkpoint.glob(pattern), None) for pattern in ("*optimizer*", "global_step*")):
        raise CheckpointError(
            f"{str(checkpoint)!r} has no state of the optimizer, without which the run would begin its moments and its "
            "schedule anew: its recipe sets training.save_only_model=true. Leave that out in a run that may be "
            f"resumed; to train this model in a new run, set model.path={checkpoint}."
        )


def check_rows(checkpoint: Path, rows_per_step: int) -> None:
    """Check that the steps of a run go on with the number of rows that those before its checkpoint had.

    Args:
        checkpoint: in the folder of its run. One without states of random numbers, which tell the number of processes,
            is not checked, nor one of a run that finds its batch size by itself.
        rows_per_step: of this start: batch size x accumulation x processes.

    Raises:
        CheckpointError: the numbers differ, most often since the number of processes does.
    """
    begun = read_recipe(checkpoint.parent / RECIPE_FILE)
    if begun.training.get("auto_find_batch_size"):
        return
    processes = len(list(checkpoint.glob("rng_state*.pth")))
    batch = read_json(checkpoint / TRAINER_STATE_NAME).get("train_batch_size")
    accumulation = begun.training.get("gradient_accumulation_steps", 1)
    before = begun.rows_per_step
    if before is None and processes and isinstance(batch, int) and isinstance(accumulation, int):
        before = batch * accumulation * processes
    if before is not None and before != rows_per_step:
        raise CheckpointError(
            f"A step of the run in {str(checkpoint.parent)!r} took {before} rows, and would take {rows_per_step} "
            f"now. Start the same number of processes ({processes} before), or resume with rows_per_step={before}, "
            "which keeps the rows of a step with fewer or more processes."
        )
