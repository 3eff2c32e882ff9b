"""The 2:4 form of the expanded activation: decompressed in Python it is the definition; nothing here multiplies it."""

import os

import pytest
import torch
from kan_kernels import definition, edges_sparse
from kan_kernels.curve import Curve
from kan_kernels.edges import sum_edges
from kan_kernels.edges_sparse import ROWS, check_sparse, expand_sparse, grouped_rows
from numerics import assert_close_to_float64

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
CURVE = Curve(basis="bspline", grid_size=5, order=3)


def case(tokens, inputs, dtype):
    generator = torch.Generator().manual_seed(0)
    x = (2.5 * torch.randn(tokens, inputs, generator=generator)).to(DEVICE, dtype)
    lower = -1.5 - torch.rand(inputs, generator=generator)
    return x, torch.stack([lower, -lower], -1).to(DEVICE)


def decompress(compressed, inputs):
    """(R, 8·I) from cuSPARSELt's 16-bit format, as PyTorch describes it: a word of metadata per row and 16 columns.

    Inside 32 x 32 elements, 64 words: rows 8 apart first, then the columns' halves, then rows 16 apart, then 1 apart.
    Such squares lie four rows of them deep in 128, two columns of them in 64, and those blocks column by column.
    """
    rows = len(compressed) * 2 // (9 * inputs)
    values, metadata = compressed[: rows * inputs * 4], compressed[rows * inputs * 4 :].view(torch.int16).int()
    words = torch.empty(rows, inputs // 2, dtype=torch.int32)
    for row in range(rows):
        for word in range(inputs // 2):
            column = 16 * word
            block = (column // 64) * (rows // 128) + row // 128
            square = (column % 64 // 32) * 4 + row % 128 // 32
            inside = (row % 8) * 8 + (row % 32 // 16) * 4 + (column % 32 // 16) * 2 + row % 16 // 8
            words[row, word] = metadata[block * 512 + square * 64 + inside] & 0xFFFF
    nibbles = torch.stack([(words >> shift) & 15 for shift in (0, 4, 8, 12)], -1).view(rows, 2 * inputs)
    places = torch.stack([nibbles & 3, nibbles >> 2], -1).long().to(compressed.device)
    groups = torch.zeros(rows, 2 * inputs, 4, dtype=compressed.dtype, device=compressed.device)
    return groups.scatter(2, places, values.view(rows, 2 * inputs, 2)).flatten(1), nibbles


@pytest.mark.parametrize("extrapolation", ["linear", "clamp", "zero"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_decompressed_it_is_the_definition(dtype, extrapolation):
    x, domain = case(200, 32, dtype)
    curve = Curve(basis="bspline", grid_size=5, order=3, extrapolation=extrapolation)
    dense, nibbles = decompress(expand_sparse(x, domain, curve), 32)
    assert dense.shape == (2 * ROWS, 8 * 32) and set(nibbles.unique().tolist()) == {4, 9, 14}
    values_NIC = definition.basis_values(x.double(), domain.double(), "bspline", 5, 3, extrapolation)
    expected = values_NIC.unflatten(2, (4, 2)).transpose(2, 3).flatten(1)  # the even ones, then the odd
    assert_close_to_float64(dense[:200], expected, dtype)
    assert dense.isfinite().all()  # also the rows that fill up the last block


def test_the_forward_multiplies_the_grouped_coefficients(monkeypatch):
    """With cuSPARSELt's product replaced by decompression and a dense one."""
    x, domain = case(130, 16, torch.float16)
    generator = torch.Generator().manual_seed(1)
    coefficients = torch.randn(16, 8, 24, generator=generator).to(DEVICE, torch.float16)
    base = torch.randn(130, 24, generator=generator).to(DEVICE, torch.float16)
    monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: True)
    monkeypatch.setattr(torch, "_cslt_sparse_mm", lambda e, a: (decompress(e, 16)[0].float() @ a.float()).to(a.dtype))
    settings = dict(basis="bspline", grid_size=5, order=3)
    x.requires_grad_()
    y = sum_edges(x, coefficients, domain, base=base, path="sparse", **settings)
    expected = definition.sum_edges(x.double(), coefficients.double(), domain.double(), **settings) + base
    # Looser: the sum is rounded before the base is added.
    assert_close_to_float64(y, expected, torch.float16, looser=1.5)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert dx.isfinite().all()


def test_grouped_rows_are_the_order_of_the_columns():
    coefficients = torch.arange(16.0).view(2, 8, 1)
    assert grouped_rows(coefficients).flatten().tolist() == [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]


@pytest.mark.parametrize(
    ("curve", "inputs", "outputs", "dtype", "error", "message"),
    [
        (Curve(basis="bspline", grid_size=4, order=3), 16, 8, torch.float16, ValueError, "grid_size=5 and order=3"),
        (CURVE, 24, 8, torch.float16, ValueError, "a multiple of 16 and outputs of 8, got 24 and 8"),
        (CURVE, 16, 9, torch.float16, ValueError, "got 16 and 9"),
        (CURVE, 16, 8, torch.float32, ValueError, "serves float16 and bfloat16, got torch.float32"),
        (CURVE, 16, 8, torch.float16, RuntimeError, "needs cuSPARSELt"),
    ],
)  # fmt: skip
def test_errors_say_what_it_serves(curve, inputs, outputs, dtype, error, message, monkeypatch):
    monkeypatch.setattr(edges_sparse.torch.backends.cusparselt, "is_available", lambda: False)
    with pytest.raises(error, match=message):
        check_sparse(torch.empty(4, inputs, dtype=dtype), outputs, curve)
