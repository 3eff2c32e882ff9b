"""Every basis against mathematics written down here a second time, and the properties that all of them share."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import assert_close_to_float64, relative_error

from kansformer.basis import BASES, EXTRAPOLATIONS, Basis
from kansformer.errors import ConfigError

LOWER, UPPER = -1.5, 2.5
DOMAIN = torch.tensor([LOWER, UPPER], dtype=torch.float64)
INSIDE = torch.linspace(LOWER, UPPER, 203, dtype=torch.float64)[1:-1]
ALL = [Basis(name=name, grid_size=4, order=3) for name in BASES]
ids = [basis.name for basis in ALL]


def denominator_of(basis: Basis) -> torch.Tensor | None:
    """A denominator whose Q changes its sign inside the domain."""
    if not basis.num_denominator:
        return None
    return torch.linspace(0.7, -0.9, basis.num_denominator, dtype=torch.float64)


def values(basis: Basis, x: torch.Tensor, domain: torch.Tensor = DOMAIN) -> torch.Tensor:
    denominator = denominator_of(basis)
    return basis.values(x, domain.to(x), None if denominator is None else denominator.to(x))


def cox_de_boor(x: float, knots: list[float], index: int, degree: int) -> float:
    """The textbook recursion, one value at a time (de Boor, 1978)."""
    if degree == 0:
        return float(knots[index] <= x < knots[index + 1])
    left = (x - knots[index]) / (knots[index + degree] - knots[index])
    right = (knots[index + degree + 1] - x) / (knots[index + degree + 1] - knots[index + 1])
    return left * cox_de_boor(x, knots, index, degree - 1) + right * cox_de_boor(x, knots, index + 1, degree - 1)


@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize("grid_size", [1, 2, 5])
def test_bspline_is_the_cox_de_boor_recursion(grid_size, order):
    step = (UPPER - LOWER) / grid_size
    knots = [LOWER + (i - order) * step for i in range(grid_size + 2 * order + 1)]
    x = INSIDE[::7]
    expected = [[cox_de_boor(float(v), knots, i, order) for i in range(grid_size + order)] for v in x]
    actual = values(Basis(grid_size=grid_size, order=order), x)
    assert_close_to_float64(actual, torch.tensor(expected, dtype=torch.float64), torch.float64)


@pytest.mark.parametrize("order", [1, 2, 7, 16])
def test_chebyshev_is_a_cosine_of_the_angle(order):
    z = 2 * (INSIDE - LOWER) / (UPPER - LOWER) - 1
    expected = torch.stack([torch.cos(k * torch.arccos(z)) for k in range(order + 1)], dim=-1)
    assert_close_to_float64(values(Basis(name="chebyshev", order=order), INSIDE), expected, torch.float64)


def test_fourier_is_cosines_and_sines_of_the_domain():
    phase = 2 * math.pi * (INSIDE - LOWER) / (UPPER - LOWER)
    columns = [torch.ones_like(phase)]
    columns += [torch.cos(k * phase) for k in (1, 2, 3)] + [torch.sin(k * phase) for k in (1, 2, 3)]
    actual = values(Basis(name="fourier", grid_size=3), INSIDE)
    assert_close_to_float64(actual, torch.stack(columns, dim=-1), torch.float64)


def test_rbf_is_a_gaussian_around_every_knot():
    width = (UPPER - LOWER) / 4
    columns = [torch.exp(-(((INSIDE - LOWER - k * width) / width) ** 2)) for k in range(5)]
    assert_close_to_float64(values(Basis(name="rbf", grid_size=4), INSIDE), torch.stack(columns, -1), torch.float64)


@pytest.mark.parametrize("order", [1, 3, 5, 9])
def test_rational_takes_the_absolute_value_of_the_sum(order):
    basis = Basis(name="rational", order=order)
    z = 2 * (INSIDE - LOWER) / (UPPER - LOWER) - 1
    q = sum(b * z ** (k + 1) for k, b in enumerate(denominator_of(basis)))
    expected = torch.stack([z**k / (1 + q.abs()) for k in range(order + 1)], dim=-1)
    assert_close_to_float64(values(basis, INSIDE), expected, torch.float64)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.floats(-50, 50), min_size=4, max_size=4), st.floats(-1, 1))
def test_rational_has_no_poles(denominator, x):
    basis, b = Basis(name="rational", order=5), torch.tensor(denominator, dtype=torch.float64)
    domain = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert basis.values(torch.tensor([x], dtype=torch.float64), domain, b).abs().max() <= 1


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 5), st.floats(LOWER, UPPER))
def test_bspline_sums_to_one_with_few_functions_alive(grid_size, order, x):
    found = values(Basis(grid_size=grid_size, order=order), torch.tensor([x], dtype=torch.float64))
    assert found.sum().item() == pytest.approx(1, abs=1e-13)
    assert found.min() >= -1e-15
    assert (found != 0).sum() <= order + 1


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize("name", BASES)
def test_derivative_equals_autograd(name, extrapolation):
    basis = Basis(name=name, grid_size=4, order=4, extrapolation=extrapolation)
    x = torch.linspace(LOWER - 2, UPPER + 2, 87, dtype=torch.float64).requires_grad_()
    found = values(basis, x)
    expected = torch.stack(
        [torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in found.unbind(-1)], -1
    )
    actual = basis.derivatives(x, DOMAIN, denominator_of(basis))
    assert_close_to_float64(actual, expected, torch.float64)


@pytest.mark.parametrize("name", BASES)
def test_gradcheck_twice(name):
    basis = Basis(name=name, grid_size=3, order=4)
    x = torch.tensor([-2.3, -1.1, 0.13, 0.9, 3.7], dtype=torch.float64, requires_grad=True)
    tensors = [x, DOMAIN] + ([denominator_of(basis).requires_grad_()] if basis.num_denominator else [])
    assert torch.autograd.gradcheck(basis.values, tensors)
    assert torch.autograd.gradgradcheck(basis.values, tensors)


@pytest.mark.parametrize("order", range(1, 6))
def test_bspline_has_order_minus_one_continuous_derivatives(order):
    basis, step = Basis(grid_size=4, order=order), 1e-7
    knots = torch.linspace(LOWER, UPPER, 5, dtype=torch.float64)[1:-1]
    for degree in range(order):
        sides = []
        for x in (knots - step, knots + step):
            found = x.requires_grad_()
            y = basis.values(found, DOMAIN) @ torch.linspace(-1, 2, basis.num_coefficients, dtype=torch.float64) ** 3
            for _ in range(degree):
                (y,) = torch.autograd.grad(y.sum(), found, create_graph=True)
            sides.append(y.detach())
        assert torch.allclose(*sides, atol=1e-4), f"derivative {degree} jumps"


@pytest.mark.parametrize("basis", ALL, ids=ids)
def test_linear_extrapolation_follows_the_tangent(basis):
    ends = DOMAIN.clone()
    value, slope = values(basis, ends), basis.derivatives(ends, DOMAIN, denominator_of(basis))
    for distance in (1e-3, 1.0, 300.0):
        shift = torch.tensor([-distance, distance], dtype=torch.float64)
        expected = value + slope * shift.unsqueeze(-1)
        assert relative_error(values(basis, ends + shift), expected) < 1e-12
        assert relative_error(basis.derivatives(ends + shift, DOMAIN, denominator_of(basis)), slope) < 1e-12


@pytest.mark.parametrize("name", BASES)
def test_clamp_keeps_the_last_value_and_zero_is_zero(name):
    far = torch.tensor([LOWER - 1e-6, UPPER + 1e-6, LOWER - 40, UPPER + 40], dtype=torch.float64)
    clamped = Basis(name=name, grid_size=4, extrapolation="clamp")
    assert torch.equal(values(clamped, far), values(clamped, DOMAIN).repeat(2, 1))
    assert values(Basis(name=name, grid_size=4, extrapolation="zero"), far).abs().max() == 0
    # The ends belong to the domain.
    zero = Basis(name=name, grid_size=4, extrapolation="zero")
    assert torch.equal(values(zero, DOMAIN), values(clamped, DOMAIN))


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize("name", BASES)
def test_infinite_inputs_stay_finite_and_nan_stays_nan(name, extrapolation):
    basis = Basis(name=name, grid_size=4, extrapolation=extrapolation)
    x = torch.tensor([math.inf, -math.inf, 3e38, -3e38], requires_grad=True)
    found = values(basis, x)
    assert found.isfinite().all()
    (found.sum() * 1e-20).backward()
    assert x.grad.isfinite().all()
    assert values(basis, torch.tensor([math.nan])).sum().isnan()


@pytest.mark.parametrize("width", [1e-30, 1e30])
@pytest.mark.parametrize("basis", ALL, ids=ids)
def test_extreme_domains(basis, width):
    domain = torch.tensor([-width / 2, width / 2])
    unit = torch.tensor([0.0, 0.2, 0.5, 0.77, 1.0])
    expected = values(basis, unit.double(), torch.tensor([0.0, 1.0]))
    found = values(basis, (unit - 0.5) * width, domain)
    assert relative_error(found, expected) < 1e-6
    assert values(basis, torch.tensor([-1.0, 0.0, 1.0]), domain).isfinite().all()


@pytest.mark.parametrize("grid_size", [1, 1000])
@pytest.mark.parametrize("name", ["bspline", "rbf", "fourier"])
def test_extreme_grids(name, grid_size):
    basis = Basis(name=name, grid_size=grid_size)
    x = torch.linspace(LOWER - 1, UPPER + 1, 301)
    found = values(basis, x)
    assert found.shape == (301, basis.num_coefficients)
    # Rounding x to float32 moves it by up to 6e-8 of the domain, which is 6e-8 · G of an interval, or 2π times that
    # in a sine's phase; the slopes that extrapolate are as much larger.
    assert relative_error(found, values(basis, x.double())) < 4e-7 * grid_size + 1e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "spline"}, r"Unknown basis 'spline'. Choose one of: bspline, chebyshev, rbf, fourier, rational"),
        ({"extrapolation": "wrap"}, "Unknown extrapolation 'wrap'. Choose one of: linear, clamp, zero"),
        ({"grid_size": 0}, "grid_size must be a whole number from 1 to 10000, got 0"),
        ({"grid_size": 2.0}, r"grid_size .* got 2.0"),
        ({"grid_size": True}, "grid_size .* got True"),
        ({"order": 6}, "order of the basis 'bspline' must be a whole number from 1 to 5, got 6"),
        ({"order": 2.5}, "order .* must be a whole number from 1 to 5, got 2.5"),
        ({"name": "chebyshev", "order": 17}, "basis 'chebyshev' must .* from 1 to 16, got 17"),
        ({"name": "rational", "order": 0}, "basis 'rational' must .* from 1 to 9, got 0"),
        ({"name": "rbf", "order": -1}, "basis 'rbf' must .* of at least 1, got -1"),
    ],
)
def test_impossible_settings_name_the_choices(settings, message):
    with pytest.raises(ConfigError, match=message):
        Basis(**settings)
