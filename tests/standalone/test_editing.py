"""Edges by hand: formulas with given numbers, edges and nodes that are removed, one edge as a function."""

import copy
import math

import matplotlib as mpl
import numpy as np
import pytest
import sympy
import torch

from kansformer.errors import ConfigError, DataError, SlotError
from kansformer.kan import KAN, Edge, create_dataset
from kansformer.symbolic import LIBRARY, Symbol

mpl.use("Agg")
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def data():
    return create_dataset(lambda x: torch.exp(torch.sin(math.pi * x[:, [0]]) + x[:, [1]] ** 2), 2, num_train=300)


@pytest.fixture
def model(data):
    model = KAN([2, 3, 1], seed=1)
    model.fit(data, steps=8, **QUIET)
    return model


def unchanged(model, before):
    state = model.state_dict()
    return list(state) == list(before) and all(torch.equal(state[name], before[name]) for name in state)


@pytest.mark.parametrize("optimizer", ["lm", "lbfgs", "adam"])
def test_frozen_numbers_stay(model, data, optimizer, tmp_path):
    assert model.fix_symbol((0, 0, 1), "sin", data, affine=(math.pi, 0.25, 0.5, -1), trainable=False) < 1
    model.fix_symbol((0, 1, 1), "x**2", data, affine=[1, 0, 1, 0])
    before = model.formulas[0].affine.detach().clone()
    model.save(tmp_path)
    for network in (model, copy.deepcopy(model), KAN.load(tmp_path)):
        error = network.fit(data, steps=4, optimizer=optimizer, **QUIET).train_error
        assert error[-1] < error[0]
        frozen, moved = network.formulas[0].affine
        assert torch.equal(frozen, before[0]) and not torch.equal(moved, before[1])
        assert network.formulas[0].frozen.tolist() == [True, False]
    assert torch.equal(
        KAN.load(model.save(tmp_path / "again")).predict(data.test_input), model.predict(data.test_input)
    )
    network.remove_node(1, 0)  # numbers move with their edges
    assert network.formulas[0].frozen.tolist() == [True, False] and torch.equal(
        network.formulas[0].affine[0], before[0]
    )


def test_given_numbers_are_the_edge(model, data):
    assert model.fix_symbol((0, 0, 0), "cos", affine=(2, 1, 3, 4), trainable=False) < 0
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    curve = model.edge(0, 0, 0)
    torch.testing.assert_close(curve(x), 3 * torch.cos(2 * x + 1) + 4)
    assert curve.symbol.name == "cos" and curve.affine == (2, 1, 3, 4)
    model.fix_symbol((0, 0, 0), "x^3", affine=(1, 0, 1, 0))  # a formula gets other numbers
    torch.testing.assert_close(model.edge(0, 0, 0)(x), x**3)
    assert not model.formulas[0].frozen.any() and len(model.formulas[0]) == 1
    fitted = model.fix_symbol(Edge(0, 1, 0), "x^2", data, trainable=False)
    assert fitted <= 1 and model.formulas[0].frozen.tolist() == [False, True]


def test_reciprocals_on_the_left_of_their_pole():
    for name, power in (("1/x", -1), ("1/x^2", -2), ("1/x^3", -3)):
        model = KAN([1, 1], domain=(-3.0, -1.0))
        model.fix_symbol((0, 0, 0), name, affine=(1, 0, 2, 1))
        x = torch.linspace(-3, -1, 5, dtype=torch.float64)[:, None]
        torch.testing.assert_close(model.predict(x), 2 * x**power + 1)
        value = model.formula()[0].subs("x_1", -2.0)
        assert float(value) == pytest.approx(2 * (-2.0) ** power + 1)


def test_zero_cuts_the_edge(model, data):
    mean = model.edge(0, 0, 0, data)(data.train_input[:, 0]).mean()
    bias = float(model.layers[0].bias[0].detach())
    assert model.fix_symbol((0, 0, 0), "0", data) == 0.0
    assert Edge(0, 0, 0) not in list(model.edges())
    assert float(model.layers[0].bias[0].detach()) == pytest.approx(bias + float(mean))


