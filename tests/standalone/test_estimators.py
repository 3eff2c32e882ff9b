"""The estimators keep scikit-learn's contract, live in its pipelines and searches, and say what is wrong."""

import pickle
import warnings

import numpy as np
import pandas
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, make_friedman1, make_moons
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from kansformer.errors import ConfigError, DataError
from kansformer.kan import KAN, FitHistory, KANClassifier, KANRegressor
from kansformer.kan.selection import make_folds

BOTH = [KANRegressor, KANClassifier]
# Nothing to choose: quick.
PLAIN = {"smoothness": 1e-3, "sparsity": 0.0}
FIXED = {"hidden": (2,), "grid_size": 3, **PLAIN}


@parametrize_with_checks([estimator(**FIXED) for estimator in BOTH])
def test_scikit_learn_has_no_objection(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def waves():
    x = np.random.RandomState(0).uniform(-3, 5, size=(200, 2))
    return x, 100 + 20 * np.sin(x[:, 0]) * x[:, 1]


@pytest.fixture(scope="module")
def moons():
    return make_moons(150, noise=0.2, random_state=0)


def samples_for(estimator, waves, moons):
    return waves if estimator is KANRegressor else moons


def test_a_smooth_function_is_learned_to_a_permille(waves):
    model = KANRegressor((5,), steps=50, smoothness=0.0, sparsity=0.0, grid_size=5).fit(*waves)
    assert model.score(*waves) > 0.999
    assert isinstance(model.model_, KAN) and isinstance(model.history_, FitHistory)
    assert model.model_.width == [(2, 0), (5, 0), (1, 0)] and model.history_.train_error[-1] < 0.03
    network_sees = (waves[0] - model.input_center_) / model.input_reach_
    assert network_sees.min() == -1 and network_sees.max() == 1
    outputs = model.model_.predict(network_sees).numpy() * model.target_deviation_ + model.target_mean_
    np.testing.assert_allclose(model.predict(waves[0]), outputs[:, 0])


@pytest.mark.parametrize(
    ("estimator", "samples", "least"),
    [
        (KANRegressor((2,), grid_size=5), make_friedman1(200, random_state=0), 0.6),
        (KANRegressor(), load_diabetes(return_X_y=True), 0.2),
        (KANClassifier(hidden=()), load_iris(return_X_y=True), 0.92),
        (KANClassifier(**FIXED), load_breast_cancer(return_X_y=True), 0.95),
    ],
    ids=["friedman1", "diabetes", "iris", "breast_cancer"],
)
def test_the_defaults_generalise(estimator, samples, least):
    x, y = samples
    assert estimator.fit(x[::2], y[::2]).score(x[1::2], y[1::2]) > least


def test_every_setting_reaches_the_network(waves):
    model = KANRegressor(
        hidden=([2, 1], 3), grid_size=4, order=2, basis="chebyshev", sparsity=1e-3, smoothness=1e-3
    ).fit(*waves)
    basis = model.model_.layers[0].curves.basis
    assert model.model_.width == [(2, 0), (2, 1), (3, 0), (1, 0)]
    assert (basis.name, basis.grid_size, basis.order) == ("chebyshev", 4, 2)
    assert len(KANRegressor(**FIXED | {"hidden": ()}, steps=3).fit(*waves).history_) == 3
    assert len(KANRegressor(**FIXED, optimizer="adam", steps=7).fit(*waves).history_) == 7


def test_whole_numbers_of_numpy_are_whole_numbers(waves):
    drawn = KANRegressor(hidden=np.array([4]), grid_size=np.int64(4), order=np.int32(2), steps=np.int64(2), **PLAIN)
    plain = KANRegressor(hidden=(4,), grid_size=4, order=2, steps=2, **PLAIN)
    assert np.array_equal(drawn.fit(*waves).predict(waves[0]), plain.fit(*waves).predict(waves[0]))


def test_several_targets_keep_their_columns(waves):
    x, y = waves
    both = (
        KANRegressor((5,), grid_size=5, steps=10, smoothness=0.0, sparsity=0.0)
        .fit(x, np.stack([y, -3 * y], axis=1))
        .predict(x)
    )
    assert both.shape == (200, 2)
    np.testing.assert_allclose(both[:, 1], -3 * both[:, 0], atol=5)
    assert KANRegressor(**FIXED).fit(x, y[:, None]).predict(x).shape == (200, 1)
    assert KANRegressor(**FIXED).fit(x, y).predict(x[:1]).shape == (1,)


@pytest.mark.parametrize("estimator", BOTH)
def test_pipelines_and_searches(estimator, waves, moons):
    x, y = samples_for(estimator, waves, moons)
    pipeline = make_pipeline(StandardScaler(), estimator(steps=5, **FIXED | {"hidden": (5,)}))
    name = estimator.__name__.lower()
    search = GridSearchCV(pipeline, {f"{name}__grid_size": [2, 4]}, cv=2).fit(x, y)
    assert search.best_params_[f"{name}__grid_size"] in (2, 4)
    assert search.score(x, y) > 0.7


def test_probabilities_sum_to_one(moons):
    x, y = moons
    labels = np.array(["waning", "waxing"])[y]
    model = KANClassifier(**FIXED).fit(x, labels)
    probabilities = model.predict_proba(10 * x)
    assert model.classes_.tolist() == ["waning", "waxing"] and probabilities.shape == (150, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert np.array_equal(model.predict(10 * x), model.classes_[probabilities.argmax(axis=1)])
    assert model.score(x, labels) > 0.9


@pytest.mark.parametrize("estimator", BOTH)
def test_tables_give_their_columns_names(estimator, waves, moons):
    x, y = samples_for(estimator, waves, moons)
    table = pandas.DataFrame(x, columns=["east", "north"])
    model = estimator(**FIXED).fit(table, y)
    assert model.feature_names_in_.tolist() == ["east", "north"] and model.n_features_in_ == 2
    assert np.array_equal(model.predict(table), estimator(**FIXED).fit(x, y).predict(x))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(table[["north", "east"]])


@pytest.mark.parametrize("estimator", BOTH)
def test_copies_and_seeds(estimator, waves, moons):
    x, y = (part[:60] for part in samples_for(estimator, waves, moons))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    model = estimator(**FIXED, random_state=3).fit(x, y)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)

    def outputs(fitted):
        return fitted.predict(x) if estimator is KANRegressor else fitted.predict_proba(x)

    expected = outputs(model)
    assert np.array_equal(outputs(pickle.loads(pickle.dumps(model))), expected)  # noqa: S301 - our own bytes
    assert np.array_equal(outputs(clone(model).fit(x, y)), expected)
    assert np.array_equal(outputs(estimator(**FIXED).fit(x, y)), outputs(estimator(**FIXED, random_state=0).fit(x, y)))
    assert not np.array_equal(outputs(estimator(**FIXED, random_state=4).fit(x, y)), expected)
    drawn = [outputs(estimator(**FIXED, random_state=np.random.RandomState(seed)).fit(x, y)) for seed in (5, 5, 6)]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


def test_columns_that_never_vary_but_by_rounding_count_for_nothing(waves):
    x, y = waves
    rounded = np.where(np.arange(200) % 2, 0.3, 0.1 + 0.2)
    for column in (np.full(200, 0.1), rounded):
        model = KANRegressor(**FIXED).fit(np.insert(x, 1, column, axis=1), np.stack([y, column], axis=1))
        assert model.input_reach_[1] == np.inf and model.target_deviation_[1] == 0
        predicted = model.predict(np.insert(x, 1, 1e6, axis=1))
        assert np.array_equal(predicted, model.predict(np.insert(x, 1, column, axis=1)))
        np.testing.assert_allclose(predicted[:, 1], column, rtol=1e-12)
    tiny = KANRegressor(**FIXED).fit(x, 1e-162 * y)  # whose squares are 0
    np.testing.assert_allclose(
        1e162 * tiny.predict(x), KANRegressor(**FIXED).fit(x, y).predict(x), rtol=1e-5, atol=1e-6
    )
    far = KANRegressor(**FIXED).fit(np.where(x > 1, 1e300, -1e300), y)
    assert np.isfinite(far.predict(x)).all()


def test_beyond_its_range_an_input_counts_as_the_nearest_in_it(waves):
    model = KANRegressor(**FIXED).fit(*waves)
    lowest, highest = waves[0].min(axis=0), waves[0].max(axis=0)
    np.testing.assert_allclose(model.predict([lowest - 7, highest + 1e9]), model.predict([lowest, highest]))


@pytest.mark.parametrize("estimator", BOTH)
def test_bad_samples_are_an_error(estimator, waves, moons):
    x, y = samples_for(estimator, waves, moons)
    hole = x.copy()
    hole[3, 1] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        estimator().fit(hole, y)
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array instead"):
        estimator().fit(x[:, 0], y)
    with pytest.raises(ValueError, match=f"1 sample.* while a minimum of 2 is required by {estimator.__name__}"):
        estimator().fit(x[:1], y[:1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        estimator().fit(x, y[:-1])
    model = estimator(**FIXED).fit(x, y)
    with pytest.raises(ValueError, match=f"X has 1 features, but {estimator.__name__} is expecting 2 features"):
        model.predict(x[:, :1])
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model.predict(hole)


def test_a_single_class_is_an_error(moons):
    with pytest.raises(DataError, match="All samples are of one class, 'x'. There must be two or more"):
        KANClassifier().fit(moons[0], np.full(150, "x"))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"optimizer": "sgd"}, "Unknown optimizer 'sgd'. Choose one of: lm, lbfgs, adam"),
        ({"hidden": 5}, r"hidden must be 'auto' or a sequence of widths such as \(5,\), got 5"),
        ({"hidden": (0,)}, "A width must be a number of nodes or a pair"),
        ({"hidden": ("5",)}, "A width must be a number of nodes or a pair"),
        ({"basis": "splines"}, "Unknown basis 'splines'. Choose one of: bspline"),
        ({"grid_size": 2.5}, "grid_size must be a whole number from 1 to 10000, got 2.5"),
        ({"steps": -1}, "steps must be a whole number of at least 0, got -1"),
        ({"sparsity": -1.0}, "sparsity must be a finite number of at least 0, got -1.0"),
    ],
)
@pytest.mark.parametrize("estimator", BOTH)
def test_bad_settings_are_an_error(estimator, settings, match, waves, moons):
    with pytest.raises(ConfigError, match=match):
        estimator(**settings).fit(*samples_for(estimator, waves, moons))


