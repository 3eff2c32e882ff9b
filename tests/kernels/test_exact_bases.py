"""Which base functions count as PyTorch's own, and the faster computations of them that are tried."""

import pytest
import torch
from kan_kernels import definition, exact_bases, is_exact
from kan_kernels.activation import learned_activation
from kan_kernels.base_functions import VARIANTS
from torch.utils._python_dispatch import TorchDispatchMode


def test_exact_bases(device):
    for name in definition.BASE_FUNCTIONS:
        assert is_exact(name, device, torch.float32) == (name in ("identity", "relu", "zero"))
    for dtype in (torch.float16, torch.bfloat16):
        assert all(is_exact(name, device, dtype) for name in ("identity", "relu", "zero"))
    with pytest.raises(ValueError, match="Unknown base 'elu'. Choose one of: identity, silu, "):
        is_exact("elu", device, torch.float16)


def test_only_the_function_that_is_asked_for_is_tried(device, monkeypatch):
    tried = []
    for name in ("_AGREES", "_EXACT"):
        monkeypatch.setattr(exact_bases, name, {})
    monkeypatch.setattr(exact_bases, "_try", lambda variant, *_: tried.append(variant) or variant == "silu")
    assert is_exact("silu", device, torch.bfloat16) and is_exact("silu", device, torch.bfloat16)
    assert tried == ["silu_branchless", "silu"]


def test_a_trial_is_no_part_of_a_model(device, monkeypatch):
    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            raise AssertionError(function)

    monkeypatch.setattr(exact_bases, "_AGREES", {})
    with Seen():
        assert exact_bases._agrees("silu", "silu", device, torch.bfloat16)


def test_what_is_known_holds_while_a_graph_is_captured(device, monkeypatch):
    for name in ("_AGREES", "_EXACT"):
        monkeypatch.setattr(exact_bases, name, {})
    assert is_exact("relu", device, torch.bfloat16)
    monkeypatch.setattr(exact_bases, "is_capturing", lambda device: True)
    monkeypatch.setattr(exact_bases, "_try", None)
    assert is_exact("relu", device, torch.bfloat16)
    assert not is_exact("tanh", device, torch.bfloat16)
    monkeypatch.undo()
    assert exact_bases._agrees("tanh", "tanh", device, torch.bfloat16) == is_exact("tanh", device, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("base", "variant"), [(base, v) for base, variants in VARIANTS.items() for v in variants])
def test_variants_of_a_base_are_right_for_every_value(device, base, variant, dtype):
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).reshape(512, 128).to(device)
    y = learned_activation(
        x, torch.zeros(1, 2, device=device), torch.tensor([[-1.0, 1.0]], device=device),
        basis="chebyshev", grid_size=1, order=1, base=variant,
    )  # fmt: skip
    expected = torch.where(x.isnan(), x, definition.BASE_FUNCTIONS[base](x.float()).to(dtype))
    assert torch.equal(y.isnan(), expected.isnan())
    difference = (y.view(torch.int16).int() - expected.view(torch.int16).int()).abs()
    zeros = (y == 0) & (expected == 0)
    assert difference[~y.isnan() & ~zeros].max() <= 1  # the last bit, where an exponential differs
