"""Recorded ranges and moments are those of the tokens that passed, on every kind of edge and slot."""

import pytest
import torch
from interp_models import CONFIGS, FAMILIES
from torch import nn

from kansformer import KANFeedForward, KANLinear, update_grid
from kansformer.conversion import find_curve_slots
from kansformer.errors import ConfigError, ConversionStateError, DataError, SlotError
from kansformer.interp import edge_curves, edge_scores, record_edges


def seen_by(model, batch):
    """What every module with curves was called with and gave, tokens first."""
    seen = {}

    def watch(key):
        def hook(module, args, kwargs, output):
            factor = args[1] if len(args) > 1 else kwargs.get("factor")
            x = args[0].reshape(-1, args[0].shape[-1])
            seen[key] = (x, None if factor is not None else output.reshape(-1, output.shape[-1]))

        return hook

    places = find_curve_slots(model)
    handles = [p.module.register_forward_hook(watch((p.site, p.name)), with_kwargs=True) for p in places]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return seen


def phi(module, x_NI):
    """Every edge at every token by the module itself: it is fed one input at a time. (N, I, O)"""
    if isinstance(module, nn.Linear) or hasattr(module, "out_features"):
        rows = []
        zero = module(torch.zeros(1, module.in_features))
        for i in range(module.in_features):
            one = torch.zeros_like(x_NI)
            one[:, i] = x_NI[:, i]
            rows.append(module(one) - zero)
        at_zero = torch.stack([_alone_at_zero(module, i) for i in range(module.in_features)])
        return torch.stack(rows, dim=1) + at_zero
    return module(x_NI).unsqueeze(-1)


def _alone_at_zero(module, i):
    from kansformer.interp.edge_features import edge_features, edge_weights

    features = edge_features(module, torch.zeros(1, 1), slice(i, i + 1))[0, 0]
    (slot,) = find_curve_slots(nn.Sequential(module))
    return edge_weights(slot, slice(i, i + 1))[0] @ features


