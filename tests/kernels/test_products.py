"""Products whose sums stay in float32, whatever the process allows."""

import pytest
import torch
from kan_kernels.products import add_product, float32_sums, multiply

ALLOWED = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")


def allowed():
    return [getattr(torch.backends.cuda.matmul, name) for name in ALLOWED]


@pytest.mark.parametrize("product", ["multiply", "add_product"])
def test_no_product_may_add_in_sixteen_bits(product, monkeypatch, device):
    seen = []
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *a, **k: seen.append(allowed()) or addmm(*a, **k))
    left, right = torch.ones(2, 3, device=device), torch.ones(3, 4, device=device)
    out = torch.empty(2, 4, device=device)
    assert allowed() == [True, True]
    if product == "multiply":
        multiply(left, right, torch.ones(2, 4, device=device), out)
    else:
        add_product(out, left, right, first=True)
    assert seen == [[False, False]] and allowed() == [True, True]


def test_the_settings_return_after_an_error():
    with pytest.raises(KeyError), float32_sums():
        raise KeyError
    assert allowed() == [True, True]


def test_chunks_are_added_in_float32(device):
    left = torch.full((1, 1), 1.0, dtype=torch.bfloat16, device=device)
    small = torch.full((1, 1), 2.0**-9, dtype=torch.bfloat16, device=device)
    total = torch.full((1, 1), float("nan"), device=device)
    add_product(total, left, left, first=True)
    for _ in range(4):
        add_product(total, left, small, first=False)
    assert total.item() == 1 + 2.0**-7  # bfloat16 would stay at 1


def test_the_last_of_several_threads_puts_the_settings_back():
    first, second = float32_sums(), float32_sums()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert allowed() == [False, False]
    second.__exit__(None, None, None)
    assert allowed() == [True, True]
