"""Fits: exact derivatives, errors that fall, grids that move, parameters that stay."""

import copy
import math
import sys
import warnings

import pytest
import torch

from kansformer.errors import ConfigError, DataError
from kansformer.kan import KAN, Dataset, Edge, create_dataset, descent, init
from kansformer.kan.fitting import rmse
from kansformer.kan.linearize import Inputs, Parameters, higher_features, jacobian, layer_features, network_states
from kansformer.kan.penalties import Penalties, bending

QUIET = {"progress": False}


def product_of_sines(x):
    return torch.sin(2 * x[:, :1]) * x[:, 1:2] + x[:, 1:2] ** 2


@pytest.fixture(scope="module")
def data():
    return create_dataset(product_of_sines, 2, num_train=300, num_test=100)


@pytest.mark.parametrize("basis", ["bspline", "chebyshev", "rbf", "fourier", "rational"])
@pytest.mark.parametrize("extrapolation_domain", [(-1.0, 1.0), (-0.3, 0.4)])
def test_the_jacobian_is_the_derivative(basis, extrapolation_domain, data):
    model = KAN([2, [2, 1], 2], basis=basis, order=4, seed=1, domain=extrapolation_domain)
    model.fix_symbol(Edge(0, 0, 1), "sin")
    model.fix_symbol(Edge(1, 2, 1), "tanh")
    x = data.train_input[:20]
    parameters = Parameters(model)
    vector = parameters.read()
    with torch.no_grad():
        outputs, states = network_states(model, Inputs(x, layer_features))
    derivatives = jacobian(model, states)
    torch.testing.assert_close(outputs, model(x).detach())
    assert derivatives.shape == (20, 2, len(vector))
    generator = torch.Generator().manual_seed(0)
    for index in torch.randint(len(vector), (25,), generator=generator).tolist():
        values = []
        for step in (1e-6, -1e-6):
            moved = vector.clone()
            moved[index] += step
            parameters.write(moved)
            values.append(model(x).detach())
        torch.testing.assert_close(derivatives[..., index], (values[0] - values[1]) / 2e-6, rtol=1e-5, atol=1e-7)
    parameters.write(vector)
    assert torch.equal(parameters.read(), vector)


def test_the_quadratic_penalty_touches_the_penalty_from_above():
    model = KAN([2, 3, 1], seed=1)
    x = torch.randn(50, 2, dtype=torch.float64)
    parameters = Parameters(model)
    vector, states = parameters.read(), network_states(model, Inputs(x, layer_features))[1]
    sizes = Penalties(sparsity=1.0, entropy=0.0, smoothness=0.0)
    quadratic, size = 2 * sizes.quadratic(model, states), sizes.of(model, states).item()
    assert (vector @ quadratic @ vector).item() == pytest.approx(size, rel=1e-2)  # s²/2s₀ + s₀/2 = s₀, twice the half
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        moved = vector + 0.1 * torch.randn(len(vector), generator=generator, dtype=torch.float64)
        parameters.write(moved)
        states_moved = [network_states(model, Inputs(x, layer_features))[1][0]]
        bound = (moved @ quadratic @ moved)[None] / 2 + size / 2
        assert sizes.of(model, states_moved).item() < bound.item() + 1e-3


@pytest.mark.parametrize(("optimizer", "steps", "bound"), [("lm", 30, 2e-3), ("lbfgs", 30, 2e-2), ("adam", 200, 8e-2)])
def test_every_optimizer_fits(optimizer, steps, bound, data):
    model = KAN([2, 5, 1], seed=1)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    history = model.fit(data, optimizer=optimizer, steps=steps, **QUIET)
    assert history.train_error[-1] < bound and history.test_error[-1] < 2 * bound
    assert history.train_error[-1] == pytest.approx(rmse(model, data.train_input, data.train_target), rel=1e-6)
    assert len(history.to_pandas()) == len(history) <= steps and "RMSE" in str(history)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


def test_batches_and_loaders(data):
    pairs = torch.utils.data.TensorDataset(data.train_input, data.train_target)
    loader = torch.utils.data.DataLoader(pairs, batch_size=50)
    for kind, more in ((loader, {}), (data, {"batch_size": 50})):
        model = KAN([2, 5, 1], seed=1)
        assert model.fit(kind, optimizer="adam", steps=30, **more, **QUIET).train_error[-1] < 0.1
    assert KAN([2, 5, 1], seed=1).fit(loader, steps=20, **QUIET).train_error[-1] < 1e-2


