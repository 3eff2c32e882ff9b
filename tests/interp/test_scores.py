"""Scores: variances and shares as recorded, attributions as the loss itself answers."""

from types import SimpleNamespace

import pytest
import torch
from interp_models import CONFIGS

from kansformer import KANLinear
from kansformer.conversion import find_curve_slots
from kansformer.errors import ConfigError, DataError
from kansformer.interp import edge_scores, summarize


@pytest.mark.parametrize("settings", CONFIGS)
def test_attribution_is_the_slope_of_the_loss(settings, make_bent, batch):
    """Every edge is moved a little towards its mean by a hook; the loss must follow as the attribution says."""
    model = make_bent("llama", CONFIGS[settings])
    scores = edge_scores(model, batch)
    generator = torch.Generator().manual_seed(0)
    for place in find_curve_slots(model)[:3]:
        score = scores[place.site, place.name]
        for _ in range(2):
            i = int(torch.randint(score.variance.shape[0], (1,), generator=generator))
            o = int(torch.randint(score.variance.shape[1], (1,), generator=generator))
            losses = [_loss_with_edge_moved(model, place, i, o, step, batch) for step in (-1e-2, 1e-2)]
            slope = abs(losses[1] - losses[0]) / 2e-2
            assert float(score.attribution[i, o]) == pytest.approx(slope, rel=2e-2, abs=2e-4)


def _loss_with_edge_moved(model, place, i, o, step, batch):
    from kansformer.interp.edge_features import edge_features, edge_weights

    def hook(module, args, kwargs, output):
        x = args[0].reshape(-1, args[0].shape[-1])[:, i : i + 1]
        one_output = slice(o, o + 1) if place.num_outputs > 1 else slice(None)
        weights = edge_weights(place, slice(i, i + 1), one_output)[0, 0]
        values = edge_features(module, x, slice(i, i + 1))[:, 0] @ weights
        moved = (step * (values.mean() - values)).reshape(output.shape[:-1])
        factor = args[1] if len(args) > 1 else kwargs.get("factor")
        channel = o if place.num_outputs > 1 else i
        output = output.clone()
        output[..., channel] += moved if factor is None else moved * factor[..., channel]
        return output

    handle = place.module.register_forward_hook(hook, with_kwargs=True)
    with torch.no_grad():
        loss = model.double()(**batch).loss.item()
    model.float()
    handle.remove()
    return loss


@pytest.mark.parametrize("attribution", [True, False])
def test_batches_run_once(attribution, make_bent, batch):
    model, runs = make_bent(), []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    expected = edge_scores(model, [batch, batch], attribution=attribution)
    assert len(runs) == 2
    scores = edge_scores(model, iter([batch, batch]), attribution=attribution)
    assert len(runs) == 4
    for key, score in scores.items():
        columns, before = score.columns(), expected[key].columns()
        assert columns.keys() == before.keys() and all(torch.equal(columns[name], before[name]) for name in columns)


def test_the_model_is_left_as_it_was(make_bent, batch):
    model = make_bent().train()
    model.model.layers[0].eval()
    scores = edge_scores(model, [batch, batch])
    assert model.training and not model.model.layers[0].training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert scores.keys() == edge_scores(model, batch, attribution=False).keys()


@pytest.mark.parametrize("trained", ["nothing", "lm_head", "model.layers.1.mlp.up_proj"])
def test_frozen_weights_do_not_matter(trained, make_bent, batch):
    model = make_bent()
    expected = edge_scores(model, batch)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    for key, score in edge_scores(model, batch).items():
        torch.testing.assert_close(score.attribution, expected[key].attribution)


def test_batches_do_not_matter(make_bent, batch):
    model = make_bent()
    parts = [{name: values[rows] for name, values in batch.items()} for rows in (slice(2), slice(2, 3))]
    unlabelled = {**batch, "labels": torch.full_like(batch["labels"], -100)}  # whose loss is no number
    whole = edge_scores(model, batch)
    for several in (parts, [*parts, unlabelled]):
        scores = edge_scores(model, several)
        for key in whole:
            torch.testing.assert_close(scores[key].attribution, whole[key].attribution, rtol=1e-4, atol=1e-8)
        assert summarize(model, several).loss == pytest.approx(model(**batch).loss.item(), rel=1e-5)


def test_chosen_slots_only(make_bent, batch):
    model = make_bent()
    key = ("model.layers.1.mlp", "act")
    assert list(edge_scores(model, batch, slots=[key])) == [key]
    with pytest.raises(ConfigError, match=r"\('a', 'act'\) has no curves. Choose from 2, such as"):
        edge_scores(model, batch, slots=[("a", "act")])


@pytest.mark.parametrize("frozen", [False, True])
def test_modules_that_work_in_place_change_no_attribution(frozen):
    class Model(torch.nn.Module):
        def __init__(self, in_place):
            super().__init__()
            torch.manual_seed(0)
            relu = torch.nn.ReLU(inplace=in_place)
            self.layers = torch.nn.Sequential(KANLinear(4, 4), relu, KANLinear(4, 1)).requires_grad_(not frozen)

        def forward(self, x):
            return SimpleNamespace(loss=self.layers(x).square().mean())

    batch = {"x": torch.randn(9, 4)}
    expected, scores = (edge_scores(Model(in_place), batch) for in_place in (False, True))
    for key in expected:
        assert scores[key].attribution.max() > 0
        torch.testing.assert_close(scores[key].attribution, expected[key].attribution)


def test_rows(make_bent, batch):
    scores = edge_scores(make_bent("llama", CONFIGS["full"]), batch)
    up = scores["model.layers.1.mlp", "up"].to_pandas()
    assert len(up) == 16 * 24 and up["share"].groupby(up["output"]).sum().tolist() == pytest.approx([1.0] * 24)
    act = scores["model.layers.1.mlp", "act"].to_pandas()
    assert act["output"].tolist() == list(range(24)) and (act["attribution"] >= 0).all()


def test_bad_input(make_bent, batch):
    model = make_bent()
    with pytest.raises(ConfigError, match="Attributions need a loss, and the model gave none"):
        edge_scores(model, {"input_ids": batch["input_ids"]})
    with pytest.raises(DataError, match="No token of these batches reached 2 slots"):
        edge_scores(model, [])


def test_bases_of_any_size():
    layer = torch.nn.Sequential(KANLinear(4, 3, grid_size=1100))
    x = torch.randn(5, 4)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return SimpleNamespace(loss=self.layer(x).square().mean())

    scores = edge_scores(Model(), {"x": x})
    assert scores["layer", "0"].attribution.isfinite().all()


@pytest.mark.parametrize("sizes", [[6], [1, 1, 1, 1, 1, 1], [2, 4]])
def test_batches_of_labels_for_each_row_count_by_their_rows(sizes):
    """A class that transformers does not know has `loss_type` None, as causal models have."""

    class Classifier(torch.nn.Module):
        loss_type = None

        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(KANLinear(4, 5), torch.nn.Linear(5, 3))

        def forward(self, x, labels):
            logits = self.layers(x)
            return SimpleNamespace(loss=torch.nn.functional.cross_entropy(logits, labels), logits=logits)

    torch.manual_seed(0)
    model, x, labels = Classifier(), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 1])
    parts = [{"x": a, "labels": b} for a, b in zip(x.split(sizes), labels.split(sizes), strict=True)]
    expected = edge_scores(model, {"x": x, "labels": labels})["layers", "0"].attribution
    torch.testing.assert_close(edge_scores(model, parts)["layers", "0"].attribution, expected)
