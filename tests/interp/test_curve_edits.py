"""A function written into a curve stays, is saved, and can be undone to the bit."""

import pytest
import torch
from interp_models import CONFIGS

from kansformer import KANConfig, KANLinear, LearnedActivation, freeze_curves, refine_grid, update_grid
from kansformer.conversion import find_curve_slots
from kansformer.errors import ConfigError, DataError, SlotError
from kansformer.interp import EdgeRef, edge_curves, edit_curve, edit_edge


@pytest.mark.parametrize("settings", [name for name in CONFIGS if name != "low rank"])
@torch.no_grad()
def test_the_edge_follows_the_function_and_comes_back(settings, make_bent, batch):
    model = make_bent("llama", CONFIGS[settings])
    before = model(**batch).logits
    for place in find_curve_slots(model):
        edge = EdgeRef(place.site, place.name, 3, 7 if place.has_weights else 3)
        bent_before_weights = place.module.curves.is_per_channel and place.has_weights
        edit = edit_curve(model, edge, lambda x: 0.3 * x - 0.1)
        curve = edge_curves(model, edge.site, edge.slot, inputs=[3], outputs=[7])
        factor = place.module.weight[7, 3] if bent_before_weights else 1.0
        if "rational" not in str(place.module.curves):
            assert edit.error < 0.2  # silu and the like are no member of the basis
        wanted = factor * (0.3 * curve.x - 0.1)
        assert (curve.y - wanted).square().mean().sqrt().item() < 2 * abs(factor) * edit.error + 1e-5
        assert not torch.equal(model(**batch).logits, before)
        edit.undo()
        assert torch.equal(model(**batch).logits, before)


@torch.no_grad()
def test_of_full_edges_only_one_changes_and_it_is_saved(make_bent, batch, tmp_path):
    model = make_bent("llama", CONFIGS["full"])
    site = find_curve_slots(model)[0].site
    before = edge_curves(model, site, "up")
    edit_curve(model, EdgeRef(site, "up", 2, 5), torch.sin)
    after = edge_curves(model, site, "up")
    changed = (after.y != before.y).any(-1).nonzero()[:, 0].tolist()
    assert [str(after.refs[index]) for index in changed] == [f"{site}/up[2->5]"]
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(**batch).logits, model(**batch).logits)


def test_an_edit_is_undone_after_a_cast(make_bent):
    model = make_bent()
    module = model.model.layers[0].mlp.act_fn
    before = module.coefficients.detach().clone()
    edit = edit_curve(model, EdgeRef("model.layers.0.mlp", "act", 3, 3), torch.sin)
    model.to(torch.bfloat16)
    edit.undo()
    assert torch.equal(module.coefficients, before.bfloat16())


@torch.no_grad()
def test_edits_of_one_curve_are_undone_from_the_last(make_bent, batch):
    model, edge = make_bent(), EdgeRef("model.layers.0.mlp", "act", 3, 3)
    before = model(**batch).logits
    first = edit_curve(model, edge, torch.sin)
    other = edit_curve(model, EdgeRef(edge.site, edge.slot, 4, 4), torch.sin)
    second = edit_curve(model, edge, torch.cos)
    with pytest.raises(DataError, match=r"The curve was changed after the edit\. Undo later edits of it first\."):
        first.undo()
    for edit in (other, second, first, first):
        edit.undo()
    assert torch.equal(model(**batch).logits, before)


@torch.no_grad()
def test_bad_input(make_bent, batch):
    model = make_bent()
    edge, before = EdgeRef("model.layers.0.mlp", "act", 3, 3), model(**batch).logits
    with pytest.raises(DataError, match=r"no finite value everywhere from -4 to 4, model.layers.0.mlp/act\[3->3\]'s"):
        edit_curve(model, edge, torch.log)
    with pytest.raises(DataError, match=r"too large for the curve of .*act\[3->3\]: its coefficients overflow"):
        edit_curve(model, edge, lambda x: x * 1e39)
    with pytest.raises(SlotError, match="the edge of input 3 has output 3, not 4"):
        edit_curve(model, EdgeRef("model.layers.0.mlp", "act", 3, 4), torch.sin)
    assert torch.equal(model(**batch).logits, before)
    low_rank = make_bent("llama", CONFIGS["low rank"])
    with pytest.raises(ConfigError, match="low_rank edges, which share their coefficients. Use edit_edge there"):
        edit_curve(low_rank, EdgeRef("model.layers.0.mlp", "up", 0, 0), torch.sin)


@torch.no_grad()
def test_edits_are_undone_one_by_one(make_bent):
    model = make_bent()
    coefficients = find_curve_slots(model)[0].module.coefficients
    before, site = coefficients.clone(), find_curve_slots(model)[0].site
    edits = [edit_curve(model, EdgeRef(site, "act", i, i), torch.sin) for i in (3, 5)]
    second = coefficients[5].clone()
    edits[0].undo()
    assert torch.equal(coefficients[3], before[3]) and torch.equal(coefficients[5], second)
    edits[1].undo()
    assert torch.equal(coefficients, before)
    for change in (lambda: update_grid(model, {"input_ids": torch.arange(12)[None]}), lambda: refine_grid(model, 10)):
        edit = edit_curve(model, EdgeRef(site, "act", 3, 3), torch.sin)
        change()
        with pytest.raises(DataError, match="grid of the layer was changed after the edit"):
            edit.undo()


@torch.no_grad()
def test_the_error_is_that_of_the_rounded_curve(make_bent):
    model = make_bent().to(torch.bfloat16)
    place = find_curve_slots(model)[0]
    edit = edit_curve(model, EdgeRef(place.site, place.name, 3, 3), lambda x: 100 + x)
    curve = edge_curves(model, place.site, place.name, inputs=[3], points=88)
    assert edit.error > 0.01
    assert (curve.y - 100 - curve.x).square().mean().sqrt().item() == pytest.approx(edit.error, rel=0.1)


def test_curves_that_are_fixed_or_shared_are_not_edited(make_bent, batch):
    fixed, shared = make_bent("llama"), make_bent("llama", KANConfig(share="model"))
    freeze_curves(fixed)
    for model, sentence in (
        (fixed, r"edit_curve changes curves, and the model's are fixed"),
        (shared, r"edit_curve needs curves of its own in every layer.*Use edit_edge, within a context"),
    ):
        before = model(**batch).logits
        with pytest.raises(ConfigError, match=sentence):
            edit_curve(model, EdgeRef("model.layers.0.mlp", "act", 3, 3), torch.sin)
        assert torch.equal(model(**batch).logits, before)


@pytest.mark.parametrize("function", [torch.nn.ReLU(inplace=True), torch.Tensor.sin_])
@torch.no_grad()
def test_functions_that_work_in_place_do_no_harm(function):
    model, x = torch.nn.Sequential(KANLinear(1, 1, bias=False, grid_size=20)), torch.linspace(-1, 1, 9)[:, None]
    edit_curve(model, EdgeRef("", "0", input=0, output=0), function)
    torch.testing.assert_close(model(x), function(x.clone()), rtol=0, atol=0.02)
    activation = torch.nn.Sequential(LearnedActivation(1))
    with edit_edge(activation, EdgeRef("", "0", input=0, output=0), function):
        given = x.clone()
        torch.testing.assert_close(activation(given), function(x.clone()))
        assert torch.equal(given, x)
