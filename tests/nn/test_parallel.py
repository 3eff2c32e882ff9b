"""The parts of a layer with curves, split among processes, are the layer."""

import pytest
import torch

from kansformer import KANLinear
from kansformer.nn.parallel import split_axes

I, O, RANKS = 8, 6, 2  # noqa: E741
WEIGHT_AXIS = {"outputs": 0, "inputs": 1}


@pytest.mark.parametrize("by", ["outputs", "inputs"])
@pytest.mark.parametrize("basis", ["bspline", "rational"])
@pytest.mark.parametrize("edges", ["full", "low_rank", "channel", "group"])
def test_the_parts_of_a_layer_are_the_layer(edges, basis, by):
    torch.manual_seed(0)
    settings = dict(basis=basis, edges=edges, rank=3, base="identity", bias=False)
    layer = KANLinear(I, O, groups=4, **settings)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    layer.domain += torch.rand(len(layer.domain), 1)
    x = torch.randn(5, I)
    axes = split_axes(layer.curves, by) | {"weight": WEIGHT_AXIS[by]}
    outputs = []
    for rank in range(RANKS):
        by_inputs = by == "inputs"
        part = KANLinear(
            I // RANKS if by_inputs else I,
            O if by_inputs else O // RANKS,
            groups=2 if by_inputs else 4,
            **settings,
        )
        own = {
            name: tensor.chunk(RANKS, axes[name])[rank] if name in axes else tensor
            for name, tensor in layer.state_dict().items()
        }
        part.load_state_dict(own)
        outputs.append(part(x.chunk(RANKS, -1)[rank] if by_inputs else x))
    whole = sum(outputs) if by == "inputs" else torch.cat(outputs, -1)
    torch.testing.assert_close(whole, layer(x))


def test_a_layer_that_is_not_split_is_whole():
    assert split_axes(KANLinear(I, O).curves, None) == {}
