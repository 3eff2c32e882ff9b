"""Two combinations of the inputs that are all that a target depends on are found by linear fits."""

import math

import pytest
import sympy
import torch

from kansformer.kan import find_formula
from kansformer.kan.reductions import find_reductions
from kansformer.symbolic import SCIENCE_LIBRARY

NAMES = ["k", "n", "r", "t"]


def growth(rows=600):
    """Logistic growth of a population n at the rate r to a capacity k."""
    unit = torch.rand(rows, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.tensor([500.0, 10, 0.1, 0]) + torch.tensor([1500.0, 90, 0.9, 20]) * unit
    k, n, r, t = x.unbind(dim=-1)
    return x, k / (1 + (k / n - 1) * torch.exp(-r * t))


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_dimensionless_groups_are_seen(noise):
    x, y = growth()
    y = y + noise * y.std() * torch.randn(len(y), generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    best, second, *_ = find_reductions(x, y, NAMES, SCIENCE_LIBRARY, math.inf)
    k, n, r, t = sympy.symbols(NAMES)
    assert {column.expression for column in best.columns} == {k / n, r * t}
    assert best.factor.expression == 1 / k
    assert best.error < max(0.003, 1.5 * noise) and second.error > 5 * best.error


def test_few_and_many_inputs_are_not_reduced():
    x, y = growth(100)
    assert find_reductions(x[:, :2], y, NAMES[:2], SCIENCE_LIBRARY, math.inf) == []
    many = torch.rand(100, 7, dtype=torch.float64)
    assert find_reductions(many, many[:, 0], list("abcdefg"), SCIENCE_LIBRARY, math.inf) == []


def test_a_library_without_reciprocals_has_no_ratios():
    x, y = growth(200)
    library = SCIENCE_LIBRARY.subset(["x", "x^2", "exp"])
    for reduction in find_reductions(x, y, NAMES, library, math.inf):
        for column in reduction.columns:
            assert all(power.exp > 0 for power in column.expression.atoms(sympy.Pow))
        divisor = 1 / reduction.factor.expression  # of the target, so what the formula is multiplied by
        assert all(power.exp > 0 for power in divisor.atoms(sympy.Pow))


def test_damped_oscillations_are_found():
    unit = torch.rand(800, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.tensor([10.0, 0.1, 2, 0]) + torch.tensor([90.0, 0.4, 4, 5]) * unit
    a, g, w, t = x.unbind(dim=-1)
    y = a * torch.exp(-g * t) * torch.cos(w * t)
    result = find_formula((x, y.unsqueeze(-1)), networks=1, progress=False)
    assert result.train_rmse < 1e-10 * float(x[:, 0].std())
