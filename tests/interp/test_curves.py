"""Sampled edges: which ones, on which range, and the same in SciPy and pandas."""

import numpy
import pytest
import torch
from interp_models import CONFIGS

from kansformer import KANConfig
from kansformer.conversion import find_curve_slots
from kansformer.errors import ConfigError, ShapeError, SlotError
from kansformer.interp import EdgeRef, edge_curves, record_edges
from kansformer.interp.curves import pair_curves

SITE = "model.layers.1.mlp"


def test_some_edges_are_the_same_as_in_all(make_bent):
    model = make_bent("llama", CONFIGS["full"])
    every = edge_curves(model, SITE, "up")
    some = edge_curves(model, SITE, "up", inputs=[11, 3], outputs=slice(4, 6))
    assert [str(ref) for ref in some.refs] == [f"{SITE}/up[{i}->{o}]" for i in (11, 3) for o in (4, 5)]
    indices = [every.refs.index(ref) for ref in some.refs]
    for name in ("x", "y", "learned"):
        torch.testing.assert_close(getattr(some, name), getattr(every, name)[indices])
    assert len(every) == 16 * 24


@pytest.mark.parametrize("settings", CONFIGS)
def test_single_edges_are_those_of_the_layer(settings, make_bent):
    for place in find_curve_slots(make_bent("llama", CONFIGS[settings])):
        every = edge_curves(make_bent("llama", CONFIGS[settings]), place.site, place.name)
        chosen = torch.tensor([len(every) - 1, 0, len(every) // 3])
        some = pair_curves(place, every.inputs[chosen], every.outputs[chosen], at=every.x[chosen])
        assert some.refs == [every.refs[index] for index in chosen]
        for name in ("x", "y", "learned"):
            torch.testing.assert_close(getattr(some, name), getattr(every, name)[chosen])


def test_ranges_are_the_recorded_ones(make_bent, batch):
    model = make_bent()
    assert edge_curves(model, SITE, "act").x[:, [0, -1]].unique().tolist() == [-4.0, 4.0]
    with record_edges(model) as records, torch.no_grad():
        model(**batch)
    curves = edge_curves(model, SITE, "act", records=records, points=9)
    recorded = records[SITE, "act"]
    width = (recorded.upper - recorded.lower).clamp(min=0.08)  # 1 % of the domain, at least
    torch.testing.assert_close(curves.x[:, -1] - curves.x[:, 0], width.double())
    assert curves.refs[5] == EdgeRef(SITE, "act", 5, 5)
    torch.testing.assert_close(curves.y - curves.learned, torch.nn.functional.silu(curves.x.float()))


@pytest.mark.parametrize("settings", ["act", "full", "low rank"])
def test_scipy_has_the_same_curve(settings, make_bent):
    slot = "act" if settings == "act" else "up"
    curves = edge_curves(make_bent("llama", CONFIGS[settings]), SITE, slot)
    for index in (0, len(curves) // 2, len(curves) - 1):
        spline = curves.to_scipy(index)
        numpy.testing.assert_allclose(spline(curves.x[index]), curves.learned[index], rtol=1e-4, atol=1e-6)


def test_pandas_has_a_row_per_point(make_bent):
    table = edge_curves(make_bent(), SITE, "act", inputs=[7], points=3).to_pandas()
    assert table[["site", "slot", "input", "output", "x"]].values.tolist() == [
        [SITE, "act", 7, 7, x] for x in (-4.0, 0.0, 4.0)
    ]


def test_a_mask_chooses_channels(make_bent):
    model = make_bent()
    curves = edge_curves(model, "model.layers.0.mlp", "act", inputs=torch.arange(24) > 20)
    assert curves.inputs.tolist() == [21, 22, 23]
    with pytest.raises(ShapeError, match=r"A mask of the inputs of model.layers.0.mlp/act must be \(24,\), got \(3,\)"):
        edge_curves(model, "model.layers.0.mlp", "act", inputs=[True, False, True])


def test_bad_input(make_bent):
    model = make_bent("llama", CONFIGS["full"])
    with pytest.raises(SlotError, match=r"No site with curves is at 'mlp'. Choose from: 'model.layers.1.mlp'"):
        edge_curves(model, "mlp", "up")
    with pytest.raises(SlotError, match=r"has no curves in 'gate'. Choose from: up, down, act"):
        edge_curves(model, SITE, "gate")
    with pytest.raises(SlotError, match="up has no input 16: choose from 0 to 15"):
        edge_curves(model, SITE, "up", inputs=[16])
    with pytest.raises(SlotError, match="up has no output -1: choose from 0 to 23"):
        edge_curves(model, SITE, "up", outputs=[-1])
    with pytest.raises(ConfigError, match="2 points or more, got 1"):
        edge_curves(model, SITE, "up", points=1)
    with pytest.raises(ConfigError, match="Only B-splines become a SciPy BSpline"):
        edge_curves(make_bent("llama", KANConfig(basis="fourier")), SITE, "act").to_scipy(0)