def test_removed_edges_leave_their_mean(model, data):
    x = data.train_input
    sums, values = model.sums(0, x), edge_values(model.edge(0, 1, 2, data), x)
    assert model.remove_edge((0, 1, 2), data) is model
    torch.testing.assert_close(model.sums(0, x)[:, 2], sums[:, 2] - values + values.mean())
    without = copy.deepcopy(model)
    mean = edge_values(without.edge(0, 0, 2), x).mean()
    without.remove_edge((0, 0, 2))
    model.remove_edge((0, 0, 2), x)
    torch.testing.assert_close(model.sums(0, x)[:, 2], without.sums(0, x)[:, 2] + mean)


def edge_values(edge, x):
    """Of an edge at the inputs of the network."""
    return edge(x[:, edge.edge.input])


def test_removed_nodes_go_with_what_leads_to_them(data):
    model = KAN([2, [3, 1], 2, 1], seed=2)
    x = data.train_input
    level = model.nodes(0, model.sums(0, x))
    mean = torch.stack([model.edge(1, 3, o)(level[:, 3]).mean() for o in range(2)])
    bias = model.layers[1].bias.detach().clone()
    model.remove_node(1, 3, data)
    assert model.width == [(2, 0), (3, 0), (2, 0), (1, 0)]
    torch.testing.assert_close(model.layers[1].bias.detach(), bias + mean)
    for node in (0, 0):
        model.remove_edge((1, node, 0))
        model.remove_edge((1, node, 1))  # the last way on from this node
    assert model.width[1] == (1, 0)
    model.remove_node(0, 1)
    assert model.width[0] == (2, 0) and not model.alive[0][1].any()
    again = KAN([2, 2, 2, 1])
    again.remove_edge((1, 1, 0))
    again.remove_node(2, 1)  # node 1 of layer 1 led there only
    assert again.width == [(2, 0), (1, 0), (1, 0), (1, 0)]


