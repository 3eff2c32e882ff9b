"""Under which names kernels know the activation modules that models bring."""

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from kansformer.nn import LearnedActivation
from kansformer.nn.base import kernel_name
from kansformer.ops.curves import ACTIVATIONS


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        *(
            ("silu", "silu"),
            ("swish", "silu"),
            ("linear", "identity"),
            ("relu", "relu"),
            ("tanh", "tanh"),
            ("mish", None),
        ),
        *(("gelu", "gelu"), ("gelu_pytorch_tanh", "gelu_tanh"), ("gelu_python", None), ("gelu_new", None)),
    ],
)
def test_activations_of_transformers(activation, name):
    function = ACT2FN[activation]
    assert kernel_name(function) == name
    x = torch.linspace(-3, 3, 101)
    if name is not None:
        assert torch.equal(function(x), ACTIVATIONS[name](x))


def test_one_that_is_watched_or_replaced_is_not_known():
    watched, replaced = ACT2FN["silu"], ACT2FN["silu"]
    watched.register_forward_hook(lambda module, x, y: None)
    replaced.forward = nn.functional.relu
    assert kernel_name(watched) is None and kernel_name(replaced) is None
    assert kernel_name(type("SiLUActivation", (nn.SiLU,), {})()) is None


@pytest.mark.parametrize("factored", [False, True])
def test_straight_curves_keep_every_bit_of_an_input_that_lies_apart(factored):
    # The halves of a fused gate and up: PyTorch's SiLU rounds their last numbers unlike those of a copy.
    torch.manual_seed(0)
    for rows, width in ((14, 24), (7, 37), (3, 160)):
        x = (3 * torch.randn(rows, 2 * width)).chunk(2, dim=-1)[0]
        factor = torch.randn(rows, width) if factored else None
        expected = nn.functional.silu(x) if factor is None else nn.functional.silu(x) * factor
        module = LearnedActivation(width, base=ACT2FN["silu"])
        assert torch.equal(module(x) if factor is None else module.gated(x, factor), expected)
