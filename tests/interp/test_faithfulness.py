"""Faithfulness: the definitions by hand, every kind of curves and of edit, and the model comes back as it was."""

import copy
import json
import math
from contextlib import ExitStack

import pytest
import torch
from interp_models import CONFIGS, SITES, edges_of, halved

from kansformer import KANConfig
from kansformer.conversion import find_curve_slot, find_curve_slots
from kansformer.errors import ConfigError, DataError, SlotError
from kansformer.interp import (
    EdgeRef,
    ablate,
    edge_curves,
    edge_scores,
    edit_curve,
    faithfulness,
    prune,
    record_edges,
    replace_by_symbol,
)
from kansformer.interp.controls import base_alone, random_curves, random_edges, random_scores
from kansformer.nn.curves import curved_modules
from kansformer.symbolic import KAN_LIBRARY, fit_symbolic


@pytest.fixture
def make_strong(make_bent):
    """make_strong(): a bent Llama whose networks matter, as those of a trained model do."""

    def make():
        model = make_bent()
        with torch.no_grad():
            model.lm_head.weight.mul_(20)
            for layer in model.model.layers:
                layer.mlp.down_proj.weight.mul_(50)
        return model

    return make


def state(model):
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    return hooks, {name: value.clone() for name, value in model.state_dict().items()}


def check_state(model, before):
    hooks, values = state(model)
    assert hooks == before[0] and all(torch.equal(value, before[1][name]) for name, value in values.items())


def close(values, rel=1e-4):
    """Nested figures, with room for rounding."""
    if isinstance(values, dict):
        return {name: close(value, rel) for name, value in values.items()}
    return pytest.approx(values, rel=rel, abs=1e-6) if isinstance(values, float) else values


def formulas(model, batches):
    with record_edges(model) as records, torch.no_grad():
        for batch in batches:
            model(**batch)
    slot = find_curve_slots(model)[0]
    curves = edge_curves(model, slot.site, slot.name, records=records)
    return replace_by_symbol(model, curves, fit_symbolic(curves.x, curves.y, library=KAN_LIBRARY.subset(["x"])))