@pytest.mark.parametrize("settings", CONFIGS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_ranges_and_moments(family, settings, make_bent, batch):
    model = make_bent(family, CONFIGS[settings])
    seen = seen_by(model, batch)
    with record_edges(model) as records:
        model(**batch)
    assert set(records) == set(seen)
    for key, (x, _) in seen.items():
        recorded, module = records[key], records[key].slot.module
        assert recorded.tokens == 60
        torch.testing.assert_close(recorded.lower, x.amin(0))
        torch.testing.assert_close(recorded.upper, x.amax(0))
        torch.testing.assert_close(recorded.sample, x)
        edges = phi(module, x).double()
        torch.testing.assert_close(recorded.means(), edges.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(recorded.variances(), edges.var(0, correction=0), rtol=1e-3, atol=1e-7)
        assert (recorded.histogram.sum(-1) == 60).all()
        domain = module.domain.repeat_interleave(x.shape[1] // len(module.domain), dim=0)
        torch.testing.assert_close(recorded.outside, ((x < domain[:, 0]) | (x > domain[:, 1])).float().mean(0))


@pytest.mark.parametrize("settings", CONFIGS)
@torch.no_grad()
def test_edges_sum_to_the_output(settings, make_bent, batch):
    """At the sampled points of equal index, the edges of a node and its bias are its output."""
    model = make_bent("llama", CONFIGS[settings])
    with record_edges(model) as records:
        model(**batch)
    for place in find_curve_slots(model):
        curves = edge_curves(model, place.site, place.name, records=records, points=5)
        inputs = place.module.in_features
        x_SI = curves.x.float().reshape(inputs, -1, 5)[:, 0].mT
        y_IOS = curves.y.reshape(inputs, -1, 5)
        bias = getattr(place.module, "bias", None)
        total = y_IOS.sum(0).mT if place.num_outputs > 1 else y_IOS[:, 0].mT
        expected = place.module(x_SI)
        torch.testing.assert_close(total + (0 if bias is None else bias), expected, rtol=1e-5, atol=1e-5)


def test_batches_add_up(make_bent, batch):
    model = make_bent()
    with record_edges(model) as whole, torch.no_grad():
        model(**batch)
    with record_edges(model) as parts, torch.no_grad():
        for row in batch["input_ids"]:
            model(input_ids=row[None])
    for key in whole:
        torch.testing.assert_close(parts[key].variances(), whole[key].variances(), rtol=1e-4, atol=1e-9)
        assert torch.equal(parts[key].histogram, whole[key].histogram)


def test_the_sample_is_drawn_evenly_and_bounded():
    layer = KANLinear(2, 3)
    with record_edges(nn.Sequential(layer), sample=200) as records, torch.no_grad():
        for start in range(0, 4000, 50):
            layer(torch.arange(start, start + 50).float()[:, None].expand(-1, 2))
    sample = records["", "0"].sample[:, 0]
    assert len(sample) == 200 and len(sample.unique()) == 200
    assert abs(sample.mean() - 2000) < 5 * 1155 / 200**0.5  # five standard errors
    assert records["", "0"].quantiles((0.5,)).shape == (1, 2)


def test_it_works_in_generation_and_in_half_precision(make_bent, batch):
    model = make_bent().to(torch.bfloat16)
    with record_edges(model) as records:
        model.generate(batch["input_ids"][:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert {slot.tokens for slot in records.values()} == {22}


def test_a_moved_grid_is_noticed(make_bent, batch):
    model = make_bent()
    with record_edges(model) as records, torch.no_grad():
        model(**batch)
    update_grid(model, {"input_ids": batch["input_ids"]})
    with pytest.raises(DataError, match="was changed after its inputs were recorded. Record again"):
        records["model.layers.0.mlp", "act"].variances()


def test_moments_are_of_the_model_as_it_is_now(make_bent, batch):
    """All tokens fit the sample here, so what is taken from it is exact."""
    for settings in CONFIGS:
        model = make_bent("llama", CONFIGS[settings])
        with record_edges(model) as before, torch.no_grad():
            model(**batch)
        last = list(before)[-1]
        with torch.no_grad():
            before[last].slot.module.coefficients[0] += 0.5
        with record_edges(model) as after, torch.no_grad():
            model(**batch)
        torch.testing.assert_close(before[last].means(), after[last].means(), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(before[last].variances(), after[last].variances(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("settings", ["full", "act"])
@pytest.mark.parametrize("tokens", [1, 7])
def test_the_moments_do_not_depend_on_how_tokens_are_split(make_bent, batch, monkeypatch, tokens, settings):
    model = make_bent("llama", CONFIGS[settings])
    with record_edges(model) as whole, torch.no_grad():
        model(**batch)
    most = max(recorded._sums_IT.numel() for recorded in whole.values())
    monkeypatch.setattr("kansformer.interp.recording.BUDGET", tokens * most)
    with record_edges(model) as parts, torch.no_grad():
        model(**batch)
    for key in whole:
        torch.testing.assert_close(parts[key].variances(), whole[key].variances(), rtol=1e-5, atol=1e-10)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_beneath_adapters_slots_keep_their_names(make_bent, batch):
    import peft

    model = peft.get_peft_model(make_bent("llama", CONFIGS["full"]), peft.LoraConfig(target_modules=["up_proj"]))
    with record_edges(model) as records, torch.no_grad():
        model(**batch)
    site = "base_model.model.model.layers.1.mlp"
    assert set(records) == {(site, "up"), (site, "act"), (site, "down")} and not records.unreached


def test_modules_of_ones_own_model():
    block = KANFeedForward(8, 4)
    with record_edges(block) as records, torch.no_grad():
        block(torch.randn(5, 8))
    assert list(records) == [("", "up_proj"), ("", "down_proj")]
    assert records["", "down_proj"].shares().sum(0).tolist() == pytest.approx([1.0] * 8)


def test_hooks_are_gone_also_after_an_error(make_bent):
    model = make_bent()
    state = torch.get_rng_state()
    with pytest.raises(DataError), record_edges(model):
        model(inputs_embeds=torch.full((1, 2, 16), float("nan")))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_passes_in_inference_mode_count_like_others(make_bent, batch):
    model = make_bent()
    with record_edges(model, sample=8) as expected, torch.no_grad():
        for _ in range(2):
            model(**batch)
    with record_edges(model, sample=8) as records:
        with torch.inference_mode():
            model(**batch)
        with torch.no_grad():
            model(**batch)
    for key, recorded in records.items():
        assert torch.equal(recorded.sample, expected[key].sample)
        assert torch.equal(recorded.variances(), expected[key].variances())
    with torch.inference_mode():
        with record_edges(model, sample=8) as inside:
            model(**batch)
            model(**batch)
        edge_scores(model, batch, attribution=False)
        with pytest.raises(ConfigError, match="Attributions need gradients"):
            edge_scores(model, batch)
    assert all(torch.equal(inside[key].sample, expected[key].sample) for key in expected)


def test_bad_input(make_bent, batch):
    with (
        pytest.raises(ConversionStateError, match="no curves to read. Convert it first"),
        record_edges(nn.Linear(2, 2)),
    ):
        pass
    model = make_bent()
    with (
        pytest.raises(ConfigError, match="bins must be a whole number of at least 1, got 0"),
        record_edges(model, bins=0),
    ):
        pass
    with record_edges(model) as records:
        pass
    assert len(records.unreached) == 2
    with pytest.raises(DataError, match=r"No token reached model.layers.0.mlp.act_fn"):
        records["model.layers.0.mlp", "act"].variances()
    with pytest.raises(SlotError, match=r"Nothing was recorded at \('a', 'act'\). Choose from 2, such as"):
        records["a", "act"]
    layer = KANLinear(2, 2)
    with pytest.raises(DataError, match="The input of 0 is not finite"), record_edges(nn.Sequential(layer)):
        layer(torch.tensor([[float("nan"), 0.0]]))
