"""Tiny random models, and curves with something in them to save."""

import pytest
import torch
from tiny_models import randomize_curves, tiny_bert, tiny_llama
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from kansformer import KANConfig, convert

VOCABULARY = 24
TOKENS = torch.arange(12).reshape(2, 6) % VOCABULARY


def make_gpt2(**settings):
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, **settings))


MAKERS = {"llama": tiny_llama, "gpt2": make_gpt2, "bert": tiny_bert}


def make_model(family, **settings):
    torch.manual_seed(0)
    return MAKERS[family](**settings).eval()


@pytest.fixture
def make():
    """make(family, **config settings): a plain model in evaluation mode, the same one each time."""

    return make_model


@pytest.fixture
def make_converted(make):
    """make_converted(family, KANConfig, **config settings): converted, its curves bent at random."""

    def build(family="llama", config=None, **settings):
        # Domains moved, as a grid update does: they must come from the checkpoint, too.
        return randomize_curves(convert(make(family, **settings), config or KANConfig()), domain=0.75)

    return build


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