def outputs_by_hand(model, batches, change=None):
    """Outputs of the down projections, logits and mean cross-entropy, with a function of (layer, output) applied."""
    outputs = {site: [] for site in SITES}
    logits, losses = [], []
    with ExitStack() as stack:
        for site in SITES:

            def hook(module, args, output, site=site):
                new = output if change is None else change(site, output)
                outputs[site].append(new.flatten(0, 1).double())
                return new

            stack.callback(model.get_submodule(site).down_proj.register_forward_hook(hook).remove)
        for batch in batches:
            result = model(**batch).logits
            logits.append(result.flatten(0, 1).double())
            predicted, labels = result[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
            losses.append(torch.nn.functional.cross_entropy(predicted.double(), labels, reduction="none"))
    outputs = {site: torch.cat(values) for site, values in outputs.items() if values}
    return outputs, torch.cat(logits), torch.cat(losses).mean().item()


@pytest.mark.parametrize("sites", [SITES[:1], SITES], ids=["one layer", "two layers"])
@torch.no_grad()
def test_the_figures_are_those_of_the_definitions(sites, make_strong, batches):
    model = make_strong()
    edges = edges_of(model, sites)
    result = faithfulness(model, ablate(model, edges), batches)
    assert result.layers == tuple(sites) and result.tokens == 60

    def kl(logits):
        p, q = original.log_softmax(-1), logits.log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1).mean().item()

    outputs, original, loss = outputs_by_hand(model, batches)
    means = {site: values.mean(dim=0) for site, values in outputs.items()}
    with ablate(model, edges):
        _, replaced_logits, replaced_loss = outputs_by_hand(model, batches)
    left = {site: values.split([36, 24]) for site, values in outputs.items()}
    seen = {site: [] for site in SITES}

    def restore(site, output):
        y = left[site][len(seen[site])]
        seen[site].append(output.flatten(0, 1).double())
        return y.to(output).reshape(output.shape)

    with ablate(model, edges):
        outputs_by_hand(model, batches, restore)
    ablated = {
        "zero": outputs_by_hand(model, batches, lambda site, y: y * (site not in sites)),
        "mean": outputs_by_hand(model, batches, lambda site, y: means[site].to(y).expand_as(y) if site in sites else y),
    }
    assert result.original.ce_loss == pytest.approx(loss, abs=1e-6)
    assert result.delta_ce == pytest.approx(replaced_loss - loss, abs=1e-6)
    assert result.replaced.kl_div == pytest.approx(kl(replaced_logits), rel=1e-3)
    for name, (_, logits, of_ablated) in ablated.items():
        expected = (of_ablated - replaced_loss) / (of_ablated - loss)
        assert result.score(result.replaced, "ce_loss", name) == pytest.approx(expected, rel=1e-4)
        expected = (kl(logits) - kl(replaced_logits)) / kl(logits)
        assert result.score(result.replaced, "kl_div", name) == pytest.approx(expected, rel=1e-4)
    for site in sites:
        y = outputs[site]
        expected = (torch.cat(seen[site]) - y).square().sum() / (y - means[site]).square().sum()
        assert result.replaced.fvu[site] == pytest.approx(expected.item(), rel=1e-4)
        assert result.mean.fvu[site] == pytest.approx(1.0)
        expected = y.square().sum() / (y - means[site]).square().sum()
        assert result.zero.fvu[site] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("settings", CONFIGS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_kind_of_curves(settings, family, make_bent, batches):
    model = make_bent(family, CONFIGS[settings])
    before = state(model)
    slots = find_curve_slots(model)
    slot = slots[0]
    scores = edge_scores(model, batches)
    edits = {
        "formulas": formulas(model, batches),
        "ablation": ablate(model, edges_of(model, [slot.site])),
        "pruning": lambda: prune(model, scores, sparsity=0.5),
        "no edit": lambda: ablate(model, []),
    }
    if slot.module.curves.edges != "low_rank":
        edits["edited"] = lambda: edit_curve(model, slot.edges()[3], lambda x: x**2)
    for name, edit in edits.items():
        result = faithfulness(model, edit, batches)
        check_state(model, before)
        assert len(result.layers) == (len({s.site for s in slots}) if name in ("pruning", "no edit") else 1)
        assert result.score(result.original, "ce_loss") == 1 and result.score(result.original, "kl_div") == 1
        assert result.score(result.zero, "ce_loss") == 0 and result.score(result.mean, "kl_div", "mean") == 0
        if name == "no edit":
            assert result.ce_loss_score == 1 and result.kl_div_score == 1 and result.fvu == 0 and result.delta_ce == 0
            assert result.l0(result.replaced) == result.l0(result.original)
        else:
            assert result.fvu > 0 and result.replaced.kl_div > 0
        figures = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert figures["replaced"]["ce_loss_score"] == result.ce_loss_score
        assert f"{result.replaced.ce_loss:.4f}" in str(result)


@torch.no_grad()
def test_l0_counts_the_learned_curves_that_are_alive(make_bent, batches):
    for settings in ("act", "full", "channel"):
        model = make_bent("llama", CONFIGS[settings])
        slot = find_curve_slots(model)[-1]
        edges = [ref for ref in slot.edges() if ref.input % 3 == 0]
        result = faithfulness(model, ablate(model, edges), batches, layers=[slot.site], alive=0.5)
        seen = []
        handle = slot.module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].flatten(0, 1)))
        for batch in batches:
            model(**batch)
        handle.remove()
        curves = edge_curves(model, slot.site, slot.name, at=torch.cat(seen).mT)
        threshold = 0.5 * curves.y.double().square().mean().sqrt()
        alive = curves.learned.abs() > threshold
        assert result.original.l0[slot.path] == pytest.approx(alive.sum(0).double().mean().item(), rel=1e-3)
        assert result.original.alive[slot.path] == int(alive.any(1).sum())
        left = alive[torch.tensor([ref not in set(edges) for ref in curves.refs])]
        assert result.replaced.l0[slot.path] == pytest.approx(left.sum(0).double().mean().item(), rel=1e-3)
        assert 0 < len(left) < len(alive)
        for s in find_curve_slots(model):
            s.module.coefficients.zero_()
        straight = faithfulness(model, ablate(model, []), batches, alive=0)
        assert straight.l0(straight.original) == 0 and straight.alive(straight.original) == 0


