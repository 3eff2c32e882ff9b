"""A tiny language model with bent curves, its tokenizer and its tokens, for the libraries around transformers."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kansformer import KANConfig, convert

VOCABULARY = 24
SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=None,
    eos_token_id=None,
)


@pytest.fixture
def tokens():
    return torch.arange(12).reshape(2, 6)


@pytest.fixture
def make_plain():
    """make_plain(): a plain model in evaluation mode, the same one each time."""

    def build():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()

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
        return bend(make_straight(**fields))

    return build


@torch.no_grad()
def bend(model, scale=0.2):
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith(("coefficients", "mix")):
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(name="bend")
def bend_fixture():
    """bend(model, scale): the model, its curves bent at random."""
    return bend


@pytest.fixture
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{i}": i for i in range(VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, "w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0", pad_token="w1", eos_token="w2")  # noqa: S106
