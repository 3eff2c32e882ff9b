"""Least-squares fits and changes of grid."""

import pytest
import torch
from numerics import relative_error

from kansformer.basis import BASES, Basis, fit_curves, refit_curves
from kansformer.errors import ShapeError

INPUTS, OUTPUTS = 3, 2
DOMAIN = torch.tensor([[-1.0, 1.0], [0.0, 5.0], [-3.0, -2.0]], dtype=torch.float64)


def coefficients_of(basis: Basis) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(INPUTS, basis.num_coefficients, OUTPUTS, dtype=torch.float64, generator=generator)


def denominator_of(basis: Basis) -> torch.Tensor | None:
    return torch.full((INPUTS, basis.num_denominator), 0.3, dtype=torch.float64) if basis.num_denominator else None


def samples(domain: torch.Tensor, count: int = 97) -> torch.Tensor:
    return domain[:, :1] + (domain[:, 1:] - domain[:, :1]) * torch.linspace(0, 1, count, dtype=torch.float64)


def curves(coefficients, basis, domain, x, denominator=None) -> torch.Tensor:
    if denominator is not None:
        denominator = denominator.unsqueeze(1)
    return basis.values(x, domain.unsqueeze(1), denominator) @ coefficients


@pytest.mark.parametrize("name", BASES)
def test_fit_recovers_curves_and_coefficients(name):
    basis = Basis(name=name, grid_size=4, order=3)
    expected, denominator, x = coefficients_of(basis), denominator_of(basis), samples(DOMAIN)
    y = curves(expected, basis, DOMAIN, x, denominator)
    found = fit_curves(x, y, basis, DOMAIN, denominator_ID=denominator, ridge=0.0)
    assert relative_error(found, expected) < 1e-10


def test_fit_keeps_dtype_and_takes_no_gradient():
    basis, x = Basis(), samples(DOMAIN)
    y = x.sin().unsqueeze(-1).float().requires_grad_()
    found = fit_curves(x, y, basis, DOMAIN)
    assert found.dtype == torch.float32 and not found.requires_grad


@pytest.mark.parametrize("name", BASES)
def test_fit_to_constant_samples_is_finite(name):
    basis = Basis(name=name, grid_size=4)
    x = DOMAIN.mean(dim=1, keepdim=True).expand(-1, 20)
    y = torch.full((INPUTS, 20, 1), 0.7, dtype=torch.float64)
    denominator = denominator_of(basis)
    found = fit_curves(x, y, basis, DOMAIN, denominator_ID=denominator)
    assert found.isfinite().all() and found.abs().max() < 10
    assert relative_error(curves(found, basis, DOMAIN, x, denominator), y) < 1e-5


def test_ridge_is_the_penalised_solution():
    basis, x, ridge = Basis(grid_size=3), samples(DOMAIN), 0.1
    y = torch.stack([x.sin(), x.cos()], dim=-1)
    design = basis.values(x, DOMAIN.unsqueeze(1))
    gram = design.mT @ design + ridge * x.shape[1] * torch.eye(basis.num_coefficients, dtype=torch.float64)
    assert relative_error(fit_curves(x, y, basis, DOMAIN, ridge=ridge), torch.linalg.solve(gram, design.mT @ y)) < 1e-11


@pytest.mark.parametrize(
    ("x_shape", "y_shape"), [((4,), (4, 1)), ((3, 4), (3, 5, 1)), ((3, 0), (3, 0, 1)), ((3, 4), (2, 4, 1))]
)
def test_samples_that_do_not_fit_are_refused(x_shape, y_shape):
    with pytest.raises(ShapeError, match="expected .inputs, samples. with at least one sample"):
        fit_curves(torch.zeros(x_shape), torch.zeros(y_shape), Basis(), DOMAIN)


@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize("factor", [1, 2, 3, 10])
def test_nested_refinement_is_exact(order, factor):
    old, new = Basis(grid_size=5, order=order), Basis(grid_size=5 * factor, order=order)
    coefficients, x = coefficients_of(old), samples(DOMAIN, 301)
    found = refit_curves(coefficients, old, DOMAIN, new, DOMAIN)
    assert relative_error(curves(found, new, DOMAIN, x), curves(coefficients, old, DOMAIN, x)) < 1e-12


def test_refit_with_a_domain_per_input_is_exact_where_the_spaces_nest():
    basis = Basis(name="chebyshev", order=5)
    coefficients = coefficients_of(basis)
    narrower = torch.stack([DOMAIN[:, 0] + 0.1, DOMAIN[:, 1] - torch.tensor([0.2, 0.3, 0.4])], dim=-1)
    found = refit_curves(coefficients, basis, DOMAIN, basis, narrower)
    x = samples(narrower)
    assert relative_error(curves(found, basis, narrower, x), curves(coefficients, basis, DOMAIN, x)) < 1e-12


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("scale", [1e-6, 0.5, 40.0])
def test_refit_is_finite_and_a_projection(name, scale):
    basis = Basis(name=name, grid_size=4)
    coefficients, denominator = coefficients_of(basis), denominator_of(basis)
    middle, half = DOMAIN.mean(1, keepdim=True), (DOMAIN[:, 1:] - DOMAIN[:, :1]) / 2 * scale
    domain = torch.cat([middle - half, middle + half], dim=1)
    found = refit_curves(coefficients, basis, DOMAIN, basis, domain, denominator_ID=denominator)
    assert found.isfinite().all()
    # Projecting the projection changes nothing.
    again = refit_curves(found, basis, domain, basis, domain, denominator_ID=denominator)
    x = samples(domain)
    first, second = (curves(c, basis, domain, x, denominator) for c in (found, again))
    assert relative_error(second, first) < 1e-9
