"""A tiny language model with bent curves, its tokenizer and its tokens, for the libraries around transformers."""

import pytest
import torch
from tiny_models import randomize_curves, tiny_llama
from transformers import PreTrainedTokenizerFast

from kansformer import KANConfig, convert

VOCABULARY = 24


@pytest.fixture
def tokens():
    return torch.arange(12).reshape(2, 6)


@pytest.fixture
def make_plain():
    """make_plain(**fields of LlamaConfig): a plain model in evaluation mode, the same one each time."""

    def build(**fields):
        sizes = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, max_position_embeddings=64)
        return tiny_llama(**sizes, pad_token_id=0, bos_token_id=None, eos_token_id=None, **fields).eval()

    return build


@pytest.fixture
def make_straight(make_plain):
    """make_straight(**fields of KANConfig): converted, its curves straight."""

    def build(**fields):
        return convert(make_plain(), KANConfig(**fields))

    return build


@pytest.fixture
def make_bent(make_straight):
    """make_bent(**fields of KANConfig): converted, its curves bent at random."""

    def build(**fields):
        return randomize_curves(make_straight(**fields))

    return build


@pytest.fixture
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{i}": i for i in range(VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, "w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0", pad_token="w1", eos_token="w2")  # noqa: S106