def test_lbfgs_sparsifies():
    data = create_dataset(lambda x: torch.exp(torch.sin(math.pi * x[:, [0]]) + x[:, [1]] ** 2), 2, num_train=300)
    seconds = []
    for seed in range(3):
        model = KAN([2, 5, 1], seed=seed)
        model.fit(data, optimizer="lbfgs", steps=20, sparsity=0.01, entropy=10.0, **QUIET)
        seconds.append(float(model.node_scores(data).nodes[1].sort(descending=True).values[1]))
    assert sorted(seconds)[1] < 0.05 and max(seconds) < 0.5  # one path of the five is left


@pytest.mark.parametrize("idle", [0.0, 1.0])
def test_the_bound_of_the_sizes_touches_them(idle, data):
    model = KAN([2, 3, 1], seed=1)
    penalties = Penalties(sparsity=1.0, entropy=0.1, smoothness=1e-3, idle=idle)
    inputs = Inputs(data.train_input, layer_features)
    states = network_states(model, inputs)[1]
    weights = penalties.weights_of_variances(states)
    slopes = [
        torch.autograd.grad(value, model.layers[0].coefficients, retain_graph=True)[0]
        for value in (penalties.of(model, states), penalties.bound(model, states, weights))
    ]
    assert (slopes[0] - slopes[1]).norm() < 1e-2 * slopes[0].norm()


@pytest.mark.parametrize("optimizer", ["lm", "lbfgs", "adam"])
def test_every_step_is_seen(optimizer, data):
    model, seen = KAN([2, 2, 1]), []
    metrics = {"largest error": lambda network, data: (network(data.test_input) - data.test_target).abs().max()}
    history = model.fit(
        data, optimizer=optimizer, steps=4, starts=2, metrics=metrics,
        callback=lambda step, network, history: seen.append((step, network, history.train_error[-1])), **QUIET,
    )  # fmt: skip
    assert seen == [(step + 1, model, error) for step, error in enumerate(history.train_error)]
    largest = history.metrics["largest error"]
    assert len(largest) == len(history) == 4
    assert largest[-1] == float((model.predict(data.test_input) - data.test_target).abs().max())
    assert history.to_pandas()["largest error"].tolist() == largest
    assert len(history.plot().axes) == 2
    before = model.state_dict()
    for name, metric, match in (
        ("seconds", lambda network, data: 0.0, "A metric cannot be named 'seconds'"),
        ("own", lambda network, data: "low", "metric 'own' gives no number"),
        ("own", lambda network, data: network(data.test_input), "metric 'own' gives no number"),
    ):
        with pytest.raises(ConfigError, match=match):
            model.fit(data, metrics={name: metric}, **QUIET)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_classes_are_fitted_by_cross_entropy():
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = (x.square().sum(-1) < 1).long()
    model = KAN([2, 3, 2])
    target = torch.nn.functional.one_hot(label, 2).double()
    model.fit((x, target), optimizer="lbfgs", loss="cross_entropy", steps=30, **QUIET)
    assert (model.predict(x).argmax(-1) == label).double().mean() > 0.95


def test_a_finer_grid_computes_the_same(data):
    model = KAN([2, 3, 1], seed=0)
    model.fit(data, steps=10, **QUIET)
    before = model(data.test_input).detach()
    model.refine(15)
    torch.testing.assert_close(model(data.test_input).detach(), before, rtol=0, atol=1e-12)


def test_several_starts_are_no_worse(data):
    one, many = KAN([2, 2, 1], seed=0), KAN([2, 2, 1], seed=0)
    errors = [m.fit(data, steps=15, starts=n, **QUIET).train_error[-1] for m, n in ((one, 1), (many, 4))]
    assert errors[1] <= 1.5 * errors[0]


def test_a_fit_that_explodes_keeps_the_best_network(data):
    model = KAN([2, 3, 1], seed=0)
    before = rmse(model, data.train_input, data.train_target)
    history = model.fit(data, optimizer="adam", lr=1e200, steps=5, **QUIET)
    assert "the best network was put back" in history.stopped
    assert rmse(model, data.train_input, data.train_target) == pytest.approx(before)