def test_classes_are_not_fitted_by_least_squares(moons):
    with pytest.raises(ConfigError, match="'cross_entropy' cannot be fitted by 'lm'. Choose .* by adam or lbfgs"):
        KANClassifier(optimizer="lm").fit(*moons)


@pytest.mark.parametrize("estimator", BOTH)
def test_a_fit_that_fails_changes_nothing(estimator, waves, moons):
    x, y = samples_for(estimator, waves, moons)
    model = estimator(steps=3, **FIXED).fit(x, y)
    before = model.predict(x)
    model.set_params(steps=-1)
    with pytest.raises(ConfigError):
        model.fit(1000 * x + 5, y)
    with pytest.raises(ConfigError):
        model.fit(pandas.DataFrame(np.hstack([x, x]), columns=list("abcdefgh")[: 2 * x.shape[1]]), y)
    np.testing.assert_array_equal(model.predict(x), before)
    assert model.n_features_in_ == x.shape[1] and not hasattr(model, "feature_names_in_")


@pytest.mark.parametrize("estimator", BOTH)
def test_what_is_chosen_is_visible_and_the_same_when_given(estimator):
    x = np.random.RandomState(1).uniform(-1, 1, size=(60, 2))
    y = x[:, 0] if estimator is KANRegressor else (x[:, 0] > 0.2).astype(int)
    model = estimator(hidden=(), grid_size=4).fit(x, y)
    assert (model.hidden_, model.grid_size_) == ((), 4) and model.smoothness_ >= 1e-3
    same = estimator(hidden=model.hidden_, grid_size=4, smoothness=model.smoothness_, sparsity=model.sparsity_)
    if not model.sparsity_:
        np.testing.assert_array_equal(same.fit(x, y).predict(x), model.predict(x))
    np.testing.assert_array_equal(clone(model).fit(x, y).predict(x), model.predict(x))


