"""Feed-forward networks whose activation is a function are read from what their block computes, whatever its class."""

import pytest
import torch
import torch.nn.functional as F
from tiny_models import randomize_curves
from torch import nn

from kansformer import KANConfig, convert, revert
from kansformer.errors import SlotError
from kansformer.sites import find_sites


class Block(nn.Module):
    """A class whose name says nothing, with linear layers and a forward of its own."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, (inputs, outputs) in layers.items():
            self.add_module(name, nn.Linear(inputs, outputs))
        self.run, self.norm = forward, nn.LayerNorm(6)

    def forward(self, x):
        return self.run(self, x)


class GEGLU(nn.Module):
    """As in diffusers."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(6, 20)

    def gelu(self, gate):
        return F.gelu(gate)

    def forward(self, hidden_states):
        hidden_states, gate = self.proj(hidden_states).chunk(2, dim=-1)
        return hidden_states * self.gelu(gate)


class Diffuser(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.ModuleList([GEGLU(), nn.Dropout(0.0), nn.Linear(10, 6)])

    def forward(self, x):
        for module in self.net:
            x = module(x)
        return x


def attention(block, x):
    weights = (block.q(x) @ block.k(x).transpose(-1, -2)).softmax(-1)
    x = x + block.o(weights @ block.v(x))
    return x + block.b(F.relu(block.a(block.norm(x))).square())


PAIR = dict(fc1=(6, 10), fc2=(10, 6))
THREE = dict(w1=(6, 10), w2=(10, 6), w3=(6, 10))
SHAPES = {
    "plain": (lambda: Block(lambda b, x: b.fc2(F.gelu(b.fc1(x))), **PAIR), "plain", "fc1", None, "fc2"),
    "method": (lambda: Block(lambda b, x: x + b.fc2(b.fc1(b.norm(x)).relu()), **PAIR), "plain", "fc1", None, "fc2"),
    "gated": (lambda: Block(lambda b, x: b.w2(F.silu(b.w1(x)) * b.w3(x)), **THREE), "gated", "w3", "w1", "w2"),
    "the other gate": (lambda: Block(lambda b, x: b.w2(F.silu(b.w3(x)) * b.w1(x)), **THREE), "gated", "w1", "w3", "w2"),
    "fused": (
        lambda: Block(lambda b, x: b.d(torch.mul(*b.u(x).sigmoid().chunk(2, -1))), u=(6, 20), d=(10, 6)),
        "fused", "u", None, "d",
    ),
    "beside attention": (
        lambda: Block(attention, q=(6, 6), k=(6, 6), v=(6, 6), o=(6, 6), a=(6, 10), b=(10, 6)), "plain", "a", None, "b",
    ),
    "control flow": (
        lambda: Block(lambda b, x: b.fc2(F.gelu(b.fc1(x))) if x.shape[-1] == 6 else x, **PAIR),
        "plain", "fc1", None, "fc2",
    ),
    "diffusers": (Diffuser, "split", "net.0.proj", None, "net.2"),
}  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_layers_are_found_by_what_is_computed(name, device):
    make, kind, up, gate, down = SHAPES[name]
    with torch.device(device):
        (site,) = find_sites(make())
    assert (site.kind, site.width, site.hidden) == (kind, 6, 10)
    assert (site.slots["up"].path, site.slots["down"].path) == (up, down)
    assert (site.slots["gate"].path if "gate" in site.slots else None) == gate
    with pytest.raises(SlotError, match="has no slot 'act': its activation is called as a function"):
        site.slot("act")


@pytest.mark.parametrize("name", SHAPES)
def test_they_are_converted_without_a_change_and_bend(name):
    torch.manual_seed(0)
    model = SHAPES[name][0]().eval()
    x = torch.randn(2, 3, 6)
    before = model(x)
    slots = [slot for slot in find_sites(model)[0].slots if slot != "act"]
    assert {"up", "down"} <= set(slots)
    convert(model, KANConfig(slots=slots))
    assert torch.equal(model(x), before)
    randomize_curves(model)
    assert not torch.allclose(model(x), before, atol=1e-3)
    assert torch.equal(revert(model)(x), before)


NOTHING = {
    "no activation": Block(lambda b, x: b.fc2(b.fc1(x)), **PAIR),
    "softmax": Block(lambda b, x: b.fc2(b.fc1(x).softmax(-1)), **PAIR),
    "a gate of the input": Block(lambda b, x: b.fc2(torch.sigmoid(b.fc1(x)) * x.repeat(1, 1, 2)[..., :10]), **PAIR),
    "mixed tokens": Block(lambda b, x: b.fc2(F.gelu(b.fc1(x)).cumsum(1)), **PAIR),
    "no way back": Block(lambda b, x: b.fc2(F.gelu(b.fc1(x))), fc1=(6, 10), fc2=(10, 3)),
    "two networks": Block(
        lambda b, x: b.d(F.gelu(b.c(x))) + b.fc2(F.gelu(b.fc1(x))), **PAIR, c=(6, 10), d=(10, 6)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTHING)
def test_other_functions_are_not_taken_for_one(name):
    random_state = torch.get_rng_state()
    assert find_sites(NOTHING[name]) == []
    assert torch.equal(random_state, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in NOTHING[name].modules())
