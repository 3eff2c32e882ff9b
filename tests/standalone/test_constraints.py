"""Networks that are held to shapes obey them everywhere, after every way of training and of changing them."""

import json
from contextlib import suppress

import numpy as np
import pytest
import torch
from held_networks import OPTIMIZERS, ROUNDING, basis_columns, r2, samples, slopes, table

from kansformer import refine_grid, update_grid
from kansformer.basis.shapes import convex, nearest_rising
from kansformer.errors import CheckpointError, ConfigError
from kansformer.kan import KAN, KANClassifier, KANRegressor

POINT = ([0.5, -0.25, 0.125], [1.0])


RISING = {"monotone": {0: 1}}


@pytest.mark.parametrize(
    ("width", "optimizer"),
    [([3, 1], "lm"), ([3, 1], "lbfgs"), ([3, 4, 1], "adam"), ([3, 3, 3, 1], "lm"), ([3, 3, 3, 1], "lbfgs")],
    ids=str,
)
def test_a_held_network_obeys_at_all_points_and_fits_as_well(width, optimizer):
    data, settings = samples(400), dict(optimizer=optimizer, **OPTIMIZERS[optimizer], progress=False)
    free, held = KAN(width), KAN(width)
    free.fit(data, **settings)
    held.fit(data, **settings, constraints={"monotone": [1, -1, 0]})
    rising, falling, waves = slopes(held, rows=10_000)
    assert (rising >= 0).all() and (falling <= 0).all() and (waves < 0).any()
    assert (slopes(free)[0] < 0).any()
    assert r2(held) > r2(free) - 1e-3