@torch.no_grad()
def test_of_many_edges_fewer_tokens_are_counted(make_bent, batch, monkeypatch):
    model = make_bent()
    slot = find_curve_slots(model)[0]
    monkeypatch.setattr("kansformer.interp.activity.BUDGET", 24 * 10)
    monkeypatch.setattr("kansformer.interp.activity.CHUNK", 100)
    result = faithfulness(model, ablate(model, []), batch, alive=0.8)
    seen = []
    handle = slot.module.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    model(**batch)
    handle.remove()
    whole, part = (edge_curves(model, slot.site, slot.name, at=x_NI.mT) for x_NI in (seen[0], seen[0][::6]))
    alive = part.learned.abs() > 0.8 * whole.y.double().square().mean().sqrt()
    assert result.original.l0[slot.path] == pytest.approx(alive.sum(0).double().mean().item())
    assert 0 < alive.double().mean() < 0.9


def test_batches_may_be_of_any_size_and_kind(make_strong, batches):
    model = make_strong()
    edges = edges_of(model)
    tokens = torch.cat([batch["input_ids"] for batch in batches])
    whole = faithfulness(model, ablate(model, edges), {"input_ids": tokens, "labels": tokens}).to_dict()
    assert faithfulness(model, ablate(model, edges), iter(batches)).to_dict() == close(whole)


@torch.no_grad()
def test_a_run_whose_logits_nobody_reads_ends_with_the_last_layer(make_strong, batch):
    model, runs, heads = make_strong(), [], []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    model.lm_head.register_forward_hook(lambda *_: heads.append(1))
    faithfulness(model, ablate(model, edges_of(model, "act")[:5]), batch)
    # Whole: twice as it is, once with the edit, at zero and at the mean. Else to find the changed layers, and for FVU.
    assert (len(runs), len(heads)) == (7, 5)


def test_every_label_counts_the_same(make_strong, batches):
    model = make_strong()
    batches = [*batches, {name: values[:1, :4] for name, values in batches[0].items()}]
    result = faithfulness(model, ablate(model, []), batches)
    losses, count = 0.0, 0
    for batch in batches:
        predicted, labels = model(**batch).logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
        losses += torch.nn.functional.cross_entropy(predicted, labels, reduction="sum").item()
        count += len(labels)
    assert result.original.ce_loss == pytest.approx(losses / count, abs=1e-6)


def test_padding_does_not_count(make_strong, batches):
    model = make_strong()
    edges = edges_of(model)
    without = faithfulness(model, ablate(model, edges), batches, alive=0.5).to_dict()
    padded = []
    for batch in batches:
        more = torch.full((len(batch["input_ids"]), 4), 7)
        padded.append(
            {
                "input_ids": torch.cat([batch["input_ids"], more], dim=1),
                "labels": torch.cat([batch["labels"], torch.full_like(more, -100)], dim=1),
                "attention_mask": torch.cat([torch.ones_like(batch["input_ids"]), torch.zeros_like(more)], dim=1),
            }
        )
    figures = faithfulness(model, ablate(model, edges), padded, alive=0.5).to_dict()
    for name in ("tokens", "original", "replaced", "zero_ablation", "mean_ablation"):
        left, right = figures[name], without[name]
        if isinstance(
            left, dict
        ):  # what is alive is relative to the curves' size, which `record_edges` knows with padding
            left, right = ({k: v for k, v in d.items() if k != "share_alive"} for d in (left, right))
            assert (left.pop("l0") or 0) == pytest.approx(right.pop("l0") or 0, rel=0.002)
        assert left == close(right), name


