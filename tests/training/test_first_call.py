import pytest
import torch
import transformers
from tiny_models import SMALL, tiny_config

from kansformer.errors import ConfigError
from kansformer.training import mean_loss
from kansformer.training.first_call import call_once

TOKENS = torch.arange(3, 15)[None]
BERT = transformers.BertConfig(**SMALL, max_position_embeddings=16)
SIZES = {name: value for name, value in SMALL.items() if name != "vocab_size"}
MODELS = {
    "Llama": (transformers.LlamaForCausalLM, tiny_config(), TOKENS, "causal-lm", True),
    "masked BERT": (transformers.BertForMaskedLM, BERT, TOKENS, "masked-lm", False),
    "classifying BERT": (
        transformers.BertForSequenceClassification, BERT, torch.tensor([1]), "sequence-classification", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_whether_the_loss_is_divided_by_a_given_number(name):
    model_class, config, labels, task, divides = MODELS[name]
    model = model_class(config).train()
    assert call_once(model, {"input_ids": TOKENS, "labels": labels}, task) == divides
    assert model.training


def test_a_model_that_sees_what_it_predicts_is_refused():
    encoder = transformers.BertLMHeadModel(BERT)
    with pytest.raises(ConfigError, match="BertLMHeadModel sees the tokens that it predicts.*is_decoder=true"):
        call_once(encoder, {"input_ids": TOKENS, "labels": TOKENS}, "causal-lm")
    with pytest.raises(ConfigError, match="sees the tokens"):
        mean_loss(transformers.BertForMaskedLM(BERT), TOKENS)
    decoder = transformers.BertLMHeadModel(transformers.BertConfig(**{**BERT.to_diff_dict(), "is_decoder": True}))
    call_once(decoder, {"input_ids": TOKENS, "labels": TOKENS}, "causal-lm")
    assert mean_loss(decoder, TOKENS).tokens == 11


@pytest.mark.parametrize("last", [0, 3, 14])
@pytest.mark.parametrize("length", [2, 12])
def test_a_model_that_does_not_is_let_through(length, last):
    tokens = torch.cat([TOKENS[:, : length - 1], torch.tensor([[last]])], dim=1)
    assert mean_loss(transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_head=2, n_layer=1)), tokens)


def test_rows_that_do_not_fit_are_refused_with_their_shapes():
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, image_size=32, patch_size=16))
    row = {"pixel_values": torch.zeros(1, 3, 48, 48), "labels": torch.tensor([0])}
    with pytest.raises(ConfigError, match=r"ViTFor.* a row .*pixel_values \(1, 3, 48, 48\).*: Value"):
        call_once(vit, row, "image-classification")
