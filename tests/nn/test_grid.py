"""Moving a grid to the data and refining it keep the curves."""

from copy import deepcopy

import pytest
import torch
from nn.formulas import BASIS_AND_EDGES, CURVES, inputs, make, randomised
from numerics import relative_error
from torch import nn

from kansformer.errors import ConfigError, DataError
from kansformer.nn import KANLinear, LearnedActivation, refine_grid, update_grid
from kansformer.nn.curves import CurveSpec


@pytest.mark.parametrize(("basis", "edges"), BASIS_AND_EDGES)
def test_update_grid_covers_the_inputs(basis, edges):
    module, x = make("linear", basis, edges), inputs(7, 30, 6)
    assert update_grid(module, x, margin=0.0) is module
    x_SP = x.reshape(-1, module.domain.shape[0], 6 // module.domain.shape[0]).movedim(1, 0).flatten(1)
    assert torch.allclose(module.domain, torch.stack([x_SP.amin(1), x_SP.amax(1)], dim=-1))
    assert module(x).isfinite().all()


def test_update_grid_takes_the_margin_and_the_quantile():
    module, x = LearnedActivation(1, **CURVES | {"groups": 1}), torch.linspace(-10, 10, 1001).unsqueeze(-1)
    update_grid(module, x, margin=0.1)
    assert torch.allclose(module.domain, torch.tensor([[-12.0, 12.0]]))
    update_grid(module, x, margin=0.0, quantile=0.9)
    assert torch.allclose(module.domain, torch.tensor([[-8.0, 8.0]]))


@pytest.mark.parametrize("order", [1, 3, 5])
def test_update_grid_to_a_part_of_an_interval_keeps_the_curve_exactly(order):
    # One polynomial piece lies in every space of splines.
    module = randomised(LearnedActivation(6, **CURVES | {"order": order}, dtype=torch.float64))
    with torch.no_grad():
        module.domain.copy_(torch.tensor([-2.0, 2.0]))
    x = torch.rand(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 0.9 + 0.05
    before = module(x)
    assert relative_error(update_grid(module, x)(x), before) < 1e-11


@pytest.mark.parametrize("edges", ["channel", "full"])
def test_update_grid_keeps_a_curve_to_the_residual_of_the_fit(edges):
    x = inputs(400, 6, dtype=torch.float64)
    residuals = []
    for grid_size in (8, 32, 128):
        module = KANLinear(6, 4, edges=edges, grid_size=grid_size, domain=(-3.0, 3.0), dtype=torch.float64)
        smooth = torch.linspace(-3, 3, module.coefficients.shape[1], dtype=torch.float64).sin()
        with torch.no_grad():
            module.coefficients.copy_(smooth.reshape(1, -1, *(1,) * (module.coefficients.ndim - 2)))
        before = module(x)
        residuals.append(relative_error(update_grid(module, x)(x), before))
    assert residuals[0] < 0.02 and residuals[1] < 1e-3 and residuals[2] < 5e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 1.0, -1234.5, 1e-7, 3e3])
@pytest.mark.parametrize("rows", [1, 5])
def test_update_grid_with_constant_inputs(dtype, value, rows):
    module = make("linear", "bspline", "channel", dtype)
    x = torch.full((rows, 6), value, dtype=dtype)
    before = module(x)
    after = update_grid(module, x)(x)
    assert (module.domain[:, 1].double() - module.domain[:, 0].double() > 0).all()
    assert after.isfinite().all() and module.coefficients.isfinite().all()
    if dtype.itemsize >= 4:  # the new domain may hold a knot of the old curve, which one fit cannot follow exactly
        assert relative_error(after, before) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 5.0, -1234.5])
def test_a_dead_channel_stays_usable(dtype, value):
    # As a unit of ReLU that is 0 for all inputs of the update, and something else afterwards.
    module = update_grid(LearnedActivation(2, base="zero"), torch.tensor([[value, -1.0], [value, 1.0]]))
    assert (module.domain[0, 1] - module.domain[0, 0]) >= 2 - 1e-6  # as before
    with torch.no_grad():
        module.coefficients.add_(0.03 * torch.tensor([1.0, -1.0]).repeat(4))  # a step of Adam at 30 times 1e-3
        x = torch.full((1, 2), value + 0.5)
        assert module(x).abs().max() < 10
        assert module.to(dtype)(x.to(dtype)).isfinite().all()


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e30])
def test_update_grid_with_tiny_and_huge_inputs(scale):
    module = make("linear", "bspline", "channel")
    x = inputs(20, 6) * scale
    assert update_grid(module, x)(x).isfinite().all()