@pytest.mark.parametrize(
    "given", [dict(hidden=(2,), smoothness=0.03), dict(hidden=(2,), smoothness=0.03, sparsity=0.0)]
)
def test_what_is_given_is_not_chosen_and_the_rest_is(given, waves):
    model = KANRegressor(steps=2, **given).fit(*waves)
    assert all(getattr(model, f"{name}_") == value for name, value in given.items())


def test_few_and_noisy_rows_get_a_smooth_and_small_network():
    random = np.random.RandomState(0)
    x = random.uniform(-1, 1, size=(50, 3))
    noisy = KANRegressor().fit(x, x[:, 0] + random.randn(50))
    assert noisy.hidden_ == () and noisy.smoothness_ >= 0.1
    few = KANRegressor().fit(x[:4], x[:4, 0])
    assert (few.hidden_, few.smoothness_) == ((), 1.0)
    curved = KANRegressor(hidden=()).fit(x, np.sin(4 * x[:, 0]))
    assert curved.smoothness_ < 1e-2 and curved.score(x, np.sin(4 * x[:, 0])) > 0.99


def test_products_take_hidden_nodes():
    x = np.random.RandomState(0).uniform(-1, 1, size=(80, 2))
    model = KANRegressor(grid_size=3).fit(x, x[:, 0] * x[:, 1])
    assert model.hidden_ != () and model.score(x, x[:, 0] * x[:, 1]) > 0.99


