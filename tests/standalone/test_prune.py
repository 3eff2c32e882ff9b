"""Edges and nodes that the samples do not need are removed, and the others stay as they are."""

import math

import pytest
import torch

from kansformer.errors import ConfigError, DataError, ShapeError
from kansformer.kan import KAN, SearchSettings, create_dataset
from kansformer.kan.fitting import rmse
from kansformer.kan.pruning import become

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def data():
    return create_dataset(
        lambda x: torch.sin(2 * x[:, :1]) * x[:, 1:2] + x[:, 1:2] ** 2, 2, num_train=300, num_test=100
    )


def test_sparse_networks_are_pruned_without_loss(data):
    model = KAN([2, 5, 1], seed=0)
    model.fit(data, steps=30, sparsity=3e-3, **QUIET)
    before, scores = rmse(model, data.train_input, data.train_target), model.node_scores(data.train_input)
    result = model.prune((data.train_input, data.train_target))
    assert result.rmse_before == pytest.approx(before) and result.rmse_after <= 1.2 * before
    assert result.removed > 0 and result.edges == list(model.edges())
    assert sum(int(alive.sum()) for alive in model.alive) == 15 - result.removed
    assert len(scores.nodes[1]) == 5 and scores.nodes[2].sum().item() == pytest.approx(1)
    kept = list(model.edges())
    model.fit(data, steps=5, **QUIET)
    assert list(model.edges()) == kept
    gone = ~model.alive[0]
    assert not model.layers[0].weight.mT[gone].any() and not model.layers[0].coefficients.mT[gone].any()


def test_pruning_everything_leaves_a_path(data):
    model = KAN([2, 4, 3, 1], seed=0)
    result = model.prune(data.train_input, threshold=10.0)
    assert [int(alive.sum()) for alive in model.alive] == [1, 1, 1] and result.rmse_after is None
    assert model(data.test_input).isfinite().all()


def test_dead_edges_stay_dead_under_every_optimizer(data):
    for optimizer in ("lm", "lbfgs", "adam"):
        model = KAN([2, 4, 1], seed=0)
        model.prune(data.train_input, threshold=0.2)
        edges = list(model.edges())
        model.fit(data, optimizer=optimizer, steps=3, **QUIET)
        for index, layer in enumerate(model.layers):
            gone = ~model.alive[index]
            assert not layer.coefficients.mT[gone].any() and not layer.weight.mT[gone].any()
        assert list(model.edges()) == edges


@pytest.mark.parametrize("unit", [1e-30, 1e-14, 1e14])
def test_scores_are_shares_in_any_unit(unit, data):
    model, y = KAN([2, 2, 1]), data.train_target
    model.fit((data.train_input, y / y.std()), steps=10, **QUIET)
    expected = model.node_scores(data.train_input)
    with torch.no_grad():
        for parameter in (model.layers[-1].weight, model.layers[-1].coefficients, model.layers[-1].bias):
            parameter.mul_(unit)
    scores = model.node_scores(data.train_input)
    for found, before in zip((*scores.edges, *scores.nodes), (*expected.edges, *expected.nodes), strict=True):
        torch.testing.assert_close(found, before)


def test_inputs_that_do_nothing_are_cut():
    data = create_dataset(lambda x: torch.sin(2 * x[:, :1]) + x[:, 2:3], 3, num_train=300, num_test=0)
    model = KAN([3, 2, 1], seed=0)
    model.fit(data, steps=30, sparsity=1e-3, **QUIET)
    before = rmse(model, data.train_input, data.train_target)
    assert model.prune_inputs(data.train_input) == [0, 2]
    assert not model.alive[0][1].any()
    assert rmse(model, data.train_input, data.train_target) == pytest.approx(before, rel=0.2, abs=5e-3)


@pytest.mark.parametrize("given", ["not finite", "empty", "narrow"])
def test_pruning_checks_its_samples(given, data):
    model = KAN([2, 3, 1], seed=1)
    before = model(data.test_input).detach()
    x, y = data.train_input.clone(), data.train_target.clone()
    if given == "not finite":
        x[3, 1] = torch.nan
    elif given == "empty":
        x, y = x[:0], y[:0]
    else:
        x = x[:, :1]
    with pytest.raises((ShapeError, DataError)):
        model.prune((x, y))
    assert torch.equal(model(data.test_input).detach(), before)


def test_pruning_keeps_frozen_parameters_frozen(data):
    model = KAN([2, 5, 1], seed=1)
    model.fit(data, steps=10, sparsity=1e-2, **QUIET)
    model.requires_grad_(False)
    model.prune(data.train_input, threshold=0.1)
    assert model.width[1][0] < 5 and not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_sparsify_leaves_the_edges_that_explain_the_data(scale, data):
    x, y = data.train_input, scale * torch.exp(torch.sin(math.pi * data.train_input[:, [0]]))
    model = KAN([2, 4, 1], seed=0)
    error = model.sparsify((x, y))
    assert error == pytest.approx(rmse(model, x, y)) and error < 0.02 * float(y.std())
    assert model.width == [(2, 0), (1, 0), (1, 0)] and {edge.input for edge in model.edges()} == {0}
    with pytest.raises(ConfigError, match="sparsity must be a finite number of at least 0"):
        model.sparsify((x, y), settings=SearchSettings(sparsity=-1.0))


def test_a_network_that_became_shallower_is_saved_and_loaded(tmp_path):
    x = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    deep, flat = KAN([2, 1, 1], bias=False), KAN([2, 1])
    become(deep, flat)
    assert not any(layer.bias.requires_grad for layer in deep.layers)
    deep.save(tmp_path / "network")
    assert torch.equal(KAN.load(tmp_path / "network")(x), flat(x))
