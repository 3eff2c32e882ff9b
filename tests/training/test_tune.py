"""`tune_curves` bends the curves, lowers the loss, and touches nothing else."""

import math
import re

import pytest
import torch
from tiny_models import tiny_llama

from kansformer import KANConfig, convert
from kansformer.errors import ConfigError, DataError
from kansformer.nn.optim import curve_parameters
from kansformer.training.tune import draw_batches, tune_curves

BLOCKS = (torch.arange(6 * 12).reshape(6, 12) ** 2) % 23


@pytest.fixture
def model():
    return convert(tiny_llama(initializer_range=0.3, attention_dropout=0.5), KANConfig(slots=("input", "act")))


def test_only_curves_change_and_the_loss_falls(model):
    curves = {name for name, _ in curve_parameters(model)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = tune_curves(model, BLOCKS, steps=60, batch_size=6, lr=3e-3)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == curves
    assert result.losses[-1] < result.losses[0] - 0.3
    assert result.tokens == 60 * BLOCKS.numel() and result.parameters == sum(before[n].numel() for n in curves)


def test_flags_gradients_and_mode_are_put_back(model):
    model.train()
    frozen = model.lm_head.weight.requires_grad_(False)
    held = model.model.norm.weight
    held.grad = torch.ones_like(held)
    tune_curves(model, BLOCKS, steps=1, batch_size=2)
    assert model.training and not frozen.requires_grad
    assert all(p.requires_grad for p in model.parameters() if p is not frozen)
    assert torch.equal(held.grad, torch.ones_like(held))
    assert all(p.grad is None for p in model.parameters() if p is not held)


def test_a_run_is_a_function_of_its_arguments(model):
    start = [p.detach().clone() for _, p in curve_parameters(model)]

    def run(seed):
        with torch.no_grad():
            for (_, parameter), value in zip(curve_parameters(model), start, strict=True):
                parameter.copy_(value)
        return tune_curves(model, BLOCKS, steps=4, batch_size=2, seed=seed).losses

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = run(0)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert run(0) == first
    assert run(1) != first


def test_progress_is_told_every_step(model):
    states = []
    result = tune_curves(model, BLOCKS, steps=3, batch_size=2, progress=lambda *state: states.append(state))
    assert [state[1:3] for state in states] == [(1, 3), (2, 3), (3, 3)]
    assert [state[3].partition("  ")[0] for state in states] == [f"loss {loss:.3f}" for loss in result.losses]
    assert all(re.search(r"  [1-9][\d,]* tokens/s$", state[3]) for state in states)


def test_an_infinite_loss_stops_and_puts_the_curves_back(model):
    before = [p.detach().clone() for _, p in curve_parameters(model)]
    with pytest.raises(ConfigError, match=r"The loss became nan at step \d of 9.*choose a lr below 1e\+35"):
        tune_curves(model, BLOCKS, steps=9, batch_size=2, lr=1e35)
    assert all(torch.equal(p, old) for (_, p), old in zip(curve_parameters(model), before, strict=True))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(steps=0), "steps=0 must be 1 or more"),
        (dict(lr=-1.0), "lr=-1.0 must be a number above 0"),
        (dict(lr=math.nan), "lr=nan must be"),
        (dict(warm_up=2.0), "warm_up=2.0 must be a share"),
        (dict(clip=0.0), "clip=0.0 must be a number above 0, or None"),
    ],
)
def test_impossible_settings_are_refused(model, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        tune_curves(model, BLOCKS, **{"steps": 1, "batch_size": 2, **settings})


def test_a_model_without_curves_is_refused():
    with pytest.raises(ConfigError, match="Linear has no curves to tune"):
        tune_curves(torch.nn.Linear(2, 2), BLOCKS, steps=1, batch_size=2)


def test_blocks_that_cannot_be_used_are_refused(model):
    with pytest.raises(DataError, match=r"got \(72,\)"):
        tune_curves(model, BLOCKS.flatten(), steps=1)
    with pytest.raises(DataError, match="6 blocks are fewer than one batch of 7"):
        tune_curves(model, BLOCKS, steps=1, batch_size=7)


def test_an_epoch_reads_every_block_once():
    batches = draw_batches(BLOCKS, 2, seed=0)
    epochs = [torch.cat([next(batches) for _ in range(3)]) for _ in range(2)]
    for epoch in epochs:
        assert sorted(map(tuple, epoch.tolist())) == sorted(map(tuple, BLOCKS.tolist()))
    assert not torch.equal(*epochs)
