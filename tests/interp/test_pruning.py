"""Pruning: the least curves become straight, all comes back, and straight slots leave the model for good."""

import dataclasses

import pytest
import torch
import transformers
from interp_models import CONFIGS, SITES
from tiny_models import SMALL

from kansformer import KANConfig, KANLinear, convert, freeze_curves, update_grid
from kansformer.conversion import find_curve_slots
from kansformer.errors import CheckpointError, ConfigError, DataError, SlotError
from kansformer.interp import drop_straight_curves, edge_scores, prune, prune_channels, reduce_rank, sparsity_curve


def coefficients_of(model):
    return [place.module.coefficients.detach().clone() for place in find_curve_slots(model)]


@pytest.mark.parametrize("settings", CONFIGS)
def test_a_share_is_straightened_and_comes_back(settings, make_bent, batch):
    model = make_bent("llama", CONFIGS[settings])
    scores = edge_scores(model, batch)
    before = coefficients_of(model)
    result = prune(model, scores, sparsity=0.4)
    straight = sum(
        int((~c.transpose(1, -1).any(-1) if c.ndim == 3 else ~c.any(-1)).sum()) for c in coefficients_of(model)
    )
    assert result.straightened == straight == round(0.4 * result.curves)
    result.undo()
    assert all(torch.equal(now, then) for now, then in zip(coefficients_of(model), before, strict=True))
    result = prune(model, scores, sparsity=0.4)
    update_grid(model, batch)
    moved = coefficients_of(model)
    with pytest.raises(DataError, match="grid of the layer was changed"):
        result.undo()
    assert all(torch.equal(now, then) for now, then in zip(coefficients_of(model), moved, strict=True))
    prune(model, scores, sparsity=1.0)
    assert not any(values.any() for values in coefficients_of(model))


def test_the_attribution_chooses_better_than_chance(make_bent, batch):
    model = make_bent("llama", CONFIGS["full"])
    scores = edge_scores(model, batch)
    flipped = {k: type(s)(**{**vars(s), "learned_attribution": -s.learned_attribution}) for k, s in scores.items()}

    def loss():
        with torch.no_grad():
            return model(**batch).loss.item()

    full = loss()
    least, most = (sparsity_curve(model, s, loss, levels=(0.0, 0.5)) for s in (scores, flipped))
    assert least["loss"][0] == most["loss"][0] == full == loss()
    assert abs(least["loss"][1] - full) < abs(most["loss"][1] - full)


def test_straight_slots_leave_the_model(make_bent, batch, tmp_path):
    model = make_bent()
    scores = edge_scores(model, batch)
    with torch.no_grad():
        model.model.layers[0].mlp.act_fn.coefficients.zero_()
    before, count = model(**batch).logits, sum(p.numel() for p in model.parameters())
    assert drop_straight_curves(model) == [("model.layers.0.mlp", "act")]
    assert torch.equal(model(**batch).logits, before)
    assert sum(p.numel() for p in model.parameters()) == count - 24 * 8
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(**batch).logits, before)
    prune(model, scores, sparsity=1.0)
    assert len(drop_straight_curves(model)) == 1
    assert not hasattr(model.config, "quantization_config")


def test_whole_slots_are_straightened_from_the_least_on(make_bent, batch):
    model = make_bent("llama", CONFIGS["channel"])
    scores = edge_scores(model, batch)
    sums = {key: float(score.learned_attribution.sum()) for key, score in scores.items()}
    result = prune(model, scores, sparsity=0.5, whole_slots=True)
    straight = {(p.site, p.name) for p in find_curve_slots(model) if not p.module.coefficients.any()}
    assert 0 < result.straightened <= 0.5 * result.curves
    assert max(sums[key] for key in straight) < min(sums[key] for key in sums.keys() - straight)
    assert drop_straight_curves(model) == [key for key in sums if key in straight]


