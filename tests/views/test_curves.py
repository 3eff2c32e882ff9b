"""Pictures of a transformer's curves show those that were asked for, their bases and their inputs."""

import pytest
import torch
from tiny_models import make, randomize_curves

from kansformer import KANConfig, KANLinear, convert
from kansformer.errors import ConfigError
from kansformer.interp import edge_curves, record_edges
from kansformer.views import plot_curves

pytest.importorskip("matplotlib", reason="needs the extra plot: pip install 'kansformer[plot]'")


@pytest.fixture
def curves_and_records():
    model = randomize_curves(convert(make("llama"), KANConfig()), 1.0)
    with torch.no_grad(), record_edges(model) as records:
        model(torch.arange(24).reshape(2, 12))
    return edge_curves(model, "layers.0.mlp", "act", records=records, inputs=[0, 3, 5, 6, 7]), records


def test_every_channel_has_its_curve_its_base_and_its_inputs(curves_and_records, tmp_path):
    curves, records = curves_and_records
    figure = plot_curves(curves, records=records)
    drawn = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in drawn] == [f"channel {index}" for index in (0, 3, 5, 6, 7)]
    for index, axes in enumerate(drawn):
        base, whole = (torch.from_numpy(line.get_ydata()) for line in axes.lines)
        torch.testing.assert_close(whole, curves.y[index])
        torch.testing.assert_close(base, torch.nn.functional.silu(curves.x[index]).float())
    counts = [sum(bar.get_height() for bar in axes.patches) for axes in figure.axes if axes.patches]
    assert counts == [24] * 5
    figure.savefig(tmp_path / "curves.png")
    assert figure._repr_png_().startswith(b"\x89PNG"), "what a notebook shows"


def test_axes_have_titles_units_and_a_legend(curves_and_records):
    curves, records = curves_and_records
    figure = plot_curves(curves, records=records)
    assert figure.get_supxlabel() == "x, input of the edge (no unit)"
    assert figure.get_supylabel() == "φ(x), output of the edge (no unit)"
    assert figure.get_suptitle() == "layer 0's activation (layers.0.mlp)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["edge", "base", "inputs (relative number)"]
    without = plot_curves(curves)
    assert [text.get_text() for text in without.legends[0].get_texts()] == ["edge", "base"]


def test_edges_of_a_layer_are_named_by_both_ends():
    curves = edge_curves(torch.nn.Sequential(KANLinear(3, 2)), "", "0")
    titles = [axes.get_title() for axes in plot_curves(curves, columns=3).axes]
    assert titles == ["0 → 0", "0 → 1", "1 → 0", "1 → 1", "2 → 0", "2 → 1"]


def test_points_may_be_in_any_order():
    model, x = torch.nn.Sequential(KANLinear(1, 1)), torch.tensor([[0.5], [-0.5], [0.1]])
    with record_edges(model) as records:
        model(x)
    figure = plot_curves(edge_curves(model, "", "0", at=x.T), records=records)
    assert figure.axes[0].lines[0].get_xdata().tolist() == pytest.approx([-0.5, 0.1, 0.5])


def test_too_many_and_none_are_refused():
    model = torch.nn.Sequential(KANLinear(9, 9))
    with pytest.raises(ConfigError, match="holds 1 to 64 edges, got 81: choose inputs= and outputs=."):
        plot_curves(edge_curves(model, "", "0"))
    with pytest.raises(ConfigError, match="got 0"):
        plot_curves(edge_curves(model, "", "0", inputs=[]))
    with pytest.raises(ConfigError, match="columns must be at least 1, got 0"):
        plot_curves(edge_curves(model, "", "0", inputs=[1]), columns=0)
