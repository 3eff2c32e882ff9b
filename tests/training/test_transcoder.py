"""Recording a network and training a transcoder on it."""

import math

import pytest
import torch
from tiny_models import tiny_llama

from kansformer.errors import ConfigError, DataError
from kansformer.nn.transcoder import Transcoder
from kansformer.training.transcoder import RecordedNetwork, mean_fvu, record_network, set_domains, train_transcoder

BLOCKS = (torch.arange(40 * 12).reshape(40, 12) ** 2) % 23


@pytest.fixture(scope="module")
def recorded():
    return record_network(tiny_llama(num_hidden_layers=3, initializer_range=0.3), 1, BLOCKS)


def make(**settings):
    return Transcoder(16, 48, **{"k": 6, "grid_size": 3} | settings)


@torch.no_grad()
def test_inputs_and_outputs_are_recorded_without_the_first_token_of_a_block():
    model = tiny_llama(initializer_range=0.3, attention_dropout=0.5).train()
    calls = []
    recorded = record_network(model, 1, BLOCKS, batch_size=7)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    model.eval().model.layers[1].mlp.register_forward_hook(lambda module, args, y: calls.append((args[0], y)))
    model(BLOCKS)
    ((x, y),) = calls
    torch.testing.assert_close(recorded.x, x[:, 1:].reshape(-1, 16))
    torch.testing.assert_close(recorded.y, y[:, 1:].reshape(-1, 16))


@pytest.mark.parametrize("settings", [{}, {"skip": True}, {"edges": "group", "groups": 6}, {"k": None}])
def test_training_explains_more_and_the_curves_bend(settings, recorded):
    transcoder = make(**settings)
    fit = train_transcoder(transcoder, recorded, steps=150, batch_tokens=64, l1=0.0 if "k" not in settings else 1e-3)
    assert fit.losses[0] > 2 * fit.fvu and fit.fvu < 0.4
    assert fit.tokens == 150 * 64 and len(fit.losses) == 10
    assert transcoder.act.coefficients.abs().max() > 0.01
    assert (transcoder.act.domain[:, 0] == 0).all() and transcoder.act.domain[:, 1].unique().numel() > 1
    with torch.no_grad():
        error = (transcoder(recorded.x) - recorded.y).square().sum()
    fvu = error / (recorded.y - recorded.y.mean(0)).square().sum()
    assert fit.fvu == pytest.approx(fvu.item(), rel=1e-4) == pytest.approx(mean_fvu(transcoder, recorded), rel=1e-4)


def test_it_is_trained_in_its_own_dtype(recorded):
    fits = [
        train_transcoder(make(k=None, dtype=dtype), recorded, steps=20, batch_tokens=64, l1=1e-3, curves_begin=0.3)
        for dtype in (torch.float32, torch.float64)
    ]
    assert fits[0].losses == pytest.approx(fits[1].losses, rel=1e-3) and fits[0].losses != fits[1].losses
    assert fits[0].fvu == pytest.approx(fits[1].fvu, rel=1e-3)


def test_an_l1_penalty_makes_latents_rarer(recorded):
    active = []
    for l1 in (1e-4, 1.0):
        transcoder = make(k=None, basis=None)
        train_transcoder(transcoder, recorded, steps=100, batch_tokens=64, l1=l1)
        active.append((transcoder.select(recorded.x) > 0).float().mean().item())
    assert active[1] < 0.7 * active[0]


def test_until_its_curves_begin_it_is_the_plain_transcoder(recorded):
    curved, plain = make(), make(basis=None)
    losses = [
        train_transcoder(t, recorded, steps=20, batch_tokens=64, curves_begin=1.0, seed=3).losses
        for t in (curved, plain)
    ]
    assert losses[0] == losses[1]
    assert torch.equal(curved(recorded.x), plain(recorded.x))


def test_a_run_depends_on_its_seed_only_and_leaves_the_global_state(recorded):
    state, results = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        transcoder = make()
        torch.set_rng_state(state)
        train_transcoder(transcoder, recorded, steps=10, batch_tokens=64, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        results.append(transcoder(recorded.x))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


@pytest.mark.parametrize("settings", [{}, {"skip": True}])
def test_units_of_the_network_do_not_matter(settings, recorded):
    scaled = RecordedNetwork(recorded.x * 64, recorded.y / 1024)
    fits = [train_transcoder(make(**settings), data, steps=20, batch_tokens=64) for data in (recorded, scaled)]
    assert fits[0].losses == pytest.approx(fits[1].losses, rel=1e-4)
    assert fits[0].fvu == pytest.approx(fits[1].fvu, rel=1e-4)


@torch.no_grad()
def test_a_domain_is_the_range_of_its_latent(recorded):
    transcoder = make(k=1)
    transcoder.encoder.bias[5] = -1e9  # never active
    set_domains(transcoder, recorded.x)
    largest = transcoder.select(recorded.x).amax(0)
    alive = largest > 0
    assert not alive[5]
    torch.testing.assert_close(transcoder.act.domain[alive, 1], 1.25 * largest[alive])
    torch.testing.assert_close(transcoder.act.domain[5, 1], 1.25 * largest[alive].mean())


def test_after_a_loss_that_is_not_finite_the_transcoder_is_as_before(recorded):
    transcoder = make()
    before = {name: tensor.clone() for name, tensor in transcoder.state_dict().items()}
    with pytest.raises(ConfigError, match=r"infinite or NaN at step \d+ of 30. .* choose a lr below 1e\+30"):
        train_transcoder(transcoder, recorded, steps=30, batch_tokens=64, lr=1e30)
    assert all(torch.equal(tensor, before[name]) for name, tensor in transcoder.state_dict().items())


def test_data_that_cannot_be_used(recorded):
    with pytest.raises(DataError, match="440 recorded tokens are fewer than one batch of 512"):
        train_transcoder(make(), recorded, steps=1)
    with pytest.raises(DataError, match=r"The transcoder is \(8, 16\), and the network was recorded as \(16, 16\)"):
        train_transcoder(Transcoder(8, 48, out_features=16), recorded, steps=1, batch_tokens=8)
    constant = RecordedNetwork(recorded.x, torch.zeros_like(recorded.y))
    with pytest.raises(DataError, match="do not vary, or are not finite"):
        train_transcoder(make(), constant, steps=1, batch_tokens=8)
    broken = RecordedNetwork(recorded.x, torch.full_like(recorded.y, math.nan))
    with pytest.raises(DataError, match="do not vary, or are not finite"):
        train_transcoder(make(), broken, steps=1, batch_tokens=8)
    with pytest.raises(ConfigError, match="curves_begin must be a finite number from 0 to 1, got 2"):
        train_transcoder(make(), recorded, steps=1, curves_begin=2)