@torch.no_grad()
def test_a_rank_that_is_not_used_costs_nothing(make_bent, batch, tmp_path):
    model = make_bent("llama", CONFIGS["low rank"])
    for place in find_curve_slots(model):
        place.module.mix[1] = 2 * place.module.mix[0]
    before, count = model(**batch).logits, sum(p.numel() for p in model.parameters())
    lost = reduce_rank(model, 1)
    assert lost.keys() == {(p.site, p.name) for p in find_curve_slots(model)} and max(lost.values()) < 1e-12
    torch.testing.assert_close(model(**batch).logits, before, rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in model.parameters()) < count
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(**batch).logits, model(**batch).logits)


@torch.no_grad()
def test_a_rank_that_is_used_is_approached_as_well_as_can_be(make_bent):
    model = make_bent("llama", CONFIGS["low rank"])
    place = find_curve_slots(model)[0]
    whole = (place.module.coefficients @ place.module.mix).flatten(0, 1)
    lost = reduce_rank(model, 1)[place.site, place.name]
    near = (place.module.coefficients @ place.module.mix).flatten(0, 1)
    sizes = torch.linalg.svdvals(whole)
    assert (near - whole).square().sum().item() == pytest.approx(sizes[1:].square().sum().item(), rel=1e-4)
    assert lost == pytest.approx((sizes[1:].square().sum() / sizes.square().sum()).item(), rel=1e-4)


def test_new_edges_can_be_trained_at_a_lower_rank(make_bent, batch):
    model = make_bent("llama", CONFIGS["low rank"])
    for place in find_curve_slots(model):
        torch.nn.init.zeros_(place.module.coefficients)
    assert set(reduce_rank(model, 1).values()) == {0.0}
    model(**batch).loss.backward()
    assert all(place.module.coefficients.grad.any() for place in find_curve_slots(model))


@torch.no_grad()
def test_a_rank_beyond_the_width_still_loads(make_bent, batch, tmp_path, monkeypatch):
    monkeypatch.setattr("kansformer.conversion.plan._check_rank", lambda *widths: None)  # as convert once was
    model = make_bent("llama", KANConfig(slots=("up",), edges="low_rank", rank=64, grid_size=3))
    before = model(**batch).logits
    reduce_rank(model, 60)  # 24 outputs
    torch.testing.assert_close(model(**batch).logits, before, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(**batch).logits, model(**batch).logits)
    module = find_curve_slots(model)[0].module
    module.curves = dataclasses.replace(module.curves, rank=7)
    with pytest.raises(CheckpointError, match="low_rank curves of rank 7 .* but the config says .* of rank 60"):
        model.save_pretrained(tmp_path)


def test_channels_leave_the_model(make_bent, batch, tmp_path):
    model = make_bent()
    before = sum(p.numel() for p in model.parameters())
    widths = prune_channels(model, batch, share=0.5)
    assert widths == {"model.layers.0.mlp": 24, "model.layers.1.mlp": 24}  # 16 would be the width of the model
    assert sum(p.numel() for p in model.parameters()) == before
    assert set(prune_channels(model, batch, share=0.2, multiple_of=5).values()) == {20}
    assert sum(p.numel() for p in model.parameters()) == before - 2 * 4 * (3 * 16 + 8)
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(**batch).logits, model(**batch).logits)
    with pytest.raises(ConfigError, match="share must be from 0 to below 1, got 1"):
        prune_channels(model, batch, share=1)


def test_channels_leave_a_compiled_model(make_bent, batch, tmp_path):
    model = make_bent()
    assert set(prune_channels(torch.compile(model, backend="eager"), batch, share=0.5)) == {*SITES}
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(**batch).logits, model(**batch).logits)


def test_channels_of_experts_stay(batch):
    sizes = dict(moe_intermediate_size=8, shared_expert_intermediate_size=8, num_experts=2, num_experts_per_tok=1)
    config = transformers.Qwen2MoeConfig(**SMALL | {"vocab_size": 50}, **sizes)
    model = convert(transformers.Qwen2MoeForCausalLM(config), KANConfig())
    with pytest.raises(SlotError, match="of the kind 'experts', which cannot be narrowed"):
        prune_channels(model, batch, share=0.5)


