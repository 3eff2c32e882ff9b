"""Tiles are data: every file is complete, and the one function that reads them is pure."""

import json
from itertools import product
from pathlib import Path

import kan_kernels.tiles
import pytest
import torch
from kan_kernels.curve import Curve
from kan_kernels.tiles import (
    ACTIVATION_OPERATIONS,
    OPERATIONS,
    Tile,
    activation_tile,
    choose,
    forward_step,
    input_gradient_columns,
    splits_of_tokens,
    tokens_per_program,
)

FOLDER = Path(kan_kernels.tiles.__file__).with_suffix("")
FILES = sorted(FOLDER.glob("*.json"))
GPUS = sorted({gpu for file in FILES for gpu in json.loads(file.read_text())["architectures"]} | {"sm_75"})
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def test_the_files_are_there():
    assert {file.stem for file in FILES} >= {"default", "interpreter", "h100"}


def test_no_architecture_has_two_files():
    named = [gpu for file in FILES for gpu in json.loads(file.read_text())["architectures"]]
    assert len(named) == len(set(named))


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_launch_has_a_tile(operation, gpu):
    for dtype, outputs, path in product(DTYPES, (1, 64, 768, 16384), (None, "fused", "expand", "sparse")):
        tile = choose(operation, outputs, dtype, gpu, path)
        assert all(size & (size - 1) == 0 and size > 0 for size in (tile.rows, tile.columns, tile.depth))
        if operation in ("forward", "weight_gradient") and path:
            assert tile.path == ("expand" if (operation, path) == ("weight_gradient", "sparse") else path)
        if tile.path == "fused":
            assert min(tile.rows, tile.columns, tile.depth) >= 16  # of tl.dot


def test_wide_layers_expand_and_narrow_ones_do_not():
    for operation, gpu in product(("forward", "weight_gradient"), ("sm_90", "sm_80", "gfx942")):
        assert choose(operation, 3072, torch.bfloat16, gpu).path == "expand"
        assert choose(operation, 64, torch.bfloat16, gpu).path == "fused"


def test_an_unknown_gpu_takes_the_default():
    expected = choose("forward", 8, torch.bfloat16, "sm_80")
    assert choose("forward", 8, torch.bfloat16, "sm_999") == expected


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (Curve(basis="bspline", grid_size=5, order=3), (128, 8)),
        (Curve(basis="chebyshev", grid_size=1, order=3), (128, 4)),
        (Curve(basis="bspline", grid_size=2, order=3), (64, 2)),  # 5 coefficients: 6 are less waste than 8
        (Curve(basis="bspline", grid_size=4, order=3), (128, 8)),
        (Curve(basis="rational", grid_size=1, order=5), (128, 8)),  # all six together for the denominator
    ],
    ids=str,
)
def test_columns_of_the_input_gradient(curve, expected):
    assert input_gradient_columns(curve, 128) == expected


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (Curve(basis="bspline", grid_size=5, order=3), (16, 8)),
        (Curve(basis="bspline", grid_size=2, order=3), (16, 8)),  # three columns are zero
        (Curve(basis="bspline", grid_size=16, order=3), (4, 32)),
        (Curve(basis="bspline", grid_size=60, order=3), (4, 32)),  # two turns
    ],
    ids=str,
)
def test_a_step_of_the_forward(curve, expected):
    assert forward_step(curve, 128) == expected
    assert forward_step(curve, 16)[0] * forward_step(curve, 16)[1] == 16


def test_few_tokens_are_spread_over_many_programs():
    tile = Tile(path="expand", rows=2, columns=128, depth=32, programs=1024)
    assert tokens_per_program(tile, 8192, 2048) == 32
    assert tokens_per_program(tile, 16, 2048) == 2
    assert tokens_per_program(tile, 1024, 1024) == 8


def test_splits_fill_the_gpu_and_leave_work_for_each():
    tile = Tile(path="fused", rows=128, columns=128, depth=32, programs=264)
    assert splits_of_tokens(tile, 4096, 768, 768, 8) == 1  # 288 programs already
    assert splits_of_tokens(tile, 4096, 768, 32, 8) == 5
    assert splits_of_tokens(tile, 200, 768, 32, 8) == 2  # four steps of 32 tokens each
    assert splits_of_tokens(tile, 1, 1, 1, 1) == 1


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("operation", ACTIVATION_OPERATIONS)
def test_every_activation_has_a_tile(operation, gpu):
    for dtype, channels in product(DTYPES, (1, 37, 128, 3072)):
        tile = activation_tile(operation, channels, dtype, gpu)
        assert all(size & (size - 1) == 0 and size > 0 for size in (tile.rows, tile.columns))
        assert tile.columns < 2 * max(channels, 17) and tile.turns > 0 and tile.waves > 0
        if gpu != "interpreter":  # each thread has two elements or more, whole words of 16 bits
            assert tile.rows * tile.columns >= 64 * tile.warps


def test_errors_list_the_choices():
    with pytest.raises(ValueError, match="Unknown operation 'activation'. Choose one of: activation_forward, "):
        activation_tile("activation", 1, torch.float32, "sm_90")
    with pytest.raises(ValueError, match="Unknown operation 'backward'. Choose one of: forward, expand, "):
        choose("backward", 1, torch.float32, "sm_90")
    with pytest.raises(ValueError, match="Unknown path 'quick'. Choose one of: fused, expand, sparse, or None."):
        choose("forward", 1, torch.float32, "sm_90", "quick")
