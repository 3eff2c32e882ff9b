"""Samples of every kind that people have are taken, and others are an error that names the place."""

import math

import numpy as np
import pandas
import pytest
import torch

from kansformer.errors import ConfigError, DataError, ShapeError
from kansformer.kan import KAN, Dataset, create_dataset

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def data():
    return create_dataset(lambda x: torch.sin(2 * x[:, :1]) * x[:, 1:2], 2, num_train=300, num_test=100)


BAD = {
    "dates": (
        lambda d: (pandas.DataFrame({"a": pandas.date_range("2020", periods=300), "b": 1.0}), d.train_target),
        DataError,
        "The inputs must be numbers, got 2020-01-01",
    ),
    "dates alone": (
        lambda d: (pandas.DataFrame({c: pandas.date_range("2020", periods=300) for c in "ab"}), d.train_target),
        DataError,
        "The inputs are dates or times. Give numbers, such as days",
    ),
    "a NaN": (
        lambda d: (d.train_input.index_fill(0, torch.tensor(7), math.nan), d.train_target),
        DataError,
        "The train inputs are not finite in row 7, column 0: nan",
    ),
    "wrong width": (lambda d: (d.train_input[:, :1], d.train_target), ShapeError, "has 2 inputs and 1 outputs"),
    "no samples": (lambda d: (d.train_input[:0], d.train_target[:0]), DataError, "no samples to train on"),
    "other lengths": (lambda d: (d.train_input[:3], d.train_target), ShapeError, "with the same number of rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_samples_are_an_error(case, data):
    make, error, match = BAD[case]
    with pytest.raises(error, match=match):
        KAN([2, 2, 1]).fit(make(data), **QUIET)


def test_one_target_needs_no_column(data):
    expected = KAN([2, 2, 1]).fit((data.train_input, data.train_target), steps=3, **QUIET).train_error
    table = pandas.DataFrame(data.train_input.numpy(), columns=["a", "b"])
    for target in (data.train_target[:, 0], pandas.Series(data.train_target[:, 0])):
        assert KAN([2, 2, 1]).fit((table, target), steps=3, **QUIET).train_error == expected
    errors = []
    for target in (data.train_target, data.train_target[:, 0]):
        batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data.train_input, target), batch_size=100)
        errors.append(KAN([2, 2, 1]).fit(batches, optimizer="adam", steps=3, **QUIET).train_error)
    assert errors[0] == errors[1]
    with pytest.raises(ShapeError, match=r"has 2 inputs and 3 outputs, .* Labels of classes are columns of .*one_hot"):
        KAN([2, 3]).fit((table, torch.arange(300) % 3), loss="cross_entropy", optimizer="adam", **QUIET)


def test_a_tensor_dataset_is_its_tensors(data):
    pair = (data.train_input, data.train_target)
    expected = KAN([2, 2, 1]).fit(pair, steps=3, **QUIET).train_error
    assert KAN([2, 2, 1]).fit(torch.utils.data.TensorDataset(*pair), steps=3, **QUIET).train_error == expected


def test_odd_samples_are_fitted():
    """A single row, and a column that never varies."""
    one = (torch.tensor([[0.5, 0.5]], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64))
    assert KAN([2, 2, 1]).fit(one, steps=10, **QUIET).train_error[-1] < 1e-2
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 1] = 3.0
    assert KAN([2, 2, 1]).fit((x, torch.sin(x[:, :1])), steps=20, **QUIET).train_error[-1] < 1e-2


def test_batches_of_any_iterable_are_used(data):
    x, y = data.train_input[:100], data.train_target[:100]
    batches = list(zip(x.split(25), y.split(25), strict=True))
    errors = []
    for given in (batches, iter(batches), [(a.numpy(), b.numpy()) for a, b in batches]):
        errors.append(KAN([2, 2, 1], seed=1).fit(given, optimizer="adam", steps=5, **QUIET).train_error)
    assert errors[0] == errors[1] == errors[2] and errors[0][-1] < errors[0][0]
    once = KAN([2, 2, 1], seed=1).fit((x.numpy(), y.numpy()), optimizer="adam", steps=5, **QUIET).train_error
    assert once != errors[0]  # five steps instead of twenty
    with pytest.raises(DataError, match="no samples to train on"):
        KAN([2, 2, 1]).fit([], optimizer="adam", **QUIET)