def test_an_edge_is_a_function(model, data):
    curve = model.edge(0, 1, 0, data)
    lower, upper = data.train_input[:, 1].aminmax()
    assert curve.range == (float(lower), float(upper)) and curve.symbol is None and curve.affine is None
    assert str(curve).startswith("(0, 1 -> 0) curve on [-")
    alone = KAN([2, 1], grid_size=8, base="silu", seed=3)
    x = torch.rand(5, 2, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        alone.layers[0].weight.fill_(0.3)
    together = alone.edge(0, 0, 0)(x[:, 0]) + alone.edge(0, 1, 0)(x[:, 1]) + alone.layers[0].bias
    torch.testing.assert_close(together, alone(x)[:, 0])
    (slopes,) = torch.autograd.grad(alone.edge(0, 0, 0)(x).sum(), x)
    assert slopes.shape == x.shape and slopes.any()
    assert alone.edge(0, 0, 0)(torch.zeros(2, 3)).shape == (2, 3)
    assert len(curve.plot().axes) == 1 and len(model.plot_edge((0, 1, 0), data).axes) == 2


def test_first_scales_and_densities():
    x = torch.rand(9, 3, dtype=torch.float64)
    assert not KAN([3, 4, 2], init_scale=0).predict(x).any()
    full, half = KAN([3, 2], seed=5), KAN([3, 2], seed=5, init_scale=0.5)
    torch.testing.assert_close(half.predict(x), full.predict(x) / 2)
    model = KAN([3, 8, 2], init_density=0.5, seed=5)
    assert [int(alive.sum()) for alive in model.alive] == [12, 8]
    assert all(alive.any(dim=0).all() and alive.any(dim=1).all() for alive in model.alive)
    thin = KAN([2, [5, 2], 4], init_density=0.01)
    assert [int(alive.sum()) for alive in thin.alive] == [9, 7]
    for settings in ({"init_scale": -1}, {"init_density": 0}, {"init_density": 1.5}, {"init_scale": math.nan}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            KAN([2, 1], **settings)


def test_networks_without_biases(tmp_path):
    x = torch.rand(50, 2, dtype=torch.float64)
    model = KAN([2, 2, 1], bias=False)
    for optimizer in ("lm", "lbfgs", "adam"):
        model.fit((x, x.sum(1, keepdim=True) + 1), steps=2, optimizer=optimizer, **QUIET)
    model = KAN.load(model.save(tmp_path))
    model.fit((x, x.sum(1, keepdim=True) + 1), steps=2, starts=2, **QUIET)
    assert not any(layer.bias.any() or layer.bias.requires_grad for layer in model.layers)


def test_a_function_of_numpy_is_fitted(data, tmp_path):
    own = Symbol(
        name="own", function=lambda z: torch.from_numpy(np.sin(z.numpy())), sympy=sympy.Function("own"), complexity=2
    )
    model = KAN([2, 1])
    model.fix_symbol((0, 0, 0), "own", library=LIBRARY.with_symbol(own))
    expected = copy.deepcopy(model)
    expected.fix_symbol((0, 0, 0), "sin", affine=model.edge(0, 0, 0).affine)
    for optimizer in ("lm", "lbfgs", "adam"):
        for network in (model, expected):
            network.fit(data, steps=3, optimizer=optimizer, **QUIET)
        torch.testing.assert_close(model.formulas[0].affine, expected.formulas[0].affine, rtol=1e-4, atol=1e-4)
    assert "own" in str(model.edge(0, 0, 0))


def test_bad_input_leaves_the_network(model, data):
    model.fix_symbol((0, 0, 2), "sin", data)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = data.train_input

    def refused(kind, match, call):
        with pytest.raises(kind, match=match):
            call()
        assert unchanged(model, before)

    refused(ConfigError, "No function is named 'sinn'. Close to it: sin", lambda: model.fix_symbol((0, 0, 0), "sinn"))
    refused(ConfigError, "No function is named 'squared'", lambda: model.fit_symbolic(data, library=["x", "squared"]))
    refused(ConfigError, r"such as \['x\^2'\]", lambda: model.fit_symbolic(data, library="x^2"))
    refused(ConfigError, "The library has no functions", lambda: model.fit_symbolic(data, library=["0"]))
    refused(
        ConfigError, r"four numbers a, b, c, d .* got \(1, 2\)", lambda: model.fix_symbol((0, 0, 0), "x", affine=(1, 2))
    )
    refused(
        ConfigError, "b of affine must be a finite number, got nan",
        lambda: model.fix_symbol((0, 0, 0), "x", affine=(1, math.nan, 1, 0)),
    )  # fmt: skip
    refused(
        DataError, r"log of a·x \+ b is not finite on the whole range of the edge \(0, 0 -> 0\), from -1\.",
        lambda: model.fix_symbol((0, 0, 0), "log", affine=(1, 0, 1, 0)),
    )  # fmt: skip
    refused(SlotError, r"edge \(0, 7 -> 0\) is not there", lambda: model.remove_edge((0, 7, 0)))
    refused(SlotError, "no layer 2: choose from 0 to 1", lambda: model.edge(2, 0, 0))
    refused(ConfigError, r"Edge\(layer, input, output\) or such a tuple", lambda: model.remove_edge((0, 1)))
    refused(ConfigError, "tuple of integers, got 'first'", lambda: model.unfix_symbol("first"))
    refused(SlotError, "The outputs stay. Choose from 0, the inputs, to 1", lambda: model.remove_node(2, 0))
    refused(SlotError, "no node 3 in layer 1: choose from 0 to 2", lambda: model.remove_node(1, 3))
    refused(DataError, "not finite in row 0, column 0", lambda: model.remove_edge((0, 0, 0), x * torch.nan))
    refused(ConfigError, "is a formula already", lambda: model.suggest_symbols((0, 0, 2), data))
    model.remove_node(0, 1)
    with pytest.raises(SlotError, match="The node 1 of layer 0 has no edge that could be removed"):
        model.remove_node(0, 1)


def test_a_formula_is_differentiable_by_its_input_alone():
    model = KAN([1, 2])
    model.fix_symbol((0, 0, 0), "exp", affine=(1, 0, 1, 0))
    model.fix_symbol((0, 0, 1), "1/x", affine=(1, 0, 1, 0))
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    model.edge(0, 0, 0)(x).sum().backward()
    assert x.grad.item() == 1.0  # not NaN because of the other edge's pole
    assert model.formulas[0].affine.grad is None
