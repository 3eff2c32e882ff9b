"""Under which names kernels know the activation modules that models bring."""

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from kansformer.nn.base import kernel_name


@pytest.mark.parametrize(
    ("activation", "name"),
    [("silu", "silu"), ("swish", "silu"), ("linear", "identity"), ("relu", "relu"), ("tanh", "tanh"), ("mish", None)],
)
def test_activations_of_transformers(activation, name):
    function = ACT2FN[activation]
    assert kernel_name(function) == name
    x = torch.linspace(-3, 3, 101)
    if name == "silu":
        assert torch.equal(function(x), nn.functional.silu(x))
    if name == "identity":
        assert torch.equal(function(x), x)


def test_one_that_is_watched_or_replaced_is_not_known():
    watched, replaced = ACT2FN["silu"], ACT2FN["silu"]
    watched.register_forward_hook(lambda module, x, y: None)
    replaced.forward = nn.functional.relu
    assert kernel_name(watched) is None and kernel_name(replaced) is None
    assert kernel_name(type("SiLUActivation", (nn.SiLU,), {})()) is None
