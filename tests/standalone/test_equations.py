"""Differential equations: exact derivatives, and solutions that are known."""

import math

import pytest
import torch

from kansformer.errors import ConfigError, DataError, ShapeError
from kansformer.kan import KAN, Edge, Equation, solve_equations
from kansformer.kan.jets import InputJets, jacobian, network_jets
from kansformer.kan.linearize import Parameters

QUIET = {"progress": False}


def points(count, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(count, width, generator=generator, dtype=torch.float64) - 1


@pytest.fixture(params=["bspline", "chebyshev", "rbf", "fourier", "rational"])
def model(request):
    """A network with products, formulas, bases, and inputs outside of its hidden grids."""
    model = KAN([2, [2, 1], 2], basis=request.param, order=5, seed=1, domain=(-1.0, 1.0))
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.normal_(generator=torch.Generator().manual_seed(0))
    model.fix_symbol(Edge(0, 0, 1), "sin")
    model.fix_symbol(Edge(1, 2, 1), "tanh")
    return model


def test_jets_are_the_derivatives(model):
    x = points(9, 2)
    jets, _ = network_jets(model, InputJets(x))
    torch.testing.assert_close(jets[..., 0], model(x).detach())
    leaf = x.clone().requires_grad_()
    for k, column in enumerate(model(leaf).unbind(1)):
        (slopes,) = torch.autograd.grad(column.sum(), leaf, create_graph=True)
        torch.testing.assert_close(jets[:, k, 1:3], slopes.detach())
        for d in range(2):
            (second,) = torch.autograd.grad(slopes[:, d].sum(), leaf, retain_graph=True)
            torch.testing.assert_close(jets[:, k, 3 + d], second[:, d])


def test_the_jacobian_is_the_derivative(model):
    x, generator = points(9, 2), torch.Generator().manual_seed(1)
    slopes = torch.randn(9, 3, 2, 5, generator=generator, dtype=torch.float64)
    found = jacobian(model, network_jets(model, InputJets(x))[1], slopes)
    parameters = Parameters(model)
    vector = parameters.read()
    assert found.shape == (9, 3, len(vector))
    for index in torch.randint(len(vector), (30,), generator=generator).tolist():
        residuals = []
        for step in (1e-6, -1e-6):
            moved = vector.clone()
            moved[index] += step
            parameters.write(moved)
            residuals.append((slopes * network_jets(model, InputJets(x))[0].unsqueeze(1)).sum((-1, -2)))
        torch.testing.assert_close(found[..., index], (residuals[0] - residuals[1]) / 2e-6, rtol=1e-4, atol=1e-4)


def test_an_oscillator_is_solved():
    time = torch.linspace(0, 3, 60, dtype=torch.float64)[:, None]
    model = KAN([1, 1], grid_size=12, order=5, domain=(0.0, 3.0), base="zero")
    equations = [
        Equation(time, lambda u: u.second[:, 0, 0] + 4 * u.value[:, 0]),
        Equation(time[:1], lambda u: torch.stack([u.value[:, 0] - 1, u.first[:, 0, 0]], dim=-1)),
    ]
    history = solve_equations(model, equations, steps=20, **QUIET)
    assert history.train_error[-1] < 1e-3
    torch.testing.assert_close(model.predict(time), torch.cos(2 * time), rtol=0, atol=1e-5)


def test_a_nonlinear_equation_is_solved_on_finer_grids():
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    model = KAN([1, 1], grid_size=5, order=5, base="zero")
    equations = [
        Equation(x, lambda u: u.first[:, 0, 0] - 1 - u.value[:, 0] ** 2),  # u = tan
        Equation(x[25:26] * 0, lambda u: u.value[:, 0]),
    ]
    errors = []
    for grid_size in (5, 10, 20):
        model.refine(grid_size)
        solve_equations(model, equations, steps=30, grid_update_every=0, **QUIET)
        errors.append((model.predict(x) - torch.tan(x)).abs().max().item())
    assert errors[2] < errors[0] / 100 and errors[2] < 1e-5


def test_poisson_is_solved_by_products():
    line = torch.linspace(-1, 1, 15, dtype=torch.float64)
    inside, one = torch.cartesian_prod(line, line), torch.ones_like(line)
    sides = torch.cat([torch.stack(pair, 1) for s in (-1, 1) for pair in ((s * one, line), (line, s * one))])

    def solution(x):
        return torch.sin(math.pi * x).prod(dim=-1)

    models = [KAN([2, [1, 1], 1], order=5, base="zero", seed=seed) for seed in range(3)]
    equations = [
        Equation(inside, lambda u: u.second[:, 0].sum(-1) + 2 * math.pi**2 * solution(u.x), weight=0.01),
        Equation(sides, lambda u: u.value[:, 0]),
    ]
    errors = [solve_equations(model, equations, steps=40, tolerance=1e-3, **QUIET).train_error[-1] for model in models]
    model = models[errors.index(min(errors))]
    assert (model.predict(inside)[:, 0] - solution(inside)).square().mean() < 1e-4


def test_the_best_of_several_starts_goes_on():
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    equations = [Equation(x, lambda u: u.first[:, 0, 0] - u.value[:, 0]), Equation(x[:1], lambda u: u.value[:, 0] - 1)]
    steps = []
    model = KAN([1, 2, 1])
    history = solve_equations(
        model, equations, steps=10, starts=3, callback=lambda step, network, _: steps.append((step, network)), **QUIET
    )
    assert [step for step, _ in steps] == [*range(1, len(history) + 1)] and all(own is model for _, own in steps)
    torch.testing.assert_close(model.predict(x), torch.exp(x + 1), rtol=1e-2, atol=1e-2)
    with pytest.raises(ConfigError, match="starts must be a whole number of at least 1, got 0"):
        solve_equations(model, equations, starts=0)


def test_conditions_that_are_missing_are_said():
    x = points(20, 2)
    poisson = Equation(x, lambda u: u.second[:, 0].sum(-1) - 1)
    with pytest.warns(UserWarning, match="derivatives of order 2 and no condition of a lower one"):
        solve_equations(KAN([2, 2, 1]), [poisson], steps=1, **QUIET)
    gradient = Equation(x, lambda u: u.first[:, 0] - u.x)  # determines the function up to a constant
    solve_equations(KAN([2, 2, 1]), [gradient], steps=1, **QUIET)
    solve_equations(KAN([2, 2, 1]), [poisson, Equation(x[:3], lambda u: u.value)], steps=1, **QUIET)


def test_bad_input():
    model = KAN([2, 1])
    x = points(5, 2)
    with pytest.raises(ConfigError, match="no equation"):
        solve_equations(model, [])
    with pytest.raises(ConfigError, match="weight of equation 0 must be a finite number above 0, got 0"):
        solve_equations(model, [Equation(x, lambda u: u.value, weight=0)])
    with pytest.raises(ShapeError, match=r"points of equation 1 must be \(points, 2\), got \(5, 1\)"):
        solve_equations(model, [Equation(x, lambda u: u.value), Equation(x[:, :1], lambda u: u.value)])
    with pytest.raises(DataError, match="points of equation 0 are not finite"):
        solve_equations(model, [Equation(x * torch.nan, lambda u: u.value)])
    with pytest.raises(ShapeError, match=r"must have a row for each of the 5 points, got \(1, 1\)"):
        solve_equations(model, [Equation(x, lambda u: u.value.sum(0, keepdim=True))])
    with pytest.raises(DataError, match="residuals are not finite for the network as it is"):
        solve_equations(model, [Equation(x, lambda u: u.value / 0)])
    history = solve_equations(
        model, [Equation(x.numpy(), lambda u: u.x[:, :1])], steps=2, **QUIET
    )  # nothing to be done
    assert history.train_error[-1] == pytest.approx(x[:, 0].square().mean().sqrt().item())
