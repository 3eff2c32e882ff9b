"""`mean_loss` is the cross-entropy of all predicted tokens, whatever the batches."""

import math

import pytest
import torch
from tiny_models import tiny_llama
from torch.nn.functional import cross_entropy

from kansformer.errors import DataError
from kansformer.training.evaluate import mean_loss

BLOCKS = (torch.arange(5 * 8).reshape(5, 8) ** 2) % 23


@pytest.fixture
def model():
    return tiny_llama(num_hidden_layers=1, initializer_range=0.3, attention_dropout=0.5)


def test_it_is_the_mean_over_all_predicted_tokens(model):
    model.eval()
    with torch.no_grad():
        logits = model(BLOCKS).logits[:, :-1]
    expected = cross_entropy(logits.reshape(-1, 24).double(), BLOCKS[:, 1:].reshape(-1)).item()
    model.train()
    for batch_size in (1, 2, 5, 9):
        result = mean_loss(model, BLOCKS, batch_size)
        assert result.loss == pytest.approx(expected, rel=1e-6)
        assert result.perplexity == math.exp(result.loss)
        assert result.tokens == 35
    assert model.training


def test_progress_ends_at_the_result(model):
    states = []
    result = mean_loss(model, BLOCKS, 2, progress=lambda *state: states.append(state))
    assert [state[1:3] for state in states] == [(1, 3), (2, 3), (3, 3)]
    assert states[-1][3].startswith(f"loss {result.loss:.3f}  ")
    assert str(result) == f"loss {result.loss:.4f}, perplexity {result.perplexity:.2f} on 35 tokens"


@pytest.mark.parametrize(
    ("blocks", "batch_size", "sentence"),
    [
        (BLOCKS[:0], 1, r"got \(0, 8\)"),
        (BLOCKS[0], 1, r"got \(8,\)"),
        (BLOCKS[:, :1], 1, r"got \(5, 1\)"),
        (BLOCKS, 0, "batch_size must be a whole number of at least 1, got 0"),
    ],
)
def test_blocks_that_cannot_be_used_are_refused(model, blocks, batch_size, sentence):
    with pytest.raises(DataError, match=sentence):
        mean_loss(model, blocks, batch_size)