@pytest.mark.parametrize(("optimizer", "loader"), [("lm", False), ("lbfgs", False), ("adam", False), ("adam", True)])
def test_samples_keep_their_graph_and_get_no_gradients(optimizer, loader):
    x = torch.linspace(-1, 1, 40, dtype=torch.float64).unsqueeze(-1).requires_grad_()
    y = x.square()
    KAN([1, 2, 1]).fit([(x, y)] if loader else (x, y), steps=3, optimizer=optimizer, **QUIET)
    assert x.grad is None
    y.sum().backward()
    assert torch.equal(x.grad, 2 * x)


def test_inference_mode_is_refused_where_gradients_are_needed(data):
    with torch.inference_mode():
        KAN([2, 1]).fit(data, steps=1, **QUIET)
        with pytest.raises(ConfigError, match="lbfgs needs gradients, and torch.inference_mode"):
            KAN([2, 1]).fit(data, steps=1, optimizer="lbfgs", **QUIET)


def test_samples_of_other_kinds(data):
    import pandas

    x, y = data.train_input, data.train_target
    expected = KAN([2, 1], seed=1)
    expected.fit((x, y), steps=3, **QUIET)
    for given in (
        (pandas.DataFrame(x.numpy(), columns=["a", "b"]), pandas.DataFrame(y.numpy())),
        {"train_input": x, "train_label": y, "test_input": x[:9], "test_label": y[:9]},
        {"train_input": x.numpy(), "train_label": y},
        Dataset(x.numpy(), pandas.DataFrame(y.numpy()), x[:0].numpy(), y[:0]),
    ):
        model = KAN([2, 1], seed=1)
        history = model.fit(given, steps=3, **QUIET)
        assert torch.equal(model.predict(x), expected.predict(x))
        assert math.isnan(history.test_error[-1]) == (not isinstance(given, dict) or "test_input" not in given)
    texts = np.array(["a", "b"] * 150)
    before = {name: tensor.clone() for name, tensor in expected.state_dict().items()}
    for given, error, match in (
        (
            (x, texts[:, None]),
            DataError,
            r"targets must be numbers, got a at \[0, 0\]. Labels of classes",
        ),
        ((x, texts), DataError, r"got a at \[0\]"),
        ((pandas.DataFrame({"a": texts, "b": 1.0}), y), DataError, r"inputs must be numbers, got a at \[0, 0\]"),
        ((x, ["a", "b"] * 150), DataError, "Samples are a Dataset, a pair .* got Tensor in place of a pair"),
        ({"x": x, "y": y}, DataError, r"keys, train_input, train_label, .* got \['x', 'y'\]"),
    ):
        with pytest.raises(error, match=match):
            expected.fit(given, **QUIET)
    with pytest.raises(ConfigError, match="callback must be a function of step, network and history, got 3"):
        expected.fit(data, callback=3, **QUIET)
    with pytest.raises(ConfigError, match="bias must be True or False, got 'no'"):
        KAN([2, 1], bias="no")
    assert all(torch.equal(tensor, before[name]) for name, tensor in expected.state_dict().items())


@pytest.mark.parametrize("make", [lambda x: x[::-1], np.fliplr, lambda x: x.astype(">f8"), np.longdouble])
def test_any_array_of_numbers_is_taken(make):
    x = np.random.default_rng(0).random((30, 2))
    KAN([2, 1]).fit((make(x), make(x)[:, :1]), steps=1, **QUIET)
    with pytest.raises(DataError, match="The inputs must be real numbers, got complex128"):
        KAN([2, 1]).fit((x.astype(complex), x[:, :1]), steps=1, **QUIET)


def test_a_data_frame_is_a_table_of_inputs():
    x = pandas.DataFrame(np.random.default_rng(0).random((30, 2)), columns=["x1", "x2"])
    model = KAN([2, 1])
    assert model.prune(x).width == model.prune(x.to_numpy()).width
