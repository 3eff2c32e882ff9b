"""Tiny random models, and curves with something in them to save."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from kansformer import KANConfig, convert

VOCABULARY = 24
TOKENS = torch.arange(12).reshape(2, 6) % VOCABULARY


def make_llama(**settings):
    values = dict(vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2)
    heads = dict(num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64)
    return LlamaForCausalLM(LlamaConfig(**values, **heads, **settings))


def make_gpt2(**settings):
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, **settings))


def make_bert(**settings):
    values = dict(vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2)
    return BertForMaskedLM(BertConfig(**values, num_attention_heads=2, max_position_embeddings=64, **settings))


MAKERS = {"llama": make_llama, "gpt2": make_gpt2, "bert": make_bert}


@pytest.fixture
def make():
    """make(family, **config settings): a plain model in evaluation mode, the same one each time."""

    def build(family, **settings):
        torch.manual_seed(0)
        return MAKERS[family](**settings).eval()

    return build


@pytest.fixture
def make_converted(make):
    """make_converted(family, KANConfig, **config settings): converted, its curves bent at random."""

    def build(family="llama", config=None, **settings):
        model = convert(make(family, **settings), config or KANConfig())
        bend(model)
        return model

    return build


@torch.no_grad()
def bend(model):
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith(("coefficients", "mix", "denominator")):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    for name, buffer in model.named_buffers():
        if name.endswith(".domain"):  # moved, as a grid update does: it must come from the checkpoint too
            buffer.mul_(0.75)


@pytest.fixture
def outputs():
    """outputs(model): what it makes of the same tokens."""

    def run(model):
        with torch.no_grad():
            result = model(TOKENS)
        return result[0]

    return run


@pytest.fixture
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{i}": i for i in range(VOCABULARY)}
    special = {"unk_token": "w0", "pad_token": "w1", "eos_token": "w2"}
    backend = Tokenizer(models.WordLevel(words, special["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)