def test_update_grid_does_not_round_float64_inputs():
    module, x = LearnedActivation(1, dtype=torch.float64), torch.tensor([[1.0], [1 + 1e-1], [1 + 1e-9]]).double()
    x[1] += 1e-12
    update_grid(module, x, margin=0.0)
    assert module.domain[0, 1] == pytest.approx(x[1].item(), rel=1e-14)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_update_grid_refuses_inputs_that_are_not_finite(bad):
    model = nn.Sequential(make("linear", "bspline", "full"), nn.BatchNorm1d(4), make("linear", "bspline", "channel"))
    model[2] = KANLinear(4, 3)
    model[1].eval()
    before, modes = deepcopy(model.state_dict()), [m.training for m in model.modules()]
    x = inputs(5, 6)
    x[3, 2] = bad
    with pytest.raises(DataError, match="The input of 0 is not finite"):
        update_grid(model, [inputs(5, 6), x])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_update_grid_runs_the_model_in_eval_mode_and_restores_every_mode():
    random = nn.RReLU()  # within the fixed function of an activation, which is no submodule
    activation = LearnedActivation.from_activation(nn.Sequential(random), 6, CurveSpec())
    activation.reset_parameters()
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(6), activation, nn.Dropout(0.1))
    model[1].eval()
    update_grid(model, inputs(50, 6), margin=0.0)
    expected = inputs(50, 6) / (1 + model[1].eps) ** 0.5
    assert torch.allclose(model[2].domain, torch.stack([expected.amin(0), expected.amax(0)], dim=-1))
    assert [module.training for module in model] == [True, False, True, True] and random.training


def test_update_grid_over_batches_and_mappings():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = LearnedActivation(6)

        def forward(self, hidden):
            return self.act(hidden)

    x, one, many = inputs(40, 6), Model(), Model()
    update_grid(one, {"hidden": x})
    update_grid(many, ({"hidden": part} for part in x.split(7)))
    assert torch.equal(one.act.domain, many.act.domain)
    assert torch.allclose(one.act.domain.mean(1), (x.amin(0) + x.amax(0)) / 2, atol=1e-6)


def test_update_grid_errors():
    with pytest.raises(ConfigError, match="no curves, so there is no grid to update"):
        update_grid(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(ConfigError, match="quantile must be above 0.5 and at most 1, got 0.5"):
        update_grid(LearnedActivation(2), torch.zeros(1, 2), quantile=0.5)
    with pytest.raises(DataError, match="No input reached any curve"):
        update_grid(LearnedActivation(2), [])
    with pytest.raises(DataError, match="No input reached any curve"):
        update_grid(LearnedActivation(2), torch.zeros(0, 2))


# Without RBF, whose wide bumps are no sum of narrow ones.
@pytest.mark.parametrize(("basis", "edges"), [case for case in BASIS_AND_EDGES if case[0] != "rbf"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_nested_refinement_is_exact(basis, edges, dtype, tolerance):
    module, x = make("linear", basis, edges, dtype), inputs(50, 6, dtype=dtype)
    before = module(x)
    assert refine_grid(module, 12) is module
    assert module.curves.basis.grid_size == 12
    assert module.coefficients.shape[1] == module.curves.basis.num_coefficients
    assert relative_error(module(x), before) < tolerance
    assert module.curves.shapes(6, 4).keys() == {n for n in module.state_dict() if n not in ("weight", "bias")}


@pytest.mark.parametrize(("basis", "edges"), [("bspline", "full"), ("bspline", "group"), ("rbf", "channel")])
def test_straight_curves_stay_straight_on_a_finer_grid(basis, edges):
    module, x = make("linear", basis, edges), inputs(7, 30, 6)
    with torch.no_grad():
        module.coefficients.zero_()
    before, curves = module(x), module.coefficients.shape
    refine_grid(module, 2 * module.curves.basis.grid_size)
    assert module.coefficients.shape[1] == module.curves.basis.num_coefficients > curves[1]
    assert torch.equal(module(x), before)


def test_refine_grid_keeps_frozen_curves_frozen():
    module = LearnedActivation(6).requires_grad_(False)
    assert not refine_grid(module, 10).coefficients.requires_grad


def test_refine_grid_errors_leave_the_model_alone():
    model = nn.Sequential(LearnedActivation(2), LearnedActivation(2))
    with pytest.raises(ConfigError, match="grid_size must be a whole number from 1 to 10000, got 2.5"):
        refine_grid(model, 2.5)
    assert [m.curves.basis.grid_size for m in model] == [5, 5]
    with pytest.raises(ConfigError, match="no curves, so there is no grid to refine"):
        refine_grid(nn.Linear(2, 2), 3)


def test_an_attribute_of_the_same_name_is_not_taken_for_curves():
    model = nn.Sequential(nn.Linear(6, 6), LearnedActivation(6))
    model[0].curves = "bezier"
    update_grid(model, inputs(5, 6))
    refine_grid(model, 10)
    assert model[0].curves == "bezier"
