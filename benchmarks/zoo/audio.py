"""Sounds: spectrograms in both orientations and raw waves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import nn

from zoo.fields import find

BATCH = 2
FRAMES = 64
SAMPLES = 3840


def candidates(model: nn.Module, accepted) -> Iterator[dict[str, object]]:
    """Keyword arguments with a batch of sounds, in every layout that the forward's argument names allow."""
    config = model.config
    bins = find(
        config,
        "num_mel_bins",
        "n_mels",
        "n_mel_bins",
        "input_feat_per_channel",
        "input_feat_size",
        "feature_size",
        "mel_bins",
        "input_dim",
        "feature_projection_input_dim",
        first="audio",
    )
    bins = bins if type(bins) is int else 80
    positions = find(config, "max_source_positions", first="audio")
    if "input_features" in accepted:
        lengths = [FRAMES, 100] if positions is None else [FRAMES, 2 * positions, 100]
        for length, rows in itertools.product(lengths, dict.fromkeys((bins, 128))):
            yield {"input_features": torch.randn(BATCH, rows, length), **_masks(accepted, length)}
            yield {"input_features": torch.randn(BATCH, length, rows), **_masks(accepted, length)}
    if "input_values" in accepted:
        frames = find(config, "max_length", first="audio")
        if type(frames) is int and find(config, "num_mel_bins"):
            yield {"input_values": torch.randn(BATCH, frames, bins)}
        yield {"input_values": torch.randn(BATCH, SAMPLES), **_masks(accepted, SAMPLES)}
        yield {"input_values": torch.randn(BATCH, 1, SAMPLES)}
    if "spectrogram" in accepted:
        yield {"spectrogram": torch.randn(BATCH, FRAMES, find(config, "model_in_dim") or bins)}


def _masks(accepted, length: int) -> dict[str, torch.Tensor]:
    return {
        name: torch.ones(BATCH, length, dtype=torch.long)
        for name in ("input_features_mask", "feature_attention_mask")
        if name in accepted
    }
