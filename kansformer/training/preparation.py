"""What is done to a model's curves between building it and its first step."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import default_data_collator

from kansformer.errors import ConfigError
from kansformer.nn import refine_grid, update_grid
from kansformer.training.data import PreparedData
from kansformer.training.distill import distill_feed_forwards
from kansformer.training.recipe import Recipe
from kansformer.training.refusals import progress_of

# Enough tokens for the range of a channel, few enough to be read in seconds.
CALIBRATION_ROWS, BATCH = 32, 4


def calibration_batches(data: PreparedData) -> list[dict[str, Tensor]]:
    """The first rows of the training data, without labels: the same in every process."""
    rows: Any = data.train
    if isinstance(rows, IterableDataset):
        first = list(islice(iter(rows), CALIBRATION_ROWS))
    else:
        first = [rows[index] for index in range(min(CALIBRATION_ROWS, len(rows)))]
    collate: Callable = data.collator or default_data_collator
    batches = (collate(first[start : start + BATCH]) for start in range(0, len(first), BATCH))
    return [{name: value for name, value in batch.items() if name != "labels"} for batch in batches]


def to_device(batches: list[dict[str, Tensor]], device: torch.device) -> list[dict[str, Tensor]]:
    """The same batches where the model is."""
    return [{name: value.to(device) for name, value in batch.items()} for batch in batches]


def prepare_curves(
    recipe: Recipe,
    model: Any,
    batches: list[dict[str, Tensor]],
    data: PreparedData,
    device: torch.device,
    make_teacher: Callable[[], nn.Module],
) -> None:
    """Set the grids to where the data is, and distil feed-forward networks, as the recipe says; in place.

    Raises:
        ConfigError: the networks are to learn from text that is streamed.
    """
    if recipe.curves.domain == "data":
        update_grid(model.to(device), to_device(batches, device), quantile=recipe.curves.quantile)
    if recipe.distill is not None and recipe.distill.ffn_steps:
        if isinstance(data.train, IterableDataset):
            raise ConfigError("distill.ffn_steps needs text that is read whole: set data.streaming=false.")
        distill_feed_forwards(
            model.to(device),
            make_teacher().to(device),
            data.train[:]["input_ids"],
            steps=recipe.distill.ffn_steps,
            lr=recipe.distill.ffn_lr,
            curve_lr_multiplier=recipe.curves.lr_multiplier,
            seed=recipe.seed,
        )


def refine_up_to(recipe: Recipe, model: nn.Module, checkpoint: str) -> None:
    """Give the model the grid that it had when the checkpoint was written."""
    done, _ = progress_of(Path(checkpoint)) or (0, 0)
    sizes = [size for at, size in sorted(recipe.curves.refine_grid_at.items()) if at <= done]
    if sizes:
        refine_grid(model, sizes[-1])
