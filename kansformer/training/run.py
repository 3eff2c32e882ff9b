"""`train`: run a recipe on transformers' Trainer and write a folder with the trained model."""

import json
import platform
import shutil
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
import transformers
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from kansformer.conversion.measured import WEIGHTS, digest_of_weights
from kansformer.errors import ConfigError, InterruptedRunError
from kansformer.files import atomic_write_text, check_unused, check_writable
from kansformer.nn import refine_grid, update_grid
from kansformer.nn.optim import curve_parameters
from kansformer.progress import Progress
from kansformer.training.build import build_model, check_model, merge_lora, plain_model
from kansformer.training.callbacks import (
    BestCheckpoint,
    CurvePenalties,
    CurveWarmUp,
    GridSchedule,
    MaskAnew,
    Reporter,
    StreamEnd,
    to_device,
)
from kansformer.training.data import PreparedData, check_task, prepare_data
from kansformer.training.data.language import BlockCollator, PackedStream
from kansformer.training.data.spec import LANGUAGE_TASKS
from kansformer.training.distill import distill_feed_forwards
from kansformer.training.first_call import call_once
from kansformer.training.guard import check_finite
from kansformer.training.page_faults import watch_page_faults
from kansformer.training.preflight import (
    check_combination,
    check_enough_data,
    check_free_disk,
    check_optim,
    training_arguments,
)
from kansformer.training.processes import check_launcher, check_same_checkpoint, end_with_launcher
from kansformer.training.recipe import Recipe
from kansformer.training.recipe_file import write_recipe
from kansformer.training.result import TrainingResult, read_result
from kansformer.training.resume import (
    DATA_FILE,
    RECIPE_FILE,
    RESULT_FILE,
    check_optimizer,
    check_rows,
    check_same_data,
    find_best,
    find_checkpoint,
    has_run,
    is_last,
    steps_of,
)
from kansformer.training.sharding import check_shardable, shard_model
from kansformer.training.trainer import ASIDE, DistillationTrainer, KANTrainer
from kansformer.version import __version__

