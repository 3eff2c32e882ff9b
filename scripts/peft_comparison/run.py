"""Train nothing but curves in PEFT's own comparison of methods, and write a row for its table.

    python scripts/peft_comparison/run.py scripts/peft_comparison/act.yaml --count
    python scripts/peft_comparison/run.py scripts/peft_comparison/act.yaml --output results

Llama-3.2-3B learns MetaMathQA and is judged by GSM8K. It needs a GPU with 32 GB or more, `pip install kansformer` and a
login at the Hub that may read the model. Writes to `--output` the row, in a file named after the experiment, and beside
it the curves alone, in a folder of that name, for `load_curves`. `--count` prints how many numbers would be trained and
stops, without reading the weights.
"""

from __future__ import annotations

import datetime
import json
import time
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
import typer
from comparison_settings import Settings, read_settings
from curve_training import MemoryLog, generate_texts, loss_per_token, padded, train_curves
from math_task import accuracy, bucketed, test_questions, training_texts, unrelated_texts, validation_questions
from result_row import meta_info, method_config, train_config, train_info
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, set_seed

from kansformer import convert, optimizer_groups, plan_conversion, save_curves, update_grid
from kansformer.errors import CheckpointError, KansformerError
from kansformer.files import atomic_write_text, check_file, check_unused
from kansformer.nn.optim import curve_parameters
from kansformer.progress import progress_bar


def print_count(settings: Settings) -> None:
    """Print what would be trained, from the model's config alone."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(settings.model))
    plan = plan_conversion(model, settings.kan_config)
    added = plan.parameters_after - plan.parameters_before
    print(f"{plan}\n{settings.experiment} trains {added:,} numbers ({added / 1e6:.2f}M).")


def prepare_model(settings: Settings) -> PreTrainedModel:
    """The frozen model with straight curves, which are trained and are float32."""
    training = settings.training
    model = AutoModelForCausalLM.from_pretrained(
        settings.model, dtype=getattr(torch, training.dtype), attn_implementation=training.attn_implementation
    ).to("cuda" if torch.cuda.is_available() else "cpu")
    convert(model, settings.kan_config)
    model.requires_grad_(False)
    for _, parameter in curve_parameters(model):
        parameter.data = parameter.data.float()  # a step of Adam's is lost in bfloat16
        parameter.requires_grad_(True)
    return model


def run(settings: Settings, curves_folder: Path) -> dict:
    """Train, save the curves, judge them, and return the row."""
    start, created = time.perf_counter(), datetime.datetime.now(datetime.timezone.utc)
    data, training, curves = settings.data, settings.training, settings.curves
    set_seed(training.seed)
    memory = MemoryLog()
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    meta = meta_info(settings)
    model = prepare_model(settings)
    train_start = time.perf_counter()
    unrelated, validation, test = unrelated_texts(data), validation_questions(data), test_questions(data)
    token_rows = [row[: training.max_seq_length] for row in tokenizer(training_texts(data, training))["input_ids"]]
    unrelated_before = loss_per_token(model, tokenizer, unrelated, training.batch_size)
    first = islice(bucketed(token_rows, training.batch_size), curves.calibration_batches)
    update_grid(model, (padded(rows, tokenizer, model.device, "right") for rows in first), quantile=curves.quantile)

    with progress_bar() as progress:

        def judge(rows: list[tuple[str, str]]) -> float:
            texts = generate_texts(model, tokenizer, [question for question, _ in rows], training, progress)
            return accuracy(texts, [answer for _, answer in rows])

        batches = bucketed(token_rows, training.batch_size)
        log = train_curves(model, tokenizer, batches, training, curves, lambda: judge(validation), memory, progress)
        save_curves(model, curves_folder)  # before the long evaluation, which may fail
        test_accuracy = judge(test)
    unrelated_after = loss_per_token(model, tokenizer, unrelated, training.batch_size)
    log.metrics.append(
        {
            "step": len(log.losses),
            "test accuracy": test_accuracy,
            "train loss": sum(log.losses[-training.eval_steps :]) / training.eval_steps,
            "train samples": log.samples,
            "train total tokens": sum(log.tokens),
            "forgetting": unrelated_after - unrelated_before,
        }
    )
    train_seconds = time.perf_counter() - train_start - log.validation_seconds
    groups = optimizer_groups(model, training.lr, curve_lr_multiplier=curves.lr_multiplier)
    return {
        "run_info": {
            "created_at": created.replace(microsecond=0).isoformat(),
            "total_time": time.perf_counter() - start,
            "experiment_name": settings.experiment,
            "peft_branch": None,
            "train_config": train_config(settings),
            "peft_config": method_config(settings, [group["lr"] for group in groups]),
            "error_msg": "",
        },
        "train_info": train_info(
            memory,
            train_time=train_seconds,
            file_size=(curves_folder / "curves.safetensors").stat().st_size,
            num_trainable_params=sum(p.numel() for p in model.parameters() if p.requires_grad),
            num_total_params=model.num_parameters(),
            metrics=log.metrics,
        ),
        "meta_info": meta,
    }


def main(
    config: Annotated[Path, typer.Argument(help="File of the experiment.")],
    output: Annotated[Path, typer.Option(help="Folder of the row and the curves.")] = Path("peft-comparison"),
    count: Annotated[bool, typer.Option("--count", help="Print what would be trained, and stop.")] = False,
) -> None:
    """Train curves on MetaMathQA, judge them by GSM8K, and write the row of PEFT's table."""
    try:
        settings = read_settings(config)
        print_count(settings)
        if count:
            return
        output.mkdir(parents=True, exist_ok=True)
        folder, file = output / settings.result_name, output / f"{settings.result_name}.json"
        check_unused(folder)
        check_file(file)
        if file.exists():
            raise CheckpointError(f"There is a row of this experiment already: {str(file)!r}. Choose another --output.")
        row = run(settings, folder)
    except KansformerError as error:
        raise SystemExit(f"Error: {error}") from error
    atomic_write_text(file, json.dumps(row, indent=2) + "\n")
    figures = row["train_info"]["metrics"][-1]
    print(f"Test accuracy {figures['test accuracy']:.4f}, train loss {figures['train loss']:.4f}.")
    print(f"The row is in {file}, the curves are in {folder}.")


if __name__ == "__main__":
    typer.run(main)
