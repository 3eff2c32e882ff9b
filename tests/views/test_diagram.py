"""Diagrams show every edge that is there, its curve and its name, and write nothing."""

import pytest
import torch

from kansformer.errors import ConfigError, SlotError
from kansformer.kan import KAN, Edge, create_dataset

pytest.importorskip("matplotlib", reason="needs the extra plot: pip install 'kansformer[plot]'")


@pytest.fixture(scope="module")
def data():
    return create_dataset(lambda x: torch.sin(2 * x[:, :1]) * x[:, 1:2], 2, num_train=200, num_test=50)


@pytest.fixture(scope="module")
def model(data):
    model = KAN([2, [3, 1], 1], seed=0)
    model.fit(data, steps=10, sparsity=1e-3, progress=False)
    model.fix_symbol(Edge(0, 0, 0), "sin", data.train_input)
    return model


def test_every_edge_has_a_curve(model, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figure = model.plot(data, variables=["mass", "speed"], outputs=["energy"])
    assert len(figure.axes[0].child_axes) == len(list(model.edges())) == 14
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert texts == {"mass", "speed", "energy", "sin"}
    assert not list(tmp_path.iterdir())
    figure.savefig(tmp_path / "kan.png")
    assert (tmp_path / "kan.png").stat().st_size > 5000


def test_the_drawn_curves_are_the_edges(data):
    model = KAN([2, 2, 1], seed=0)
    figure = model.plot_edge(Edge(0, 1, 0), data.train_input)
    line = figure.axes[0].lines[0]
    x = torch.zeros(100, 2, dtype=torch.float64)
    x[:, 1] = torch.as_tensor(line.get_xdata())
    base = model.sums(0, torch.zeros(1, 2, dtype=torch.float64))[0, 0] - model.layers[0].bias[0]
    alone = model.sums(0, x)[:, 0] - model.layers[0].bias[0]
    differences = torch.as_tensor(line.get_ydata()) - alone.detach()
    assert differences.std() < 1e-9 and base.isfinite()  # the other input adds a constant


def test_without_data_the_grids_say_the_range():
    axes = KAN([2, 1], domain=(0.0, 4.0)).plot().axes[0].child_axes[0]
    low, high = axes.lines[0].get_xdata()[[0, -1]]
    assert 0 <= low < 0.1 and 3.9 < high <= 4


def test_pruned_edges_are_not_drawn(data):
    model = KAN([2, 4, 1], seed=0)
    model.prune(data.train_input, threshold=0.2)
    assert len(model.plot(data.train_input).axes[0].child_axes) == len(list(model.edges())) < 12


def test_the_history_is_drawn(data):
    history = KAN([2, 2, 1]).fit(data, steps=3, progress=False)
    assert [line.get_label() for line in history.plot().axes[0].lines] == ["train", "test"]


def test_bad_input(model, data):
    with pytest.raises(ConfigError, match=r"has 2 inputs, and 1 names were given: \['a'\]"):
        model.plot(data.train_input, variables=["a"])
    with pytest.raises(SlotError, match="is not there, or was pruned"):
        model.plot_edge(Edge(0, 9, 0), data)