@pytest.mark.parametrize(
    ("rising", "bent"), [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)], ids=str
)
def test_the_fit_of_one_curve_is_the_best_one_that_obeys(rising, bent):
    """Against bounded least squares in the differences of the coefficients."""
    from scipy.optimize import lsq_linear

    x, y = samples(200, noise=1.0)
    model = KAN([1, 1], grid_size=8)
    history = model.fit(
        (x[:, :1], y), steps=15, progress=False, constraints={"monotone": [rising], "curvature": [bent]}
    )
    columns = basis_columns(model, x[:, :1])
    count = columns.shape[1]
    once = np.tril(np.ones((count, count)))
    twice = once @ np.block([[np.ones((1, 1)), np.zeros((1, count - 1))], [np.zeros((count - 1, 1)), once[1:, 1:]]])
    curves = {0: rising * once, 1: twice, -1: -twice}[bent]
    if rising * bent < 0:
        curves = curves[::-1]
    lower = np.zeros(count)
    lower[: 2 - (not bent or rising != 0)] = -np.inf
    best = lsq_linear(columns @ curves, y[:, 0].numpy(), (lower, np.inf), tol=1e-14)
    assert history.train_error[-1] == pytest.approx((2 * best.cost / len(y)) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("base", ["silu", "identity", "tanh"])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_every_order_and_base_is_held(order, base):
    model = KAN([3, 2, 1], order=order, base=base)
    model.fit(samples(200, noise=1.0), steps=5, progress=False, constraints=RISING)
    assert (slopes(model)[0] >= 0).all()


@pytest.mark.parametrize(("sign", "direction"), [(1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_convex_and_concave_curves_with_a_direction(sign, direction):
    x, _ = samples(300)
    y = torch.exp(1.5 * x[:, [0]]) + 0.3 * torch.randn(len(x), 1, generator=torch.Generator().manual_seed(2)).double()
    model = KAN([3, 1])
    constraints = {"curvature": [sign, 0, 0], "monotone": [direction, 0, 0]}
    model.fit((x, y), progress=False, constraints=constraints)
    line = torch.zeros(4001, 3, dtype=torch.float64)
    line[:, 0] = torch.linspace(-3, 3, 4001, dtype=torch.float64)
    values = sign * model.predict(line)[:, 0]
    assert values.diff().diff().min() > -ROUNDING
    if direction:
        assert (sign * direction * values.diff() >= -ROUNDING).all()
    if sign > 0 and direction >= 0:
        truth = torch.exp(1.5 * x[:, [0]])
        assert 1 - (model.predict(x) - truth).square().mean() / truth.var() > 0.99


def test_grids_that_change_keep_the_shape():
    model, data = KAN([3, 3, 1]), samples(300)
    model.fit(data, steps=10, progress=False, constraints=RISING)
    changes = (
        lambda: model.refine(7),
        lambda: model.update_grid(data, margin=0.4),
        lambda: refine_grid(model, 10),
        lambda: update_grid(model, data[0]),
        lambda: model.refine(14),
    )
    for change in changes:
        change()
        assert (slopes(model)[0] >= 0).all()
    model.fit(data, steps=5, progress=False)  # no word of constraints: those of before
    assert (slopes(model)[0] >= 0).all()
    model.fit(data, steps=5, progress=False, constraints={})
    assert model.constraints is None and (slopes(model)[0] < 0).any()


def test_several_starts_pruning_and_smoothing_keep_the_shape():
    model, data = KAN([3, 3, 1]), samples(300)
    model.fit(data, steps=10, progress=False, constraints=RISING, starts=2, sparsity=1e-2, smoothness=1e-3)
    model.prune(data)
    assert (slopes(model)[0] >= 0).all()
    model.fit(data, steps=3, progress=False, smoothness="auto")
    assert (slopes(model)[0] >= 0).all()


def test_constraints_are_saved(tmp_path):
    model = KAN([3, 2, 1])
    model.fit(samples(200), steps=3, progress=False, constraints=RISING)
    model.save(tmp_path)
    loaded = KAN.load(tmp_path)
    assert loaded.constraints == model.constraints
    loaded.fit(samples(200, noise=2.0), steps=5, progress=False)
    assert (slopes(loaded)[0] >= 0).all()
    values = json.loads((tmp_path / "kan.json").read_text())
    (tmp_path / "kan.json").write_text(json.dumps(values | {"constraints": {"monotone": [1, 2, 3]}}))
    with pytest.raises(CheckpointError, match="3 numbers of -1, 0 and 1"):
        KAN.load(tmp_path)


@pytest.mark.parametrize(
    ("model", "constraints", "message"),
    [
        (KAN([3, 1]), {"rising": [0]}, "keys monotone, curvature, outputs"),
        (KAN([3, 1]), {"monotone": [1]}, "must be 3 numbers"),
        (KAN([3, 1]), {"monotone": [1, 0, 2]}, "must be 3 numbers"),
        (KAN([3, 1]), {"monotone": "up!"}, "must be 3 numbers"),
        (KAN([3, 1]), {"monotone": {3: 1}}, "names 3; numbers are 0 to 2"),
        (KAN([3, 1]), {"monotone": {0: 1}, "outputs": [0]}, "-1 or 1"),
        (KAN([3, 2, 1]), {"curvature": [1, 0, 0]}, "without hidden layers"),
        (KAN([3, [1, 1], 1]), RISING, "product nodes"),
        (KAN([3, 1], basis="chebyshev"), RISING, "'chebyshev'"),
        (KAN([3, 1]), {"lower": 1, "upper": 0}, "lower must be below upper"),
        (KAN([3, 1]), {"lower": [0, 0]}, "None for each of 1 outputs"),
        (KAN([3, 1]), {"upper": "1"}, "None for each of 1 outputs"),
        (KAN([3, 1]), {"upper": float("nan")}, "upper of constraints"),
        (KAN([3, 1]), {"upper": 10**400}, "upper of constraints"),
        (KAN([3, 1]), {"upper": True}, "upper of constraints"),
        (KAN([3, 1]), {"upper": [torch.zeros(2)]}, "None for each of 1 outputs"),
        (KAN([3, 1]), {"monotone": torch.tensor(1)}, "must be 3 numbers"),
        (KAN([3, 1]), {"through": ([0, 0, 10**400], 0)}, "a pair of 3 inputs and 1 outputs"),
        (KAN([3, 1]), {"lower": 0, "curvature": [1, 0, 0]}, "Bounds go with monotone only"),
        (KAN([3, 1]), {"lower": 0, "through": POINT}, "Bounds go with monotone only"),
        (KAN([3, 1]), {"through": (0, 0)}, "a pair of 3 inputs and 1 outputs"),
        (KAN([3, 1]), {"through": 3}, "a pair of 3 inputs and 1 outputs"),
        (KAN([3, 1]), {"through": ([0, 0, "x"], 0)}, "a pair of 3 inputs and 1 outputs"),
        (KAN([3, 1], bias=False), {"through": POINT}, "bias=False"),
    ],
)
def test_what_cannot_be_held_is_refused(model, constraints, message):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        model.fit(samples(200), steps=1, progress=False, constraints=constraints)
    assert model.constraints is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_held_network_gets_no_formulas():
    model, data = KAN([3, 1]), samples(200)
    model.fit(data, steps=3, progress=False, constraints=RISING)
    before = model.predict(data[0])
    with pytest.raises(ConfigError, match="fix_symbol makes edges formulas, and this network is held to constraints"):
        model.fix_symbol((0, 0, 0), "sin", data)
    with pytest.raises(ConfigError, match="fit_symbolic makes edges formulas"):
        model.fit_symbolic(data)
    assert len(model.fit_symbolic(data, fix=False).edges) == 3
    assert torch.equal(model.predict(data[0]), before)
    model.fit(data, steps=0, progress=False, constraints={})
    model.fix_symbol((0, 0, 0), "sin", data)
    with pytest.raises(ConfigError, match="with formulas cannot be held"):
        model.fit(data, steps=1, progress=False, constraints=RISING)


def test_the_nearest_rising_coefficients_are_those_of_isotonic_regression():
    from sklearn.isotonic import isotonic_regression

    curves = torch.randn(50, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = np.stack([isotonic_regression(curve) for curve in curves.numpy()])
    torch.testing.assert_close(nearest_rising(curves), torch.from_numpy(expected))
    assert (nearest_rising(curves).diff() >= 0).all()
    bent = convex(curves)
    assert (bent.diff().diff() > -1e-14).all()
    torch.testing.assert_close(bent.mean(-1), curves.mean(-1))
    torch.testing.assert_close(convex(bent), bent)


@pytest.mark.parametrize("directions", [{"dose": 1, "age": -1}, [1, -1, 0], np.array([1, -1, 0])], ids=type)
@pytest.mark.parametrize("hidden", [(), (3,)])
def test_a_regressor_takes_the_forms_of_scikit_learn(directions, hidden):
    x, y = table()
    settings = dict(hidden=hidden, grid_size=5, sparsity=0.0, smoothness=1e-4)
    estimator = KANRegressor(**settings, monotonic_cst=directions).fit(x, y)
    more = x + [[1.3, 0.0, 0.0]] * np.random.default_rng(0).uniform(size=(len(x), 1))
    assert (estimator.predict(more) >= estimator.predict(x) - ROUNDING).all()
    free = KANRegressor(**settings).fit(x, y)
    other = samples(4000, noise=0.0, seed=1)
    inputs, truth = type(x)(other[0].numpy(), columns=x.columns), other[1][:, 0].numpy()
    assert estimator.score(inputs, truth) > free.score(inputs, truth) - 1e-3


def test_a_regressor_is_convex_and_bounded_by_its_own_name_for_directions():
    x, y = table()
    shapes = {"curvature": [0, 0, 1]}
    estimator = KANRegressor(
        hidden=(), grid_size=5, sparsity=0.0, smoothness=1e-4, monotonic_cst={"dose": 1}, constraints=shapes
    ).fit(x, y)
    assert estimator.model_.constraints.monotone == (1, 0, 0) and estimator.model_.constraints.curvature == (0, 0, 1)
    with pytest.raises(ConfigError, match="Both monotonic_cst and constraints"):
        KANRegressor(monotonic_cst={"dose": 1}, constraints={"monotone": [1, 0, 0]}).fit(x, y)


def test_a_classifier_is_monotone_in_the_second_class():
    x, y = table()
    estimator = KANClassifier(
        hidden=(2,), grid_size=5, sparsity=0.0, smoothness=1e-3, monotonic_cst={"dose": 1, "age": -1}
    ).fit(x, np.where(y > 0, "yes", "no"))
    more = x + [[1.3, -0.4, 0.0]] * np.random.default_rng(0).uniform(size=(len(x), 1))
    assert (estimator.predict_proba(more)[:, 1] >= estimator.predict_proba(x)[:, 1] - ROUNDING).all()
    assert estimator.score(x, np.where(y > 0, "yes", "no")) > 0.8


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        ({"x": 1}, "'x', which is not a column. Choose from: dose, age, wave"),
        ([1], "must be 3 numbers"),
        (3, "must be 3 numbers"),
        (["up", 0, 0], "must be 3 numbers"),
    ],
)
def test_an_estimator_refuses_unknown_directions(directions, message):
    with pytest.raises(ConfigError, match=message):
        KANRegressor(monotonic_cst=directions).fit(*table())
    with pytest.raises(ConfigError, match="named columns"):
        KANRegressor(monotonic_cst={"dose": 1}).fit(table()[0].to_numpy(), table()[1])
    with pytest.raises(ConfigError, match="two classes"):
        KANClassifier(monotonic_cst=[1, 0, 0]).fit(table()[0], np.arange(300) % 3)


def test_sparsify_would_break_them():
    model = KAN([3, 1])
    model.fit(samples(100), steps=1, constraints=RISING, progress=False)
    with pytest.raises(ConfigError, match="sparsify makes edges formulas, and this network is held to constraints"):
        model.sparsify(samples(100))


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_an_interrupt_leaves_a_network_that_obeys(optimizer, monkeypatch):
    model = KAN([3, 1])
    step = {"lbfgs": torch.optim.LBFGS, "adam": torch.optim.Adam}[optimizer].step

    def interrupted(self, closure=None):
        step(self, closure)
        with torch.no_grad():
            model.layers[0].coefficients.neg_()
        raise KeyboardInterrupt

    monkeypatch.setattr({"lbfgs": torch.optim.LBFGS, "adam": torch.optim.Adam}[optimizer], "step", interrupted)
    with suppress(KeyboardInterrupt):
        model.fit(samples(100), steps=2, optimizer=optimizer, constraints=RISING, progress=False)
    assert model.constraints is not None and (slopes(model)[0] >= 0).all()
