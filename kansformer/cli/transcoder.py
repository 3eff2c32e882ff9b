"""`kansformer train` with a recipe of the task `transcoder`: one transcoder for each layer, and its figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from kansformer.errors import ConfigError
from kansformer.files import atomic_write_text, check_unused, check_writable
from kansformer.progress import progress_bar

if TYPE_CHECKING:
    from kansformer.interp import Transcoder, TranscoderFigures
    from kansformer.training.recipe import Recipe
    from kansformer.training.transcoder_recipe import TranscoderRecipe

FIGURES = "figures.json"
# Held-out blocks of a forward pass.
BATCH = 4


def train_transcoders(recipe: Recipe, folder: Path) -> Iterator[tuple[Path, TranscoderFigures]]:
    """Train the transcoders of a recipe and write each into a folder of its own, with its figures on held-out text.

    Yields:
        Folder and figures of each layer, once they are written.

    Raises:
        CheckpointError: the folder is not empty, or cannot be written.
        ConfigError, SlotError: a layer has no network that can be replaced, or a field is impossible.
        DataError: the data are unusable, or too few.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from kansformer.cli.loading import usable_device
    from kansformer.conversion.sources import read_model
    from kansformer.interp import measure_transcoder
    from kansformer.sites.intercept import site_of_layer
    from kansformer.training.data import prepare_data
    from kansformer.training.recipe_file import write_recipe
    from kansformer.training.resume import RECIPE_FILE
    from kansformer.training.transcoder import record_network, train_transcoder
    from kansformer.training.transcoder_recipe import TranscoderCurves

    settings, source = recipe.transcoder, recipe.model.source
    assert settings is not None and source is not None
    check_unused(folder)
    check_writable(folder)
    if recipe.data.streaming:
        raise ConfigError("A transcoder reads its tokens several times: set data.streaming=false.")
    data = prepare_data("causal-lm", recipe.data, source, seed=recipe.seed)
    model = read_model(source, AutoModelForCausalLM, dtype=getattr(torch, recipe.model.dtype))
    device = usable_device()
    model.to(device)  # type: ignore[arg-type]  # transformers hides the signature
    widths = {layer: site_of_layer(model, layer).width for layer in settings.layers}
    # All are made before the first is trained.
    transcoders = {layer: make_transcoder(settings, width).to(device) for layer, width in widths.items()}
    blocks_NT, held_out_NT = data.train[:]["input_ids"], data.evaluation[:]["input_ids"]
    batches = [{"input_ids": part, "labels": part} for part in held_out_NT.to(device).split(BATCH)]
    curves = settings.curves or TranscoderCurves()  # not used by transcoders without
    for layer, transcoder in transcoders.items():
        with progress_bar(f"layer {layer}") as progress:
            recorded = record_network(model, layer, blocks_NT, progress=progress)
            fit = train_transcoder(
                transcoder, recorded, steps=settings.steps, batch_tokens=settings.batch_tokens, lr=settings.lr,
                curve_lr_multiplier=curves.lr_multiplier, curves_begin=curves.begin, l1=settings.l1, seed=recipe.seed,
                progress=progress,
            )  # fmt: skip
            if not folder.exists() or not any(folder.iterdir()):  # a run that fails before leaves nothing
                folder.mkdir(parents=True, exist_ok=True)
                write_recipe(recipe, folder / RECIPE_FILE)
            place = transcoder.save(folder / f"layer-{layer}")
            figures = measure_transcoder(model, layer, transcoder, batches, names=settings.names, progress=progress)
        values = {"training": asdict(fit), **figures.to_dict()}
        atomic_write_text(place / FIGURES, json.dumps(values, indent=2) + "\n")
        yield place, figures


def make_transcoder(settings: TranscoderRecipe, width: int) -> Transcoder:
    """The transcoder that a recipe describes, of a network's width."""
    from kansformer.nn.transcoder import Transcoder

    curves = settings.curves
    if curves is None:
        return Transcoder(width, settings.latents, k=settings.k, basis=None, skip=settings.skip)
    return Transcoder(
        width, settings.latents, k=settings.k, basis=curves.basis, grid_size=curves.grid_size, order=curves.order,
        edges=curves.edges, groups=curves.groups, skip=settings.skip,
    )  # fmt: skip
