"""Faithfulness of every architecture, of a layer that runs twice, of plain models and of those with adapters."""

import json
import math

import pytest
import torch
import transformers
from interp_models import SITES, edges_of, halved
from tiny_models import MODELS, TINY, randomize_curves

from kansformer import KANConfig, KANLinear, convert
from kansformer.conversion import find_curve_slots
from kansformer.interp import EdgeRef, Faithfulness, ablate, faithfulness, summarize
from kansformer.symbolic import KAN_LIBRARY

LAST_LAYERS = {
    "bert": "bert.encoder.layer.2.output.dense",
    "falcon": "transformer.h.1.mlp.dense_4h_to_h",  # adds to the outputs of its networks in place
    "opt": "model.decoder.layers.1.fc2",
    "phi3": "model.layers.2.mlp.down_proj",
    "bloom": "transformer.h.1.mlp.dense_4h_to_h",
    "mixtral": "model.layers.2.mlp.experts",
    "t5": "decoder.block.1.layer.2.DenseReluDense.wo",
}


@pytest.mark.parametrize("family", LAST_LAYERS)
def test_the_layers_of_other_architectures(family):
    if family == "t5":
        config = transformers.T5Config(
            vocab_size=100, d_model=64, d_kv=16, d_ff=160, num_layers=2, num_heads=4, decoder_start_token_id=0
        )
        build = transformers.T5ForConditionalGeneration
    else:
        config = MODELS[family]()
        build = transformers.BertForMaskedLM if family == "bert" else transformers.AutoModelForCausalLM.from_config
    torch.manual_seed(0)
    model = randomize_curves(convert(build(config).eval(), KANConfig()), 0.3)
    tokens = torch.randint(100, (2, 9), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": tokens, "labels": tokens, "attention_mask": torch.ones_like(tokens)}
    slot = find_curve_slots(model)[-1]
    result = faithfulness(model, ablate(model, slot.edges()[::3]), batch)
    assert len(result.layers) == 1 and result.tokens == 18
    assert result.fvu > 0 and math.isfinite(result.fvu) and result.zero.kl_div > 0
    assert result.mean.fvu[result.layers[0]] == pytest.approx(1)
    assert result.l0(result.original) > result.l0(result.replaced) > 0
    half = faithfulness(model, halved(model.get_submodule(LAST_LAYERS[family])), batch)
    assert half.layers == result.layers and half.fvu == pytest.approx(half.zero.fvu[half.layers[0]] / 4)


def test_a_layer_that_runs_twice():
    config = transformers.AlbertConfig(**TINY | {"embedding_size": 16})
    torch.manual_seed(0)
    model = randomize_curves(convert(transformers.AlbertForMaskedLM(config).eval(), KANConfig()), 0.3)
    tokens = torch.arange(18).reshape(2, 9)
    edit = halved(model.get_submodule("albert.encoder.albert_layer_groups.0.albert_layers.0.ffn_output"))
    result = faithfulness(model, edit, {"input_ids": tokens, "labels": tokens})
    (layer,) = result.layers
    assert result.mean.fvu[layer] == pytest.approx(1) and result.fvu == pytest.approx(result.zero.fvu[layer] / 4)


def test_models_of_ones_own_and_plain_models(batches):
    torch.manual_seed(0)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = KANLinear(5, 4), KANLinear(4, 3)

        def forward(self, x):
            return self.second(self.first(x))

    network = randomize_curves(Network())
    result = faithfulness(network, ablate(network, [EdgeRef("", "first", 0, 1)]), {"x": torch.randn(30, 5)})
    assert result.layers == ("first",) and 0 < result.fvu < 1
    assert result.ce_loss_score is None and result.kl_div_score is None and result.delta_ce is None
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["replaced"]["kl_div_score"] is None
    plain = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY)).eval()

    result = faithfulness(plain, halved(plain.model.layers[1].mlp.down_proj), batches)
    assert result.layers == ("model.layers.1.mlp",) and result.l0(result.replaced) is None
    assert isinstance(result, Faithfulness) and "–" in str(result)
    y = result.zero.fvu["model.layers.1.mlp"]
    assert result.fvu == pytest.approx(y / 4)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_with_adapters_a_slot_is_a_layer(make_bent, batches):
    peft = pytest.importorskip("peft", reason="pip install peft")
    model = make_bent()
    without = faithfulness(model, ablate(model, edges_of(model)), batches, layers=SITES[:1])
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["up_proj", "down_proj"]))
    slot = find_curve_slots(adapted)[0]
    result = faithfulness(adapted, ablate(adapted, slot.edges()), batches, controls={"half": ablate(adapted, [])})
    assert result.layers == (slot.path,) and result.replaced.fvu == pytest.approx(result.zero.fvu, rel=1e-4)
    assert result.original.ce_loss == pytest.approx(without.original.ce_loss)  # LoRA starts at zero
    assert result.replaced.ce_loss == pytest.approx(result.zero.ce_loss, abs=1e-6)
    summary = summarize(adapted, batches, slots=[(slot.site, slot.name)], library=KAN_LIBRARY.subset(["x", "x^2"]))
    assert summary.faithfulness.layers == (slot.path,)
