"""Grids from data, and distilled networks: what happens to a model between building it and its first step."""

from itertools import islice

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from kansformer.errors import ConfigError
from kansformer.nn import update_grid
from kansformer.training.build import plain_model
from kansformer.training.callbacks import to_device
from kansformer.training.data import PreparedData
from kansformer.training.distill import distill_feed_forwards
from kansformer.training.recipe import Recipe

# Enough tokens for the range of a channel, few enough to be read in seconds.
CALIBRATION_ROWS, BATCH = 32, 4


def calibration_batches(data: PreparedData) -> list[dict[str, Tensor]]:
    """The first rows of the training data, without labels: the same in every process."""
    if isinstance(data.train, IterableDataset):
        rows = list(islice(iter(data.train), CALIBRATION_ROWS))
    else:
        rows = [data.train[index] for index in range(min(CALIBRATION_ROWS, len(data.train)))]
    batches = (data.collator(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH))
    return [{name: value for name, value in batch.items() if name != "labels"} for batch in batches]


def calibrate(
    recipe: Recipe, model: nn.Module, batches: list[dict[str, Tensor]], data: PreparedData, device: torch.device
) -> None:
    """Set the grids to the range of their inputs, and distil feed-forward networks, as the recipe says; in place.

    Raises:
        ConfigError: the networks would have to learn from a stream.
    """
    if recipe.curves.domain == "data":
        update_grid(model.to(device), to_device(batches, device), quantile=recipe.curves.quantile)
    if recipe.distill is not None and recipe.distill.ffn_steps:
        if isinstance(data.train, IterableDataset):
            raise ConfigError("distill.ffn_steps needs text that is read whole: set data.streaming=false.")
        teacher: nn.Module = plain_model(recipe.model, recipe.task)
        distill_feed_forwards(
            model.to(device),
            teacher.to(device),
            data.train[:]["input_ids"],
            steps=recipe.distill.ffn_steps,
            lr=recipe.distill.ffn_lr,
            curve_lr_multiplier=recipe.curves.lr_multiplier,
            seed=recipe.seed,
        )
