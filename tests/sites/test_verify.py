"""The proof: a site that does not reproduce its original is refused, and the model is not touched by proving."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from kansformer.config import KANConfig
from kansformer.conversion import convert
from kansformer.conversion.build import build_slot
from kansformer.errors import ProofError
from kansformer.sites import find_sites, verify_site


class Block(nn.Module):
    """A feed-forward network whose forward a test can bend."""

    def __init__(self, forward=None):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 6)
        self.run = forward or (lambda block, x: block.down(block.act(block.up(x))))

    def forward(self, x):
        return self.run(self, x)


def modules_of(model, config):
    (site,) = find_sites(model)
    build = partial(build_slot, model)
    return site, {name: build(site.slots[name], config.curve_spec(name)) for name in config.slots}


def test_a_usual_block_is_proved_as_a_block():
    model = nn.ModuleDict({"ffn": Block()})
    site, modules = modules_of(model, KANConfig(slots=("input", "up", "act", "down")))
    assert verify_site(model, site, modules).level == "block"


def test_a_block_that_wants_more_than_tokens_is_proved_by_its_slots():
    class Layer(Block):
        def forward(self, x, positions):
            return super().forward(x * positions["cos"])

    model = nn.ModuleDict({"ffn": Layer()})
    site, modules = modules_of(model, KANConfig(slots=("input", "up", "act", "down")))
    assert verify_site(model, site, modules).level == "slots"
    with torch.no_grad():
        modules["down"].coefficients[3, 2] = 1e-3
    with pytest.raises(ProofError, match="ffn with straight curves differs from the original"):
        verify_site(model, site, modules)


def test_a_forward_that_goes_round_its_modules_is_refused():
    model = nn.ModuleDict({"ffn": Block(lambda b, x: b.down(torch.relu(b.up(x))))})
    site, modules = modules_of(model, KANConfig())
    with pytest.raises(ProofError, match=r"ffn does not call 'ffn\.act'"):
        verify_site(model, site, modules)


def test_layers_that_were_read_the_wrong_way_round_are_refused():
    model = nn.ModuleDict({"ffn": Block()})
    site, modules = modules_of(model, KANConfig())
    backwards = replace(site, width=site.hidden, hidden=site.width)
    with pytest.raises(ProofError, match="ffn takes tokens of width 6, not 10: its layers were read backwards"):
        verify_site(model, backwards, modules)


def test_an_activation_that_works_in_place_is_proved_and_bent():
    model = nn.ModuleDict({"ffn": Block()})
    model["ffn"].act = nn.ReLU(inplace=True)
    site, modules = modules_of(model, KANConfig())
    assert verify_site(model, site, modules).level == "block"
    x = torch.randn(4, 10)
    assert torch.equal(modules["act"](x.clone()), x.relu())


def test_channels_on_another_axis_are_refused():
    # the activation sees (batch, channels, tokens), as in a block of 1x1 convolutions
    model = nn.ModuleDict({"ffn": Block(lambda b, x: b.down(b.act(b.up(x).mT).mT))})
    site, modules = modules_of(model, KANConfig())
    with pytest.raises(ProofError, match="ffn does not run with straight curves"):
        verify_site(model, site, modules)


def test_a_module_that_changes_the_output_is_refused():
    model = nn.ModuleDict({"ffn": Block()})
    site, modules = modules_of(model, KANConfig())
    with torch.no_grad():
        modules["act"].coefficients[3, 2] = 1e-3
    with pytest.raises(ProofError, match="ffn with straight curves differs from the original"):
        verify_site(model, site, modules)


def test_proving_leaves_no_trace():
    model = nn.ModuleDict({"ffn": Block()}).train()
    site, modules = modules_of(model, KANConfig(slots=("input", "act")))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random_state, children = torch.get_rng_state(), [id(m) for m in model.modules()]
    verify_site(model, site, modules)
    assert torch.equal(random_state, torch.get_rng_state())
    assert children == [id(m) for m in model.modules()]
    assert all(module.training for module in model.modules())
    assert not model["ffn"]._forward_pre_hooks
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(not m.coefficients.any() for m in modules.values())


@pytest.mark.parametrize(("layer", "value"), [("up", float("nan")), ("down", float("inf")), ("up", float("-inf"))])
def test_weights_that_are_not_finite_are_named(layer, value):
    model = nn.ModuleDict({"ffn": Block()})
    with torch.no_grad():
        model["ffn"].get_submodule(layer).weight[1, 2] = value
    for slots in (("act",), ("input", "up", "act", "down")):
        site, modules = modules_of(model, KANConfig(slots=slots))
        message = rf"^1 of the 60 values of ffn\.{layer}\.weight is NaN or infinite.*Load the model again"
        with pytest.raises(ProofError, match=message):
            verify_site(model, site, modules)


def test_a_block_whose_output_is_not_finite_is_not_blamed_on_its_activation():
    model = nn.ModuleDict({"ffn": Block(lambda b, x: b.down(b.act(b.up(x))) * float("nan"))})
    site, modules = modules_of(model, KANConfig())
    with pytest.raises(ProofError, match="the output of ffn on random input is NaN or infinite, although its weights"):
        verify_site(model, site, modules)


def test_weights_beside_the_network_that_are_not_finite_are_named():
    class Layer(Block):
        def __init__(self):
            super().__init__(lambda b, x: b.down(b.act(b.up(b.norm(x)))))
            self.norm = nn.LayerNorm(6)

    model = nn.ModuleDict({"ffn": Layer()})
    with torch.no_grad():
        model["ffn"].norm.bias.fill_(float("nan"))
    site, modules = modules_of(model, KANConfig())
    with pytest.raises(ProofError, match=r"^6 of the 6 values of ffn\.norm\.bias are NaN or infinite"):
        verify_site(model, site, modules)


def test_an_activation_with_a_number_for_each_channel_is_verified_on_rows():
    model = nn.Sequential(nn.Linear(4, 8), nn.PReLU(8), nn.Linear(8, 4))
    x = torch.randn(5, 4)
    before = model(x)
    assert torch.equal(convert(model)(x), before)
