"""The expanded activation of a cubic B-spline with eight coefficients is exactly 2:4 sparse; kernels/README.md."""

import pytest
import torch
from kan_kernels import definition

# Eight columns as two groups of four: the even and the odd coefficients.
EVEN_THEN_ODD = [0, 2, 4, 6, 1, 3, 5, 7]


def expanded(extrapolation):
    x = torch.linspace(-3, 3, 4001, dtype=torch.float64).unsqueeze(-1)
    x = torch.cat([x, torch.tensor([[-1e30], [1e30]], dtype=torch.float64)])
    domain = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    return definition.basis_values(x, domain, "bspline", 5, 3, extrapolation)[:, 0]


@pytest.mark.parametrize("extrapolation", ["linear", "clamp", "zero"])
def test_at_most_two_of_four_are_not_zero(extrapolation):
    values = expanded(extrapolation)[:, EVEN_THEN_ODD].unflatten(1, (2, 4))
    assert (values != 0).sum(-1).max() == 2


def test_without_the_grouping_it_is_not():
    assert (expanded("linear").unflatten(1, (2, 4)) != 0).sum(-1).max() == 4


def test_half_of_the_columns_and_their_places_give_the_product():
    """What the sparse instruction does: two values and their two-bit places per group of four."""
    values = expanded("linear")[:-2, EVEN_THEN_ODD].unflatten(1, (2, 4))
    coefficients = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    places = values.abs().topk(2, dim=-1).indices.sort(-1).values
    kept = values.gather(-1, places)
    rows = coefficients[EVEN_THEN_ODD].unflatten(0, (2, 4))
    gathered = rows.expand(len(values), 2, 4, 3).gather(2, places.unsqueeze(-1).expand(-1, -1, -1, 3))
    compressed = (kept.unsqueeze(-1) * gathered).sum((1, 2))
    torch.testing.assert_close(compressed, expanded("linear")[:-2] @ coefficients, rtol=1e-12, atol=1e-12)


def test_the_places_follow_from_the_interval():
    """No search is needed: interval m has m … m + 3 alive, which gives each group's two places."""
    values = expanded("clamp")[:-2]
    unit = torch.linspace(-3, 3, 4001, dtype=torch.float64).add(1).div(2).clamp(0, 1)
    m = (unit * 5).floor().clamp(max=4).long()
    for parity in (0, 1):
        first = (m - parity + 1).div(2, rounding_mode="floor")  # smallest p with 2p + parity ≥ m
        group = values[:, parity::2]
        mask = torch.ones_like(group).scatter(1, torch.stack([first, first + 1], 1), 0.0)
        assert (group * mask == 0).all()
