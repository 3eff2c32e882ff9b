"""Formulas are judged where the tokens are, and by what they say beyond the base."""

import pytest
import torch

from kansformer import KANLinear
from kansformer.interp import record_edges
from kansformer.interp.fidelity import fidelity, recorded_points
from kansformer.symbolic import LIBRARY, fit_symbolic

X = torch.linspace(-4, 4, 64, dtype=torch.float64)[None]


def silu_by_silu(learned):
    y = torch.nn.functional.silu(X) + learned
    return fit_symbolic(X, torch.nn.functional.silu(X), library=LIBRARY.subset(["silu"])), y


def test_a_formula_of_the_base_alone_explains_nothing_of_what_was_learned():
    learned = 0.01 * (torch.sin(5 * X) + 3)  # a constant says nothing about the curve
    fits, y = silu_by_silu(learned)
    found = fidelity(fits, X, y, learned)
    assert found.r2.item() > 0.999
    assert found.r2_learned.item() == pytest.approx(0, abs=0.02)


def test_a_straight_curve_is_explained_if_the_formula_is_exact():
    fits, y = silu_by_silu(torch.zeros_like(X))
    assert fidelity(fits, X, y, torch.zeros_like(X)).r2_learned.item() > 0.99
    inexact = fidelity(fits, X, y + 1e-3 * X, torch.zeros_like(X))
    assert inexact.r2_learned.item() == -1 and inexact.r2.item() > 0.999


def test_where_the_tokens_are_is_what_counts():
    """The formula is right in the middle, where all tokens are, and wrong outside."""
    line = fit_symbolic(X, X, library=LIBRARY.subset(["x"]))
    y = torch.where(X.abs() < 1, X, X.sign())
    x = X / 5
    assert fidelity(line, x, x, x).r2.item() == pytest.approx(1)
    assert fidelity(line, X, y, y).r2.item() < 0


def test_points_stand_for_equal_shares_of_the_tokens():
    layer = KANLinear(2, 3)
    x = torch.cat([torch.zeros(90, 2), torch.ones(10, 2)])
    with record_edges(torch.nn.Sequential(layer)) as records, torch.no_grad():
        layer(x)
    points = recorded_points(records["", "0"], 20)
    assert points.shape == (2, 20) and points.sum().item() == pytest.approx(4)


def test_a_formula_without_a_value_at_a_token_is_the_worst():
    fits = fit_symbolic(X + 5, (X + 5).log(), library=LIBRARY.subset(["log"]))
    assert fidelity(fits, X, X, X).r2.item() == -1


def test_where_nothing_varies_nothing_is_judged():
    fits = fit_symbolic(X, torch.sin(X), library=LIBRARY.subset(["x"]))
    same = torch.full_like(X, 0.7)
    assert not fidelity(fits, same, torch.sin(same), torch.sin(same)).varies
    assert fidelity(fits, X, torch.sin(X), torch.sin(X)).varies