LOSS_FILE = "losses.csv"
# Enough tokens for the range of a channel, few enough to be read in seconds.
CALIBRATION_ROWS, CALIBRATION_BATCH = 32, 4
SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def train(
    recipe: Recipe, output: Path | str, *, resume: bool = False, progress: Progress | None = None
) -> TrainingResult:
    """Run a recipe and write the model, its tokenizer, `recipe.yaml`, `losses.csv` and `training.json`.

    In a process that `accelerate launch` or `torchrun` started, it trains together with the others. With `resume` the
    same command begins a run, goes on with it after a failure, and returns its result once it is finished, as launchers
    that restart processes need it.

    Args:
        recipe: what to do.
        output: folder to write; it must be new or empty, unless a run is resumed. Checkpoints lie in it. Processes on
            several machines need it on a file system that all of them share.
        resume: go on from the last checkpoint in `output`, with the same recipe; only `non_finite` may be another, and
            `rows_per_step` be added. Without a checkpoint the run begins.
        progress: called after every step, in the main process.

    Returns:
        A `TrainingResult`, in every process.

    Raises:
        ConfigError: a field is impossible, or the loss or a gradient became infinite or NaN.
        CheckpointError: `output` is in use or another recipe's, the steps to resume had another number of rows or other
            data, or the disk is full.
        InterruptedRunError: SIGTERM came; the step was finished and a checkpoint saved.
        DataError: the data is unusable, or too little for the processes. Nothing is overwritten after any error.

    Examples:
        >>> from pathlib import Path
        >>> from kansformer.training import read_recipe, train
        >>> size = Path("text.txt").write_text("To be, or not to be, that is the question. " * 50)
        >>> data = "data={files: text.txt, tokenizer: characters, block: 16}"
        >>> result = train(read_recipe("tiny-cpu", [data, "training.max_steps=1", "training.save_strategy=no"]), "run")
        >>> result.steps, result.parameters, result.curve_parameters
        (1, 334608, 528)
    """
    if recipe.transcoder is not None:
        raise ConfigError("A recipe of the task transcoder is run by `kansformer train`, or by train_transcoder.")
    output = Path(output)
    check_launcher()
    end_with_launcher()
    on_cpu = bool(recipe.training.get("use_cpu")) or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu)
    checkpoint = None
    if not resume:
        check_unused(output)
    elif has_run(recipe, output):
        if (output / RESULT_FILE).exists():
            return read_result(output)
        checkpoint = find_checkpoint(recipe, output)
    check_same_checkpoint(checkpoint, output)
    check_writable(output)
    arguments = training_arguments(recipe, output)
    rows_per_step = arguments.train_batch_size * arguments.gradient_accumulation_steps * state.num_processes
    check_combination(recipe, arguments, resumes=checkpoint is not None)
    best = None
    is_complete = checkpoint is not None and is_last(checkpoint, recipe.early_stop)
    if checkpoint is not None:
        check_rows(checkpoint, rows_per_step)
        if not is_complete:
            check_optimizer(checkpoint)
        if arguments.load_best_model_at_end:
            best = find_best(checkpoint, output)
    check_task(recipe.task, recipe.data)
    check_model(recipe)

    set_seed(recipe.seed)
    with state.main_process_first():  # which tokenises and leaves the blocks for the others
        data = prepare_data(recipe.task, recipe.data, recipe.model.source, seed=recipe.seed)
    check_enough_data(data, rows_per_step)
    if checkpoint is not None:
        check_same_data(data.facts, output)
    batches = _calibration_batches(data)

    model = _prepare_model(recipe, data, batches, arguments.device, output, checkpoint)
    divides_loss = call_once(model, data.collator(list(islice(data.train, 1))), recipe.task)
    check_optim(arguments, model)
    if recipe.shard:
        check_shardable(model)
    counts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "curve_parameters": sum(p.numel() for _, p in curve_parameters(model)),
    }
    state.wait_for_everyone()
    if state.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        write_recipe(recipe, output / RECIPE_FILE)
        atomic_write_text(output / DATA_FILE, json.dumps(data.facts, indent=2) + "\n")
        shutil.rmtree(output / ASIDE, ignore_errors=True)  # of a run that was killed while it saved
    if recipe.shard and state.num_processes > 1:
        model = shard_model(model, output / "start", state)

    per_row = recipe.data.block if recipe.task in LANGUAGE_TASKS else 1
    reporter = Reporter(output / LOSS_FILE, rows_per_step * per_row, progress)
    trainer = _make_trainer(recipe, model, arguments, data, batches, reporter)
    trainer.model_accepts_loss_kwargs &= divides_loss
    done, _ = (checkpoint and steps_of(checkpoint)) or (0, 0)
    with watch_page_faults(lambda: trainer.state.global_step - done):
        seconds = _run_steps(trainer, output, checkpoint, best, is_complete)
    check_finite(model, reporter.losses)
    if "lora" in recipe.trainable:
        merge_lora(model)
    evaluation = _save_and_evaluate(trainer, output)

    device = torch.cuda.get_device_name(arguments.device) if arguments.device.type == "cuda" else platform.machine()
    result = TrainingResult(
        output=output,
        losses=tuple(reporter.losses),
        evaluation=evaluation,
        steps=trainer.state.global_step,
        seconds=seconds,
        tokens_per_second=(trainer.state.global_step - done) * reporter.tokens_per_step / seconds,
        **counts,
        facts={
            "data": data.facts,
            "device": f"{state.num_processes} x {device}",
            "kansformer": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        skipped_steps=tuple(trainer.guard.skipped),
    )
    if state.is_main_process:
        values = {**result.to_dict(), WEIGHTS: digest_of_weights(output)}
        atomic_write_text(output / RESULT_FILE, json.dumps(values, indent=2) + "\n")
        (output / DATA_FILE).unlink(missing_ok=True)
    state.wait_for_everyone()
    return result


def _calibration_batches(data: PreparedData) -> list[dict[str, Tensor]]:
    """The first rows of the training data, without labels: the same in every process."""
    rows = list(islice(data.train, CALIBRATION_ROWS))
    starts = range(0, len(rows), CALIBRATION_BATCH)
    batches = (data.collator(rows[start : start + CALIBRATION_BATCH]) for start in starts)
    return [{name: value for name, value in batch.items() if name != "labels"} for batch in batches]


def _prepare_model(
    recipe: Recipe,
    data: PreparedData,
    batches: list[dict[str, Tensor]],
    device: torch.device,
    output: Path,
    checkpoint: Path | None,
) -> PreTrainedModel:
    """Build the model with grids set from data and distilled networks, or with the grid of a checkpoint."""
    set_seed(recipe.seed)  # the weights do not depend on what the data took
    model = build_model(
        recipe,
        vocabulary=data.vocabulary,
        label_names=data.label_names,
        special_tokens={name: getattr(data.processor, name, None) for name in SPECIAL_TOKENS},
        inputs=batches,
    )
    check_free_disk(output, model)
    if checkpoint is not None:
        done, _ = steps_of(checkpoint) or (0, 0)
        if sizes := [size for step, size in sorted(recipe.curves.refine_grid_at.items()) if step <= done]:
            refine_grid(model, sizes[-1])
        return model
    module: nn.Module = model  # a PreTrainedModel's `to` is mistyped
    if recipe.curves.domain == "data":
        update_grid(module.to(device), to_device(batches, device), quantile=recipe.curves.quantile)
    if recipe.distill is not None and recipe.distill.ffn_steps:
        if isinstance(data.train, IterableDataset):
            raise ConfigError("distill.ffn_steps needs text that is read whole: set data.streaming=false.")
        teacher: nn.Module = plain_model(recipe.model, recipe.task)
        distill_feed_forwards(
            module.to(device),
            teacher.to(device),
            data.train[:]["input_ids"],
            steps=recipe.distill.ffn_steps,
            lr=recipe.distill.ffn_lr,
            curve_lr_multiplier=recipe.curves.lr_multiplier,
            seed=recipe.seed,
        )
    return model


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
    if isinstance(data.collator, BlockCollator):
        callbacks.append(MaskAnew(data.collator))
    rows = data.train
    if isinstance(rows, PackedStream):
        rows = replace(rows, repeats=True)
        callbacks.append(StreamEnd())
    if curves.warm_up:
        callbacks.append(CurveWarmUp(curves.warm_up))
    if curves.sparsity or curves.smoothness:
        callbacks.append(CurvePenalties(curves.sparsity, curves.smoothness))
    if recipe.early_stop is not None:
        callbacks.append(EarlyStoppingCallback(recipe.early_stop))
    settings = dict(
        model=model,
        args=arguments,
        train_dataset=rows,
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
        trainer: KANTrainer = DistillationTrainer(
            teacher=teacher, alpha=recipe.distill.logits, temperature=recipe.distill.temperature, **settings
        )
    else:
        trainer = KANTrainer(**settings)
    schedule.wrapped = lambda: trainer.model_wrapped
    reporter.attach(trainer)
    return trainer


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    scores = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return {"accuracy": float((scores.argmax(-1) == prediction.label_ids).mean())}


def _run_steps(
    trainer: KANTrainer, output: Path, checkpoint: Path | None, best: Path | None, is_complete: bool
) -> float:
    """Train to the last step and return the seconds it took.

    Args:
        trainer: of the run.
        output: folder of the run.
        checkpoint: to go on from; None begins.
        best: the checkpoint that is the best so far, if the run takes that back.
        is_complete: whether `checkpoint` is the last one.
    """
    begin = time.perf_counter()
    with trainer.guard.handle_sigterm():
        if checkpoint is not None and is_complete:
            trainer._load_from_checkpoint(str(best or checkpoint))
            trainer.state.global_step, _ = steps_of(checkpoint) or (0, 0)
        else:
            if best is not None:
                trainer.add_callback(BestCheckpoint(best))
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.guard.terminated:
        raise InterruptedRunError(
            f"SIGTERM ended the run in {str(output)!r} after step {trainer.state.global_step}, which is saved. Go on "
            "with --resume."
        )
    return time.perf_counter() - begin


def _save_and_evaluate(trainer: KANTrainer, output: Path) -> dict[str, float]:
    if trainer.is_fsdp_enabled:  # accelerate's default leaves shards, which from_pretrained does not read
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(output))
    trainer.label_smoother = None  # the model's own loss
    return {k: v for k, v in trainer.evaluate().items() if k in ("eval_loss", "eval_accuracy")}