def test_bad_settings_are_an_error(data):
    model = KAN([2, 2, 1])
    with pytest.raises(ConfigError, match="Unknown optimizer 'sgd'. Choose one of: lm, lbfgs, adam"):
        model.fit(data, optimizer="sgd")
    with pytest.raises(ConfigError, match="'cross_entropy' cannot be fitted by 'lm'"):
        model.fit(data, loss="cross_entropy")
    with pytest.raises(ConfigError, match="sparsity must be a finite number of at least 0, got -1"):
        model.fit(data, sparsity=-1.0)
    with pytest.raises(ConfigError, match="steps must be a whole number of at least 0, got -1"):
        model.fit(data, steps=-1)
    with pytest.raises(ConfigError, match="ranges must be one"):
        create_dataset(product_of_sines, 2, ranges=(1.0, -1.0))
    with pytest.raises(DataError, match="targets are not finite"):
        create_dataset(lambda x: (x[:, :1] - 5).log(), 2)
    with pytest.raises(ConfigError, match="threshold must be a finite number of at least 0, got -1"):
        model.prune(data, threshold=-1)
    assert isinstance(data, Dataset)


def test_the_descended_loss_has_the_networks_gradient(data):
    # The states that penalties are made of must carry gradients through every layer, bases included.
    model = KAN([2, 3, 1], seed=1)
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.normal_(generator=torch.Generator().manual_seed(0))
    x, y = data.train_input[:50], data.train_target[:50]
    gradients = []
    for outputs in (model(x), network_states(model, Inputs(x, layer_features))[0]):
        model.zero_grad()
        (outputs - y).square().mean().backward()
        gradients.append(model.layers[0].weight.grad.clone())
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("optimizer", ["lm", "lbfgs", "adam"])
def test_frozen_parameters_stay(optimizer, data):
    model = KAN([2, 3, 1], seed=1)
    model.layers[0].requires_grad_(False)
    model.layers[1].bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    history = model.fit(data, optimizer=optimizer, steps=5, grid_update_every=0, **QUIET)
    assert history.train_error[-1] < rmse(KAN([2, 3, 1], seed=1), data.train_input, data.train_target)
    changed = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed == {"layers.1.weight", "layers.1.coefficients"}


def test_smooth_curves_generalise_from_noise():
    clean = create_dataset(lambda x: torch.sin(2 * x[:, :1]) + x[:, 1:] ** 2, 2, num_train=80, num_test=500)
    noise = 0.2 * torch.randn(clean.train_target.shape, generator=torch.Generator().manual_seed(0))
    noisy = Dataset(clean.train_input, clean.train_target + noise, clean.test_input, clean.test_target)
    errors = []
    for smoothness in (0.0, 3e-3):
        errors.append(KAN([2, 5, 1], seed=1).fit(noisy, steps=20, smoothness=smoothness, **QUIET).test_error[-1])
    assert errors[1] < 0.15 and errors[1] < errors[0] / 2


def test_a_lines_smoothness_costs_nothing():
    model = KAN([1, 1], base="zero")
    layer = model.layers[0]
    x = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
    model.fit((x, 3 * x + 1), steps=10, smoothness=10.0, **QUIET)
    assert rmse(model, x, 3 * x + 1) < 1e-6
    parabola = model.fit((x, x**2), steps=10, smoothness=1.0, **QUIET)
    with torch.no_grad():
        second = higher_features(layer, x, 2)[2, :, 0, 1:] @ layer.coefficients[0, :, 0]
    assert parabola.train_error[-1] > 0.1 and second.abs().max() < 1  # 2 where it is free to bend


def test_bending_is_that_of_the_grid():
    layer = KAN([2, 1], base="silu").layers[0]
    first = bending(layer)
    assert bending(layer) is first
    with torch.no_grad():
        layer.domain[1] *= 3
    moved = bending(layer)
    assert torch.equal(moved[0], first[0]) and not torch.equal(moved[1], first[1])
    assert torch.equal(bending(copy.deepcopy(layer)), moved)
    with torch.inference_mode():
        there = bending(copy.deepcopy(layer))
    assert torch.equal(there, moved) and not there.is_inference()


def test_classes_are_measured_by_their_loss():
    x = torch.linspace(-1, 1, 60, dtype=torch.float64)[:, None]
    y = torch.cat([(x > 0).double(), (x <= 0).double()], dim=1)
    history = KAN([1, 2], seed=1).fit((x, y), loss="cross_entropy", optimizer="adam", steps=30, **QUIET)
    assert history.measure == "cross entropy" and "cross entropy" in str(history)
    assert history.train_error[-1] < 0.7 * history.train_error[0] < 0.7


