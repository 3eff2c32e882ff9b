"""Curves that start bent have the variance that was asked for, whatever they are made of."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kansformer import convert
from kansformer.basis import BASES
from kansformer.errors import ConfigError
from kansformer.nn import KANLinear, LearnedActivation
from kansformer.nn.init import spread_curves


@pytest.mark.parametrize("edges", ["full", "low_rank", "channel"])
@pytest.mark.parametrize("basis", sorted(BASES))
def test_the_curves_add_the_variance_asked_for(basis, edges):
    torch.manual_seed(0)
    layer = KANLinear(64, 256, basis=basis, edges=edges, rank=32, base="zero", bias=False, domain=(-3, 3))
    spread_curves(layer, 0.5, generator=torch.Generator().manual_seed(1))
    if edges == "channel":  # the curve of a channel is seen before the weights
        layer.weight = nn.Parameter(torch.eye(256, 64))
    x = torch.randn(2000, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        y = layer(x)[:, : 64 if edges == "channel" else 256]
    assert y.square().mean().sqrt().item() == pytest.approx(0.5, rel=0.2)


def test_the_generator_decides_and_no_global_state():
    layers = [KANLinear(4, 4) for _ in range(2)]
    for layer in layers:
        state = torch.get_rng_state()
        spread_curves(layer, 0.1, generator=torch.Generator().manual_seed(3))
        assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(layers[0].coefficients, layers[1].coefficients)


def test_what_is_refused():
    with pytest.raises(ConfigError, match="no curves to spread"):
        spread_curves(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="gain must be a finite number above 0, got 0"):
        spread_curves(KANLinear(2, 2), 0)


def test_modules_without_values_can_be_built():
    with FakeTensorMode():
        module = LearnedActivation(8)
        model = convert(
            torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.SiLU(), torch.nn.Linear(8, 4)), verify=False
        )
        assert module(torch.randn(2, 8)).shape == (2, 8) and model(torch.randn(2, 4)).shape == (2, 4)
