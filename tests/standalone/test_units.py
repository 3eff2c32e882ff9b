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