def test_settings_of_other_optimizers_are_refused(data):
    for settings, match in [
        ({"batch_size": 7}, "batch_size=7 is of adam"),
        ({"lr": 0.1}, "lr=0.1 is of adam and lbfgs"),
        ({"optimizer": "adam", "batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"optimizer": "adam", "lr": -1.0}, "lr must be a finite number above 0, got -1.0"),
    ]:
        with pytest.raises(ConfigError, match=match):
            KAN([2, 2, 1]).fit(data, **settings, **QUIET)
    with pytest.raises(DataError, match="probabilities of two classes or more in every row"):
        KAN([2, 2, 1]).fit(data, optimizer="adam", loss="cross_entropy", **QUIET)


def test_an_interrupt_leaves_the_best_network(data, monkeypatch):
    model = KAN([2, 3, 1], seed=1)
    x, y = data.train_input, data.train_target
    model.fit((x, y), steps=3, grid_update_every=0, **QUIET)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:  # the first trial of the first step
            raise KeyboardInterrupt
        return network_states(*args)

    monkeypatch.setattr(sys.modules["kansformer.kan.fitting"], "network_states", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit((x, y), steps=3, grid_update_every=0, **QUIET)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_progress_is_reported(data):
    calls = []
    KAN([2, 2, 1]).fit(data, steps=2, progress=lambda *call: calls.append(call))
    assert [call[:3] for call in calls] == [("fit", 1, 2), ("fit", 2, 2)] and "RMSE" in calls[0][3]


def test_grids_move_to_samples(data):
    model = KAN([2, 2, 1], domain=(-5.0, 5.0))
    for given in (data, (data.train_input, data.train_target), data.train_input):
        assert model.update_grid(given, margin=0.0) is model
        ranges = torch.stack(data.train_input.aminmax(dim=0), dim=1)
        torch.testing.assert_close(model.layers[0].domain, ranges)


def test_more_numbers_than_samples_determine_are_mentioned(data):
    x, y = data.train_input[:60], data.train_target[:60]
    with pytest.warns(
        UserWarning, match=r"curves have 120 numbers, which 60 samples hardly determine.*grid_size"
    ) as seen:
        KAN([2, 5, 1]).fit((x, y), steps=1, **QUIET)
    assert [warning.filename for warning in seen] == [__file__]
    with pytest.warns(UserWarning, match="have 32 numbers, which 60 samples"):
        KAN([2, 2]).fit((x, y.repeat(1, 2)), steps=1, **QUIET)
    model = KAN([2, 2])
    for edge in list(model.edges()):
        model.fix_symbol(edge, "sin", x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KAN([2, 1]).fit((x, y), steps=1, **QUIET)  # enough samples
        KAN([2, 5, 1]).fit((x, y), steps=1, smoothness=1e-3, **QUIET)
        model.fit((x, y.repeat(1, 2)), steps=1, **QUIET)


def test_several_starts_differ_whatever_the_seed(data, monkeypatch):
    drawn = []
    monkeypatch.setattr(init, "restart", lambda model, seed: drawn.append(seed))
    KAN([2, 5, 1], seed=1).fit(data, steps=2, starts=3, **QUIET)
    assert drawn == [2, 3]


@pytest.mark.parametrize("starts", [1, 2])
def test_layers_that_are_not_trained_stay(data, starts):
    model = KAN([2, 3, 1])
    model.layers[0].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.layers[0].state_dict().items()}
    model.fit(data, steps=6, starts=starts, **QUIET)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.layers[0].state_dict().items())


@pytest.mark.parametrize("moment", [2, 8])
def test_an_interruption_leaves_the_last_step_of_lbfgs(moment, data, monkeypatch):
    model, calls = KAN([2, 3, 1], seed=1), iter(range(100))
    model.fit(data, steps=5, **QUIET)
    before = copy.deepcopy(model.state_dict())

    def interrupted(*args):
        if next(calls) == moment:
            raise KeyboardInterrupt
        return missing_at_point(*args)

    missing_at_point = descent.missing_at_point
    monkeypatch.setattr(descent, "missing_at_point", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(data, steps=3, optimizer="lbfgs", grid_update_every=0, **QUIET)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{"progress": "a"}, {"tolerance": "a"}, {"tolerance": -1.0}])
def test_wrong_settings_change_nothing(settings, data):
    model = KAN([2, 3, 1])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=next(iter(settings))):
        model.fit(data, steps=2, **{**QUIET, **settings})
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(ConfigError, match="threshold"):
        model.prune_inputs(data, threshold=math.nan)
