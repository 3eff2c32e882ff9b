"""`train`: run a recipe on transformers' Trainer and write a folder with the trained model."""

import json
import shutil
import time
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from kansformer.errors import InterruptedRunError
from kansformer.files import atomic_write_text, check_unused
from kansformer.nn import refine_grid
from kansformer.progress import Progress
from kansformer.training.build import build_model, merge_lora, plain_model, shard_model
from kansformer.training.calibration import calibrate, calibration_batches
from kansformer.training.callbacks import CurvePenalties, CurveWarmUp, GridSchedule, Reporter
from kansformer.training.data import PreparedData, prepare_data
from kansformer.training.data.spec import LANGUAGE_TASKS
from kansformer.training.distill_logits import DistillationTrainer
from kansformer.training.preflight import (
    RECIPE_FILE,
    RESULT_FILE,
    check_combination,
    check_enough_data,
    check_finite,
    check_free_disk,
    find_checkpoint,
    steps_of,
    training_arguments,
)
from kansformer.training.recipe import Recipe
from kansformer.training.recipe_file import write_recipe
from kansformer.training.result import TrainingResult, count_parameters, run_facts
from kansformer.training.trainer import ASIDE, KANTrainer

LOSS_FILE = "losses.csv"


def train(
    recipe: Recipe, output: Path | str, *, resume: bool = False, progress: Progress | None = None
) -> TrainingResult:
    """Run a recipe and write the model, its tokenizer, `recipe.yaml`, `losses.csv` and `training.json`.

    In a process that `accelerate launch` or `torchrun` started, it trains together with the others.

    Args:
        recipe: what to do.
        output: folder to write; it must be new or empty, unless a run is resumed. Checkpoints lie in it.
        resume: go on from the last checkpoint in `output`, with the same recipe; only `non_finite` may be another. A
            run that was stopped before its first checkpoint begins anew.
        progress: called after every step, in the main process.

    Returns:
        A `TrainingResult`, in every process.

    Raises:
        ConfigError: a field is impossible, or the loss or a gradient became infinite or NaN.
        CheckpointError: `output` is in use, there is nothing to resume or it is another recipe's, or the disk is full.
        InterruptedRunError: SIGTERM came; the step was finished and a checkpoint saved.
        DataError: the data is unusable, or too little for the processes. Nothing is overwritten after any error.
    """
    output = Path(output)
    no_accelerator = bool(recipe.training.get("use_cpu")) or not torch.accelerator.is_available()
    state = PartialState(**({"cpu": True} if no_accelerator else {}))
    checkpoint = find_checkpoint(recipe, output) if resume else None
    done, steps = (checkpoint and steps_of(checkpoint)) or (0, None)
    if not resume:
        check_unused(output)
    arguments = training_arguments(recipe, output)
    check_combination(recipe, arguments)

    set_seed(recipe.seed)
    with state.main_process_first():  # which tokenises and leaves the blocks for the others
        data = prepare_data(recipe.task, recipe.data, recipe.model.source, seed=recipe.seed)
    rows_per_step = arguments.train_batch_size * arguments.gradient_accumulation_steps * state.num_processes
    check_enough_data(data, rows_per_step)
    batches = calibration_batches(data)
    set_seed(recipe.seed)  # the weights do not depend on what the data took
    model = build_model(
        recipe,
        vocabulary=data.vocabulary,
        label_names=data.label_names,
        pad_token=getattr(data.processor, "pad_token_id", None),
        inputs=batches,
    )
    check_free_disk(output, model)
    if checkpoint is None:
        calibrate(recipe, model, batches, data, arguments.device)
    elif sizes := [size for step, size in sorted(recipe.curves.refine_grid_at.items()) if step <= done]:
        refine_grid(model, sizes[-1])  # to the grid of the checkpoint

    state.wait_for_everyone()
    counts = count_parameters(model)
    if recipe.shard:
        model = shard_model(model, output / "start", state)
    per_row = recipe.data.block if recipe.task in LANGUAGE_TASKS else 1
    reporter = Reporter(output / LOSS_FILE, rows_per_step * per_row, progress)
    trainer = _make_trainer(recipe, model, arguments, data, batches, reporter)
    if state.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        write_recipe(recipe, output / RECIPE_FILE)
        shutil.rmtree(output / ASIDE, ignore_errors=True)  # of a run that was killed while it saved
    begin = time.perf_counter()
    with trainer.guard.handle_sigterm():
        if checkpoint is not None and steps is not None and done >= steps:  # its weights are those of the last step
            trainer._load_from_checkpoint(str(checkpoint))
            trainer.state.global_step = done
        else:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.guard.terminated:
        raise InterruptedRunError(
            f"SIGTERM ended the run in {str(output)!r} after step {trainer.state.global_step}, which is saved. Go on "
            "with --resume."
        )
    seconds = time.perf_counter() - begin
    check_finite(model, reporter.losses)
    if "lora" in recipe.trainable:
        merge_lora(model)
    if trainer.is_fsdp_enabled:  # accelerate's default leaves shards, which from_pretrained does not read
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(output))
    evaluation = trainer.evaluate()

    taken = trainer.state.global_step - reporter.first
    result = TrainingResult(
        output=output,
        losses=tuple(reporter.losses),
        evaluation={k: v for k, v in evaluation.items() if k in ("eval_loss", "eval_accuracy")},
        steps=trainer.state.global_step,
        seconds=seconds,
        tokens_per_second=taken * reporter.tokens_per_step / seconds,
        skipped_steps=tuple(trainer.guard.skipped),
        **counts,
        facts=run_facts(data.facts, arguments.device, state.num_processes),
    )
    if state.is_main_process:
        atomic_write_text(output / RESULT_FILE, json.dumps(result.to_dict(), indent=2) + "\n")
    state.wait_for_everyone()
    return result


def is_main_process() -> bool:
    """Whether this process speaks for all of them."""
    return PartialState().is_main_process


def end_processes() -> None:
    """Close what connects the processes; one whose threads still run at its exit may be aborted."""
    PartialState().destroy_process_group()


def _make_trainer(
    recipe: Recipe,
    model: PreTrainedModel,
    arguments: TrainingArguments,
    data: PreparedData,
    batches: list[dict[str, Tensor]],
    reporter: Reporter,
) -> KANTrainer:
    curves = recipe.curves
    schedule = GridSchedule(batches, curves.update_grid_at, curves.refine_grid_at, curves.quantile)
    callbacks: list[TrainerCallback] = [schedule]
    if curves.warm_up:
        callbacks.append(CurveWarmUp(curves.warm_up))
    if curves.sparsity or curves.smoothness:
        callbacks.append(CurvePenalties(curves.sparsity, curves.smoothness))
    if recipe.early_stop is not None:
        callbacks.append(EarlyStoppingCallback(recipe.early_stop))
    settings = dict(
        model=model,
        args=arguments,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        data_collator=data.collator,
        processing_class=data.processor,
        callbacks=callbacks,
        non_finite=recipe.non_finite,
        curve_lr_multiplier=curves.lr_multiplier,
        compute_metrics=_accuracy if recipe.task.endswith("classification") else None,
    )
    if recipe.distill is not None and recipe.distill.logits > 0:
        teacher = plain_model(recipe.model, recipe.task)
        trainer: KANTrainer = DistillationTrainer(teacher=teacher, distill=recipe.distill, **settings)
    else:
        trainer = KANTrainer(**settings)
    schedule.wrapped = lambda: trainer.model_wrapped
    reporter.attach(trainer)
    return trainer


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    scores = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return {"accuracy": float((scores.argmax(-1) == prediction.label_ids).mean())}
