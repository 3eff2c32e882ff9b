"""Pictures in the layouts that transformers' image processors produce."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from zoo.fields import find

BATCH = 2
GRID = 4  # patches a side where a picture comes as rows of patches; two merges of two fit
FRAMES = 4


def candidates(model: nn.Module, accepted) -> Iterator[dict[str, object]]:
    """Keyword arguments with a batch of pictures, in every layout that the forward's argument names allow."""
    config = model.config
    channels = find(config, "num_channels", "in_channels", "in_chans", "num_image_channels", first="vision")
    channels = channels if type(channels) is int else 3
    patch = _one(find(config, "patch_size", first="vision") or 16)
    if any(name in accepted for name in ("image_grid_thw", "grid_thw", "image_grid_hws", "grid_hws", "image_grid_hw")):
        yield from _rows_with_grid(config, accepted, channels, patch)
    if any(name in accepted for name in ("spatial_shapes", "image_position_ids", "pixel_position_ids")):
        yield from _padded_rows(accepted, channels, patch)
    if "flattened_patches" in accepted:
        # Pix2Struct puts the row and column number in front of every patch.
        place = torch.stack(torch.meshgrid(torch.arange(1, 1 + GRID), torch.arange(1, 1 + GRID), indexing="ij"), -1)
        patches = torch.cat(
            [place.reshape(1, -1, 2).expand(BATCH, -1, -1), torch.randn(BATCH, GRID**2, channels * patch**2)], -1
        )
        yield {"flattened_patches": patches}
    size = picture_size(config)
    if "target_sizes" in accepted:
        # MiniCPM-V lays the patches of all pictures in one row.
        yield {
            "pixel_values": torch.randn(1, channels, patch, BATCH * GRID**2 * patch),
            "target_sizes": torch.tensor([[GRID, GRID]] * BATCH),
        }
    if "hidden_states" in accepted and "pixel_values" not in accepted and "image" in _modality(model):
        yield {"hidden_states": torch.randn(BATCH, channels, *size)}
    if "pixel_values" in accepted:
        yield from _dense(config, accepted, channels, size)
    elif "pixel_values_videos" in accepted:
        frames = find(config, "num_frames", "frames_per_clip", first="vision") or FRAMES
        yield {"pixel_values_videos": torch.randn(BATCH, frames, channels, *size)}


def picture_size(config) -> tuple[int, int]:
    size = find(config, "image_size", "img_size", "crop_size", first="vision") or 64
    if isinstance(size, dict):
        size = [size["height"], size["width"]]
    return (size, size) if isinstance(size, int) else tuple(size)[:2]


def _dense(config, accepted, channels: int, size: tuple[int, int]) -> Iterator[dict[str, object]]:
    extra: dict[str, object] = {}
    if "image_sizes" in accepted:
        extra["image_sizes"] = torch.tensor([size] * BATCH)
    if "aspect_ratio_ids" in accepted:
        tiles = find(config, "max_num_tiles", first="vision")
        extra["aspect_ratio_ids"] = torch.ones(BATCH, 1, dtype=torch.long)
        extra["aspect_ratio_mask"] = torch.ones(BATCH, 1, tiles, dtype=torch.long)
        yield {"pixel_values": torch.randn(BATCH, 1, tiles, channels, *size), **extra}
    if "high_res_pixel_values" in accepted:
        extra["high_res_pixel_values"] = torch.randn(BATCH, channels, *size)
    yield {"pixel_values": torch.randn(BATCH, channels, *size), **extra}
    frames = find(config, "num_frames", "frames_per_clip", first="vision")
    for count in [frames, 1, 2] if type(frames) is int else [1, 2]:
        yield {"pixel_values": torch.randn(BATCH, count, channels, *size), **extra}
    yield {"pixel_values": torch.randn(BATCH, channels, 64, 64)}
    yield {"pixel_values": torch.randn(BATCH, channels, 224, 224)}


def _rows_with_grid(config, accepted, channels: int, patch: int) -> Iterator[dict[str, object]]:
    grid = torch.tensor([[1, GRID, GRID]] * BATCH)
    frames = _one(find(config, "temporal_patch_size", "patch_temporal", first="vision") or 1)
    arguments = {}
    for name in ("image_grid_thw", "grid_thw"):
        if name in accepted:
            arguments[name] = grid
    for name in ("image_grid_hws", "grid_hws", "image_grid_hw"):
        if name in accepted:
            arguments[name] = grid[:, 1:]
    merge = find(config, "spatial_merge_size", first="vision") or 1
    for name in ("merge_sizes", "image_merge_sizes"):
        if name in accepted:
            arguments[name] = torch.tensor([merge] * BATCH)
    rows = BATCH * GRID**2
    pixels = next((name for name in ("pixel_values", "hidden_states") if name in accepted), None)
    if pixels is None:
        return
    yield {pixels: torch.randn(rows, channels * frames * patch**2), **arguments}
    yield {pixels: torch.randn(rows, channels * patch**2), **arguments}
    yield {pixels: torch.randn(rows, channels, patch, patch), **arguments}
    yield {pixels: torch.randn(1, rows, channels, patch, patch), **arguments}
    # Inkling counts its grid in merged patches and keeps the channels last.
    side = patch * merge
    merged = {
        name: grid // torch.tensor([1, merge, merge]) for name in ("image_grid_thw", "grid_thw") if name in arguments
    }
    yield {pixels: torch.randn(rows // merge**2, side, side, channels), **arguments, **merged}


def _padded_rows(accepted, channels: int, patch: int) -> Iterator[dict[str, object]]:
    pixels = {"pixel_values": torch.randn(BATCH, GRID**2, channels * patch**2)}
    if "spatial_shapes" in accepted:
        pixels["spatial_shapes"] = torch.tensor([[GRID, GRID]] * BATCH)
    if "pixel_attention_mask" in accepted:
        pixels["pixel_attention_mask"] = torch.ones(BATCH, GRID**2, dtype=torch.long)
    place = torch.stack(torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="xy"), -1).reshape(1, -1, 2)
    for name in ("image_position_ids", "pixel_position_ids"):
        if name in accepted:
            pixels[name] = place.expand(BATCH, -1, -1).clone()
    yield pixels


def _modality(model: nn.Module) -> str:
    return str(getattr(model, "input_modalities", "text"))


def _one(value: int | list | tuple) -> int:
    return value if isinstance(value, int) else value[-1]