@torch.no_grad()
def test_the_random_half_is_of_all_slots(make_bent, batches):
    model = make_bent("llama", KANConfig(slots=("up", "act")))
    prune(model, random_scores(edge_scores(model, batches, attribution=False)), sparsity=0.5, by="learned_variance")
    kept = [module.coefficients.any(dim=-1).float().mean().item() for _, module in curved_modules(model)]
    assert all(0.2 < share < 0.8 for share in kept), kept


@torch.no_grad()
def test_controls(make_bent, batches):
    model = make_bent()
    edges = edges_of(model)
    scores = edge_scores(model, batches, attribution=False)

    def pruned(of):
        return lambda: prune(model, of, sparsity=0.5, by="learned_variance")

    controls = {
        "base alone": base_alone(model, edges),
        "random curves": random_curves(model, edges),
        "random curves again": random_curves(model, edges),
        "any half": pruned(random_scores(scores)),
    }
    result = faithfulness(model, pruned(scores), batches, controls=controls)
    rows = result.to_dict()
    assert list(rows)[3:] == [
        *("original", "replaced", "base_alone", "random_curves", "random_curves_again", "any_half"),
        *("zero_ablation", "mean_ablation"),
    ]
    assert rows["random_curves"] == rows["random_curves_again"]
    assert rows["any_half"]["l0"] > rows["replaced"]["l0"] > 0
    assert rows["random_curves"]["fvu"] > rows["base_alone"]["fvu"] > 0
    everything = [ref for slot in find_curve_slots(model) for ref in slot.edges()]
    straight = copy.deepcopy(model)
    for slot in find_curve_slots(straight):
        slot.module.coefficients.zero_()
    with base_alone(model, everything):
        torch.testing.assert_close(model(**batches[0]).logits, straight(**batches[0]).logits)
    drawn = random_edges(model, edges[:5])
    assert len(set(drawn)) == 5 and {ref.site for ref in drawn} == {ref.site for ref in edges[:5]}
    slot = find_curve_slot(model, SITES[0], "act")
    size = slot.module.coefficients.square().mean(-1).sqrt()
    with random_curves(model, everything):
        x = torch.linspace(-1, 1, 200)[:, None].expand(-1, 24)
        changed = slot.module(x) - slot.module.base(x)
    own = slot.module.forward(x) - slot.module.base(x)
    ratio = changed.square().mean() / own.square().mean()
    assert 0.3 < ratio < 3 and not torch.allclose(changed, own, atol=float(size.min()) / 10)


def test_bad_input(make_bent, batches):
    model = make_bent()
    before = state(model)
    edit = ablate(model, edges_of(model))
    for kind, message, call in [
        (SlotError, "No layer is at 'model.layers.7.mlp'. Choose from 2", dict(layers=["model.layers.7.mlp"])),
        (ConfigError, "alive must be 0 or more, got -1", dict(alive=-1)),
        (ConfigError, "alive must be 0 or more, got nan", dict(alive=math.nan)),
        (ConfigError, "A control cannot be named 'zero'", dict(controls={"zero": edit})),
        (ConfigError, "A control cannot be named 'mean ablation'", dict(controls={"mean ablation": edit})),
    ]:
        with pytest.raises(kind, match=message):
            faithfulness(model, edit, batches, **call)
    with pytest.raises(ConfigError, match=r"An edit must be a context, or a function .* got 3"):
        faithfulness(model, lambda: 3, batches)
    with pytest.raises(
        DataError, match=r"the layer at 'model.layers.0.mlp' runs on other tokens, or has another width"
    ):
        faithfulness(model, halved(model.model.layers[0].mlp.down_proj, lambda output: output[..., :1]), batches)
    with pytest.raises(DataError, match="There are no batches"):
        faithfulness(model, edit, [])
    with pytest.raises(SlotError, match="act has no input 99"):
        faithfulness(model, ablate(model, [EdgeRef(SITES[0], "act", 99, 99)]), batches)
    check_state(model, before)
