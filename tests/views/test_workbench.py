"""The state of the web demo: curves are bent and come back to the bit, and what is shown of them is true."""

import pytest
import torch
import transformers
from interp_models import CONFIGS
from tiny_models import randomize_curves, snapshot, tiny_config

from kansformer import KANConfig, convert
from kansformer.errors import ConfigError, DataError, ShapeError, SlotError
from kansformer.interp import EdgeRef, edge_scores
from kansformer.views.workbench import HANDLES, Workbench, _natural_spline

PROMPT = torch.tensor([3, 1, 4])


def make_bench(config=None):
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(tiny_config(vocab_size=50, initializer_range=0.3)).eval()
    randomize_curves(convert(model, config or KANConfig()), 0.3)
    return Workbench(model, torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(0)))


def best_edge(bench):
    slot = bench.slots[0]
    return bench.ranked_curves(slot.site, slot.name)[0].edge


def same_bits(model, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("settings", [name for name in CONFIGS if name != "low rank"])
def test_a_bend_changes_what_the_model_says_and_comes_back(settings):
    bench = make_bench(CONFIGS[settings])
    before, tokens = snapshot(bench.model), bench.next_tokens(PROMPT)
    for slot in bench.slots:
        edge = bench.ranked_curves(slot.site, slot.name)[0].edge
        values = [value + 0.5 * (-1) ** index for index, value in enumerate(bench.view(edge).values)]
        bench.bend(edge, values)
    assert len(bench.steps) == len(bench.slots) and not same_bits(bench.model, before)
    loaded, now = bench.losses()
    assert now != loaded
    rows = {row.token: row for row in bench.next_tokens(PROMPT)}
    assert all(rows[row.token].before == row.after for row in tokens)
    assert any(row.after != row.before for row in rows.values())
    while bench.steps:
        bench.undo()
    assert same_bits(bench.model, before) and bench.losses() == (loaded, loaded)
    assert bench.next_tokens(PROMPT) == tokens
    bench.undo()  # of nothing


def test_a_bent_curve_goes_through_its_handles():
    bench = make_bench()
    edge = best_edge(bench)
    values = [0.5, -1.0, 2.0, 0.0, 1.5, -0.5]
    bench.bend(edge, values)
    view = bench.view(edge)
    assert view.values == pytest.approx(values, abs=1e-4)
    assert bench.steps[-1].edit.error < 1e-5
    assert not torch.equal(view.y, view.loaded) and not torch.equal(view.loaded, view.base)
    assert (view.x[0], view.x[-1]) == (view.handles[0], view.handles[-1]) == (-4, 4)


def test_the_spline_between_handles_is_natural():
    handles, values = torch.linspace(-1, 4, 6, dtype=torch.float64), torch.tensor([1, -1, 2, 0, 0, 3.0]).double()
    x = torch.linspace(-1, 4, 501, dtype=torch.float64)
    y = _natural_spline(x, handles, values)
    assert torch.equal(y[::100], values)
    bends = y.diff(n=2) / 0.01**2
    assert bends[[0, -1]].abs().max() < 0.3 and bends.diff().abs().max() < 0.3 < bends.abs().max()


def test_bends_of_one_curve_are_one_step_and_the_way_back_is_exact():
    bench = make_bench()
    edge, before = best_edge(bench), snapshot(bench.model)
    start = [round(value, 3) for value in bench.view(edge).values]  # as of sliders
    for move in (0.2, 0.7, 1.1):
        bench.bend(edge, [start[0], start[1] + move, *start[2:]])
        assert len(bench.steps) == 1
    assert bench.view(edge).values[1] == pytest.approx(start[1] + 1.1, abs=1e-3)
    bench.bend(edge, start)
    assert not bench.steps and same_bits(bench.model, before)
    bench.write_formula(edge, "sin", 1, 0, 1, 0)
    bench.bend(edge, [0.0] * HANDLES)
    assert [step.words for step in bench.steps] == ["1·sin(1·x + 0) + 0", "bent by hand"]
    bench.undo_all()
    assert not bench.steps and same_bits(bench.model, before)


def test_a_formula_becomes_the_curve():
    bench = make_bench()
    edge = best_edge(bench)
    bench.write_formula(edge, "x^2", 0.5, 0.25, 2.0, -1.0)
    view = bench.view(edge)
    error = (view.y - (2 * (0.5 * view.x + 0.25) ** 2 - 1)).abs().max()
    assert error < 0.05 and bench.steps[-1].words == "2·x^2(0.5·x + 0.25) - 1"
    a, b, c, d = bench.closest_formula(edge, "x^2")
    assert (c * (a * view.x + b) ** 2 + d - view.y).abs().max() < 0.1


def test_refused_edits_leave_the_model():
    bench = make_bench()
    edge = best_edge(bench)
    bench.bend(edge, [1.0] * HANDLES)
    before, steps = snapshot(bench.model), list(bench.steps)
    with pytest.raises(DataError, match="no finite value everywhere from -4 to 4"):
        bench.write_formula(edge, "log", 1, 0, 1, 0)
    with pytest.raises(ConfigError, match="No function is named 'sine'"):
        bench.write_formula(edge, "sine", 1, 0, 1, 0)
    with pytest.raises(DataError, match=r"too large for the curve of .*: its coefficients overflow torch.float32"):
        bench.bend(edge, [1e39] * HANDLES)
    with pytest.raises(DataError, match="must be finite, got"):
        bench.bend(edge, [float("nan")] * HANDLES)
    with pytest.raises(ShapeError, match="has 6 handles, got 2 values"):
        bench.bend(edge, [1.0, 2.0])
    with pytest.raises(SlotError, match="No site with curves is at 'nowhere'"):
        bench.bend(EdgeRef("nowhere", "act", 0, 0), [1.0] * HANDLES)
    with pytest.raises(DataError, match="The prompt is empty"):
        bench.next_tokens(PROMPT[:0])
    with pytest.raises(DataError, match="Blocks must have the shape"):
        bench.read_text(PROMPT[None, :1])
    assert same_bits(bench.model, before) and bench.steps == steps
    low_rank = make_bench(CONFIGS["low rank"])
    with pytest.raises(ConfigError, match="low_rank edges"):
        low_rank.bend(best_edge(low_rank), [1.0] * HANDLES)


@pytest.mark.parametrize("settings", CONFIGS)
def test_curves_are_ranked_by_their_weight_on_the_loss(settings):
    bench = make_bench(CONFIGS[settings])
    tokens = torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(0))
    scores = edge_scores(bench.model, {"input_ids": tokens, "labels": tokens})
    for slot in bench.slots:
        curves = bench.ranked_curves(slot.site, slot.name)
        ranked = [curve.score for curve in curves]
        assert ranked == sorted(ranked, reverse=True) and len(curves) == min(100, len({c.edge for c in curves}))
        best, score_IO = curves[0], scores[slot.site, slot.name].attribution
        if not slot.module.curves.is_per_channel:
            assert best.score == pytest.approx(score_IO.max().item(), rel=1e-6)
            assert best.name == f"{best.edge.input} → {best.edge.output}"
        elif len(slot.module.domain) == slot.module.in_features:
            assert best.score == pytest.approx(score_IO.sum(-1).max().item(), rel=1e-6)
            assert best.name == str(best.edge.input)
        else:
            assert best.name == f"{best.edge.input} to {best.edge.input + slot.module.in_features // 8 - 1}"
        view = bench.view(best.edge)
        shared = slot.module.in_features // len(slot.module.domain)
        inside = sum(view.histogram)
        assert inside + round(view.outside * 40 * shared) == 40 * shared


def test_another_text_is_read_without_the_edits_and_keeps_them():
    bench = make_bench()
    edge, loss = best_edge(bench), bench.losses()[0]
    bench.bend(edge, [2.0] * HANDLES)
    bent = snapshot(bench.model)
    bench.read_text(torch.arange(40)[None])
    loaded, now = bench.losses()
    assert loaded != loss and now != loaded and len(bench.steps) == 1 and same_bits(bench.model, bent)
    bench.undo()
    assert bench.losses() == (loaded, loaded)
