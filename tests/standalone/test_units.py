"""Fits of samples in any units: far from zero, large, small, or constant."""

import copy

import pytest
import torch

from kansformer.kan import KAN, Dataset, create_dataset, init

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def data():
    return create_dataset(
        lambda x: torch.sin(2 * x[:, :1]) * x[:, 1:2] + x[:, 1:2] ** 2, 2, num_train=300, num_test=100
    )


@pytest.mark.parametrize(
    ("input_scale", "input_shift", "target_scale", "target_shift"),
    [(1e6, 0, 1, 0), (0.05, 7.4, 1, 0), (1, 0, 1e-12, 0), (1, 0, 1, 1e3), (1e6, 1e7, 1e-3, 10), (50, 2.46e6, 1, 0)],
)
def test_samples_in_other_units_are_fitted_as_well(input_scale, input_shift, target_scale, target_shift, data):
    x, y, test_x, test_y = vars(data).values()
    scaled = Dataset(
        x * input_scale + input_shift,
        y * target_scale + target_shift,
        test_x * input_scale + input_shift,
        test_y * target_scale + target_shift,
    )
    history = KAN([2, 3, 1], seed=1).fit(scaled, steps=25, **QUIET)
    assert history.test_error[-1] < 1e-2 * target_scale


@pytest.mark.parametrize("constant", [300.0, 1e9])
def test_a_column_that_never_varies_does_no_harm(constant, data):
    x, y = data.train_input, data.train_target
    model = KAN([3, 3, 1], seed=1)
    history = model.fit((torch.cat([x, torch.full_like(y, constant)], dim=1), y), steps=25, **QUIET)
    assert history.train_error[-1] < 1e-2


def test_only_curves_as_they_were_drawn_are_brought_to_other_units(data):
    far = Dataset(*(part * 1e3 for part in vars(data).values()))
    model = KAN([2, 3, 1], seed=1)
    model.fit(data, steps=1, **QUIET)
    before = copy.deepcopy(model.state_dict())
    init.draw_at_inputs(model, far.train_input)
    init.start_at_targets(model, far.train_input, 1e-9 * data.train_target)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    thin = KAN([2, 3, 1], seed=1, init_density=0.5)
    init.draw_at_inputs(thin, far.train_input)
    assert (thin.layers[0].domain.diff() > 1e3).all() and not thin.layers[0].coefficients.mT[~thin.alive[0]].any()
    fixed_grids = KAN([2, 3, 1], seed=1)
    fixed_grids.fit(far, steps=1, grid_update_every=0, **QUIET)
    assert torch.equal(fixed_grids.layers[0].domain, KAN([2, 3, 1]).layers[0].domain)


def test_constant_targets_are_met(data):
    model = KAN([2, 2, 1], seed=1)
    history = model.fit((data.train_input, torch.full_like(data.train_target, 7.0)), steps=5, **QUIET)
    assert history.train_error[-1] < 1e-12


@pytest.mark.parametrize("optimizer", ["lm", "adam", "lbfgs"])
def test_a_column_that_never_varied_is_no_cliff(optimizer, data):
    """Its domain was 20 times narrower after every move of the grids."""
    x = torch.cat([data.train_input, torch.full_like(data.train_target, 25.0)], dim=1)
    model = KAN([3, 3, 1], seed=1)
    model.fit((x, data.train_target), steps=20, optimizer=optimizer, **QUIET)
    nearby = x.clone()
    nearby[:, 2] = 25.1
    assert (model.predict(nearby) - model.predict(x)).abs().max() < 2
    assert (model.layers[0].domain[2].diff() > 1).all()


def test_float32_fits_years_as_float64_does():
    x = torch.linspace(2020, 2025, 200, dtype=torch.float64).unsqueeze(-1)
    errors = [
        KAN([1, 1], dtype=dtype).fit((x, torch.sin(x - 2020)), steps=20, **QUIET).train_error[-1]
        for dtype in (torch.float64, torch.float32)
    ]
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


def test_outputs_of_other_sizes_are_made_sparse_alike():
    x = torch.rand(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = torch.cat([torch.sin(3 * x[:, :1]), 1000 * torch.exp(2 * x[:, 1:])], dim=1)
    model = KAN([2, 3, 2])
    model.sparsify((x, y))
    assert ((model(x) - y).std(dim=0) / y.std(dim=0) < 1e-2).all()
    assert len(list(model.edges())) == 4


def test_an_output_that_is_constant_up_to_rounding_does_no_harm():
    x = torch.rand(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = torch.stack([x[:, 0] ** 2 + 0.5 * x[:, 1], torch.sin(7 * x[:, 0]) ** 2 + torch.cos(7 * x[:, 0]) ** 2], dim=1)
    model = KAN([2, 2])
    model.sparsify((x, y))
    assert (model(x) - y).square().mean(dim=0).sqrt().max() < 1e-3


def test_no_steps_change_nothing(data):
    model = KAN([2, 2, 1])
    before = model(data.test_input).detach()
    model.fit(data, steps=0, starts=3, **QUIET)
    assert torch.equal(model(data.test_input), before)
