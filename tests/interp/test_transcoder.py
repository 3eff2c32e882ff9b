"""Figures of a transcoder in the place of a network, against counts by hand and ablations."""

import pytest
import torch
import transformers
from tiny_models import MODELS, tiny_llama

from kansformer.conversion.slots import EdgeRef
from kansformer.errors import DataError, ShapeError
from kansformer.interp import Transcoder, edit_curve, faithfulness, measure_transcoder
from kansformer.interp.transcoder import name_curves, replace_network


@pytest.fixture
def model():
    return tiny_llama(vocab_size=50, initializer_range=0.3).eval()


def make(**settings):
    torch.manual_seed(1)
    return Transcoder(16, 32, k=4, **settings)


def test_a_transcoder_of_nothing_is_the_zero_ablation(model, batch):
    transcoder = make(basis=None)
    with torch.no_grad():
        transcoder.decoder.weight.zero_()
        transcoder.decoder.bias.zero_()
    figures = measure_transcoder(model, 1, transcoder, batch)
    result = figures.faithfulness
    assert result.layers == ("model.layers.1.mlp",) and figures.names is None
    assert result.replaced.ce_loss == result.zero.ce_loss and figures.to_dict()["ce_loss_score"] == 0
    assert figures.fvu == pytest.approx(result.zero.mean_fvu)


def test_latents_that_are_never_active_have_no_names(model, batch):
    transcoder = make()
    torch.nn.init.constant_(transcoder.encoder.bias, -1e6)
    figures = measure_transcoder(model, 0, transcoder, batch)
    assert figures.l0 == figures.alive == figures.names.curves == 0


def test_padding_counts_nowhere_in_layers_that_flatten_tokens():
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(MODELS["opt"]()).eval()
    width = model.config.hidden_size
    transcoder, tokens = Transcoder(width, 32, k=4), torch.randint(50, (2, 16))
    mask = (torch.arange(16) < 9).long().expand(2, 16)
    batches = [{"input_ids": ids, "attention_mask": mask} for ids in (tokens, torch.where(mask > 0, tokens, 7))]
    first, second = (measure_transcoder(model, 0, transcoder, part, names=False) for part in batches)
    assert first.tokens == second.tokens == 18
    assert first.fvu == pytest.approx(second.fvu, rel=1e-4) and first.l0 == second.l0


@torch.no_grad()
def test_latents_are_counted_as_by_hand(model, batch):
    transcoder, calls = make(), []
    figures = measure_transcoder(model, 0, transcoder, [batch, batch])
    handle = model.model.layers[0].mlp.register_forward_hook(lambda module, args, y: calls.append((args[0], y)))
    model(**batch)
    handle.remove()
    ((x, y),) = calls
    active = transcoder.encode(x).reshape(-1, 32) != 0
    assert figures.tokens == 2 * 60 and figures.l0 == pytest.approx(active.sum(1).float().mean().item())
    assert figures.alive == int(active.any(0).sum()) and figures.share_alive == figures.alive / 32
    fvu = (transcoder(x) - y).square().sum() / (y - y.mean((0, 1))).square().sum()
    assert figures.fvu == pytest.approx(fvu.item(), rel=1e-4)
    with replace_network(model, 0, transcoder):
        assert figures.faithfulness.replaced.ce_loss == pytest.approx(model(**batch).loss.item(), rel=1e-6)
    assert "L0" in str(figures) and "loss recovered" in str(figures)


def test_padding_does_not_count(model, batch):
    mask = torch.ones_like(batch["input_ids"])
    mask[:, 12:] = 0
    assert measure_transcoder(model, 0, make(), {**batch, "attention_mask": mask}, names=False).tokens == 36


def test_several_transcoders_are_controls_of_each_other(model, batch):
    first, second = make(), make(basis=None, skip=True)
    edits = [lambda t=t: replace_network(model, 1, t) for t in (first, second)]
    result = faithfulness(model, edits[0], batch, controls={"second": edits[1]}, layers=["model.layers.1.mlp"])
    assert (
        result.controls["second"].ce_loss == measure_transcoder(model, 1, second, batch).faithfulness.replaced.ce_loss
    )


def test_curves_are_named_at_the_inputs_of_their_latents():
    transcoder = make(grid_size=12)
    act = transcoder.act
    act.domain[:, 0], act.domain[:, 1] = 0.0, 1.0
    edit_curve(torch.nn.ModuleDict({"act": act}), EdgeRef("", "act", 3, 3), lambda z: z + torch.sin(2 * z))
    with torch.no_grad():
        noise = torch.randn(12 + 3, generator=torch.Generator().manual_seed(0))
        act.coefficients[5] = noise
    latents = torch.tensor([3, 5, 7, 9]).repeat_interleave(torch.tensor([200, 200, 200, 20]))
    z = torch.rand(len(latents), generator=torch.Generator().manual_seed(0)) + 1e-3
    names = name_curves(act, latents, z)
    # 3 is a sine, 5 is random, 7 is straight, 9 has too few tokens.
    assert (names.curves, names.named) == (2, 1) and sum(names.functions.values()) == 1
    assert names.random_curves == 2 and names.random_named == 0
    empty = name_curves(act, latents[:30], z[:30])
    assert (empty.curves, empty.named, empty.functions) == (0, 0, {})


def test_what_cannot_be_measured(model, batch):
    with pytest.raises(ShapeError, match="model.layers.0.mlp has the width 16, and the transcoder maps 8 to 16"):
        measure_transcoder(model, 0, Transcoder(8, 32, out_features=16), batch)
    with pytest.raises(DataError, match="There are no batches"):
        measure_transcoder(model, 0, make(), [])
