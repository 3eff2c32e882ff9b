"""Smoothness is chosen by cross-validation, and large Jacobians come in blocks of rows."""

import pytest
import torch

from kansformer.errors import ConfigError
from kansformer.kan import KAN, fitting

GENERATOR = torch.Generator().manual_seed(0)
X = 2 * torch.rand(100, 2, dtype=torch.float64, generator=GENERATOR) - 1
CLEAN = torch.sin(3 * X[:, :1])
NOISY = CLEAN + 0.3 * torch.randn(100, 1, dtype=torch.float64, generator=GENERATOR)


def test_noise_makes_a_fit_smooth():
    errors = {}
    for smoothness in ("auto", 0.0):
        model = KAN([2, 2, 1])
        history = model.fit((X[:60], NOISY[:60]), smoothness=smoothness, steps=12, progress=False)
        errors[smoothness] = (model.predict(X[60:]) - CLEAN[60:]).square().mean().sqrt()
        assert history.smoothness > 0 if smoothness == "auto" else history.smoothness == 0
    assert errors["auto"] < 0.5 * errors[0.0]


def test_a_few_rows_get_the_smoothest_fit():
    assert KAN([2, 1]).fit((X[:5], CLEAN[:5]), smoothness="auto", steps=3, progress=False).smoothness == 1.0


def test_the_chosen_smoothness_is_the_same_when_given():
    chosen, given = KAN([2, 1]), KAN([2, 1])
    smoothness = chosen.fit((X, NOISY), smoothness="auto", steps=6, progress=False).smoothness
    given.fit((X, NOISY), smoothness=smoothness, steps=6, progress=False)
    assert torch.equal(chosen(X), given(X))


def test_an_unknown_smoothness_is_an_error():
    with pytest.raises(ConfigError, match="smoothness must be a finite number of at least 0, got 'much'"):
        KAN([2, 1]).fit((X, CLEAN), smoothness="much", progress=False)


def test_blocks_of_rows_give_the_same_fit(monkeypatch):
    whole, in_blocks = KAN([2, 2, 1]), KAN([2, 2, 1])
    expected = whole.fit((X, CLEAN), smoothness=1e-4, steps=8, progress=False)
    monkeypatch.setattr(fitting, "MAX_JACOBIAN", 0)
    monkeypatch.setattr(fitting, "BLOCK", 1000)  # 17 rows
    result = in_blocks.fit((X, CLEAN), smoothness=1e-4, steps=8, progress=False)
    assert result.train_error == pytest.approx(expected.train_error, rel=1e-6)
    torch.testing.assert_close(in_blocks(X), whole(X), rtol=1e-5, atol=1e-6)