def test_equal_rows_are_in_the_same_fold():
    x, y = torch.rand(30, 2).repeat(3, 1), torch.arange(30.0).repeat(3)[:, None]
    folds = make_folds(x, y, seed=0)
    assert sum(len(fold.test_input) for fold in folds) == 90
    for fold in folds:
        assert not set(fold.train_target[:, 0].tolist()) & set(fold.test_target[:, 0].tolist())


def test_more_columns_than_rows_and_as_many_classes_as_rows():
    x = np.random.RandomState(0).randn(12, 14)
    assert np.isfinite(KANRegressor().fit(x, x[:, 0]).predict(x)).all()
    labels = np.array([f"kind {i}" for i in range(12)])
    model = KANClassifier(hidden=(), grid_size=3, steps=2).fit(x, labels)
    np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1)


def test_a_typing_error_is_a_warning():
    generator = np.random.default_rng(0)
    table = pandas.DataFrame(generator.normal(size=(300, 2)), columns=["a", "b"])
    y = table["a"] + table["b"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KANRegressor(hidden=(), grid_size=5, smoothness=0.0).fit(table, y)
    table.loc[0, "b"] = 9999.0
    with pytest.warns(UserWarning, match="All but a few values of column 'b' lie in 0.000.* of its range"):
        KANRegressor(hidden=(), grid_size=5, smoothness=0.0).fit(table, y)


def test_a_curvature_chooses_among_networks_that_can_be_held_to_it():
    x = np.random.default_rng(0).normal(size=(100, 2))
    model = KANRegressor(constraints={"curvature": [1, 0]}).fit(x, np.sin(2 * x[:, 0]) * x[:, 1])
    assert model.hidden_ == ()
