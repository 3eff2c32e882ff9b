"""Hidden channels leave a converted model with their curves: exact where they were dead, saved, or not at all."""

import pytest
import torch
from tiny_models import assert_same_state, make, randomize_curves, run, snapshot

from kansformer import KANConfig, convert, revert
from kansformer.conversion.channels import converted_sites, keep_channels
from kansformer.conversion.record import record_of
from kansformer.errors import ConfigError, ConversionStateError, SlotError
from kansformer.nn.curves import curved_modules
from kansformer.sites import find_sites

CONFIGS = {
    "act": KANConfig(),
    "channel": KANConfig(slots=("input", "up", "act", "down")),
    "low rank": KANConfig(slots=("up", "down"), edges="low_rank", rank=2),
    "full": KANConfig(slots=("up", "down"), edges="full", grid_size=2, layers=-1),
    "rational": KANConfig(basis="rational", order=5),
}


def bent(name, settings):
    return randomize_curves(convert(make(name), CONFIGS[settings]))


@pytest.mark.parametrize("settings", CONFIGS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
@torch.no_grad()
def test_dead_channels_leave_without_a_trace(name, settings, tmp_path):
    model = bent(name, settings)
    sites = converted_sites(model)
    dead = torch.zeros(sites[0].hidden, dtype=torch.bool)
    dead[::3] = True
    for site in sites:  # what comes out of a dead channel goes nowhere
        down = model.get_submodule(site.slots["down"].path)
        weight = down.weight if isinstance(down, torch.nn.Linear) else down.weight.mT
        weight[:, dead] = 0
        if hasattr(down, "coefficients"):
            down.coefficients[dead] = 0
    expected, before = run(model), sum(p.numel() for p in model.parameters())
    keep_channels(model, {site.path: (~dead).nonzero()[:, 0] for site in sites})
    torch.testing.assert_close(run(model), expected, rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in model.parameters()) < before
    assert {site.hidden for site in converted_sites(model)} == {int((~dead).sum())}
    model.save_pretrained(tmp_path)
    assert torch.equal(run(type(model).from_pretrained(tmp_path)), run(model))


def test_the_sites_are_those_of_the_plain_model():
    model = make("llama")
    plain = find_sites(model)
    convert(model, CONFIGS["channel"])
    before, expected = snapshot(model), run(model)
    assert converted_sites(model) == plain
    assert_same_state(model, before)
    assert torch.equal(run(model), expected)
    revert(model)


def test_twice(tmp_path):
    model = bent("llama", "act")
    keep_channels(model, {site.path: torch.arange(80) for site in converted_sites(model)})
    keep_channels(model, {converted_sites(model)[1].path: torch.arange(40)})
    assert [site.hidden for site in converted_sites(model)] == [80, 40, 80]
    model.save_pretrained(tmp_path)
    assert torch.equal(run(type(model).from_pretrained(tmp_path)), run(model))


@pytest.mark.parametrize(
    ("name", "config", "channels", "error", "message"),
    [
        ("llama", KANConfig(), {"layers.9": torch.arange(4)}, SlotError, "No feed-forward network is at 'layers.9'"),
        ("llama", KANConfig(), {"layers.0.mlp": torch.arange(0)}, ConfigError, "must be a whole number from 1 to 160"),
        ("llama", KANConfig(edges="group"), {"layers.1.mlp": torch.arange(8)}, ConfigError, "Groups of channels share"),
        ("phi3", KANConfig(), {"layers.0.mlp": torch.arange(8)}, SlotError, "the kind 'fused'"),
    ],
)
def test_after_an_error_the_model_is_as_it_was(name, config, channels, error, message):
    model = convert(make(name), config)
    before, expected, record = snapshot(model), run(model), record_of(model)
    first = {converted_sites(model)[0].path: torch.arange(16)} if name == "llama" and config.edges != "group" else {}
    with pytest.raises(error, match=message):
        keep_channels(model, {**first, **channels})
    assert_same_state(model, before)
    assert torch.equal(run(model), expected) and record_of(model) == record


def test_numbers_of_channels_are_checked_and_curves_stay_frozen():
    model = bent("llama", "act")
    for channels in (torch.tensor([0, 0]), torch.tensor([160]), torch.tensor([-1])):
        with pytest.raises(ConfigError, match="must be different numbers from 0 to 159"):
            keep_channels(model, {"layers.0.mlp": channels})
    curve = model.layers[0].mlp.act_fn
    curve.coefficients.requires_grad_(False)
    keep_channels(model, {"layers.0.mlp": torch.tensor([5, 3])})
    kept = model.layers[0].mlp.act_fn.coefficients
    assert not kept.requires_grad and torch.equal(kept, curve.coefficients[[5, 3]])


def test_a_plain_model_is_refused():
    with pytest.raises(ConversionStateError, match="The model is not converted"):
        keep_channels(make("llama"), {})


SHARED = KANConfig(slots=("input", "act", "down"), share="model")


def assert_tied(model):
    """Every slot's curves are those of the first layer."""
    modules = [module for _, module in curved_modules(model)]
    kinds = len(modules) // len(model.layers)
    for number, module in enumerate(modules):
        assert module.coefficients is modules[number % kinds].coefficients


@pytest.mark.parametrize("config", [SHARED, KANConfig(slots=("up",), edges="group", share="model")], ids=["all", "up"])
def test_layers_go_on_sharing_their_curves(config, tmp_path):
    model = randomize_curves(convert(make("llama"), config))
    keep_channels(model, {site.path: torch.arange(0, 160, 2) for site in converted_sites(model)})
    assert_tied(model)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert_tied(loaded)
    assert torch.equal(run(loaded), run(model)) and loaded.num_parameters() == model.num_parameters()


@pytest.mark.parametrize("channels", [{"layers.0.mlp": [0, 1]}, {f"layers.{n}.mlp": [0, 1 + n] for n in range(3)}])
def test_other_channels_in_layers_that_share_their_curves_are_refused(channels):
    model = randomize_curves(convert(make("llama"), SHARED))
    before = snapshot(model)
    with pytest.raises(ConfigError, match=r"layers\.0\.mlp\.act_fn and layers\.1\.mlp\.act_fn share .*same channels"):
        keep_channels(model, {path: torch.tensor(kept) for path, kept in channels.items()})
    assert_same_state(model, before)
    assert_tied(model)