def test_layers_that_share_their_curves_keep_the_same_channels(make_bent, batch, tmp_path):
    model = make_bent("llama", KANConfig(share="model"))
    mlp = [layer.mlp for layer in model.model.layers]
    with torch.no_grad():  # channels that matter: 3 in one layer, 5 in the other, 9 a little in both
        for layer, channel in zip(mlp, (3, 5), strict=True):
            layer.down_proj.weight.mul_(1e-3)
            layer.down_proj.weight[:, channel] = 1.0
            layer.down_proj.weight[:, 9] = 0.1
    rows = [layer.up_proj.weight[[3, 5, 9]].clone() for layer in mlp]
    prune_channels(model, batch, share=0.9, multiple_of=3)
    assert mlp[0].act_fn.coefficients is mlp[1].act_fn.coefficients
    assert all(torch.equal(layer.up_proj.weight, kept) for layer, kept in zip(mlp, rows, strict=True))
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert loaded.num_parameters() == model.num_parameters()


@pytest.mark.parametrize("by", ["frozen", "shared"])
def test_fixed_and_shared_curves_are_not_straightened(by, make_bent, batch):
    model = make_bent("llama", KANConfig(share="model") if by == "shared" else KANConfig())
    scores = edge_scores(model, batch)
    if by == "frozen":
        freeze_curves(model)
    sentence = {
        "frozen": r"prune changes curves, and the model's are fixed \(trainable=False\), for instance at model\.layers",
        "shared": r"prune needs curves of its own .*0\.mlp\.act_fn and model\.layers\.1.*freeze_curves\(model, FILE\)",
    }[by]
    before = coefficients_of(model)
    with pytest.raises(ConfigError, match=sentence):
        prune(model, scores, sparsity=0.5)
    assert all(torch.equal(now, then) for now, then in zip(coefficients_of(model), before, strict=True))


def test_bad_input(make_bent, batch):
    model = make_bent()
    scores = edge_scores(model, batch, attribution=False)
    with pytest.raises(ConfigError, match="sparsity must be from 0 to 1, got 2"):
        prune(model, scores, sparsity=2)
    with pytest.raises(ConfigError, match="Unknown score 'r2'. Choose learned_attribution or learned_variance"):
        prune(model, scores, sparsity=0.5, by="r2")
    with pytest.raises(ConfigError, match=r"model.layers.0.mlp/act has no learned_attribution. Make the scores"):
        prune(model, scores, sparsity=0.5)
    assert prune(model, scores, sparsity=0.5, by="learned_variance").straightened == 24
    with pytest.raises(ConfigError, match="No layer of this model has low_rank edges"):
        reduce_rank(model, 1)
    with pytest.raises(ConfigError, match="rank must be a whole number from 1 to 2, got 3"):
        reduce_rank(make_bent("llama", CONFIGS["low rank"]), 3)


def test_undo_leaves_other_curves_and_refuses_changed_ones():
    torch.manual_seed(0)
    model = torch.nn.Sequential(KANLinear(4, 3))
    scores = edge_scores(model, {"input": torch.randn(64, 4)}, attribution=False)
    result = prune(model, scores, sparsity=0.5, by="learned_variance")
    straight = ~model[0].coefficients.any(dim=1, keepdim=True)
    with torch.no_grad():
        model[0].coefficients.mul_(2)  # the others are trained
        kept = model[0].coefficients.clone()
        model[0].coefficients.add_(straight * 0.1)
        with pytest.raises(DataError, match="A curve that was straightened has been changed"):
            result.undo()
        model[0].coefficients.copy_(kept)
    result.undo()
    assert model[0].coefficients.any(dim=1).all()
    assert torch.equal(model[0].coefficients.where(~straight, 0.0), kept)
