"""Grids that move and become finer: never to a number that is not finite, and all modules or none."""

from copy import deepcopy

import pytest
import torch
from nn.formulas import BASIS_AND_EDGES, inputs, make
from torch import nn

from kansformer.basis import BASES, refit_curves
from kansformer.errors import ConfigError, KansformerError
from kansformer.nn import KANLinear, grid, refine_grid, update_grid

VALUES = (0.0, 1.0, 1e-42, 1e-30, 6e4, -1e30, 3e38)
CHANGES = {"update": lambda model: update_grid(model, inputs(5, 6)), "refine": lambda model: refine_grid(model, 8)}


def state_of(model):
    """Everything that a change of grids touches, and the tensors that an optimizer holds."""
    specs = [module.curves for module in model.modules() if hasattr(module, "curves")]
    return deepcopy(model.state_dict()), specs, [id(parameter) for parameter in model.parameters()]


def assert_untouched(model, before):
    tensors, specs, parameters = state_of(model)
    assert all(torch.equal(tensor.nan_to_num(), before[0][name].nan_to_num()) for name, tensor in tensors.items())
    assert (specs, parameters) == before[1:]


@pytest.mark.parametrize(("basis", "edges"), BASIS_AND_EDGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_update_grid_to_extreme_inputs_is_finite_or_refused(basis, edges, dtype):
    for value in VALUES:
        for spread in (0.0, 1.0):
            module = make("linear", basis, edges, dtype)
            x = (value * (1 + spread * inputs(5, 6, dtype=torch.float64).tanh())).to(dtype)
            if not x.isfinite().all():
                continue
            before = state_of(module)
            try:
                update_grid(module, x)
            except ConfigError as error:
                refused = str(error)
                assert_untouched(module, before)
                assert dtype == torch.float16 and "would not be finite" in refused
            assert all(tensor.isfinite().all() for tensor in module.state_dict().values()), (value, spread)
            assert (module.domain.diff(dim=-1) > 0).all(), (value, spread)


# One domain for all inputs, so that one system is solved: a Fourier series of 1,000 frequencies takes half a minute.
@pytest.mark.parametrize(
    ("basis", "grid_size"), [*((basis, 1) for basis in BASES), ("bspline", 1000), ("rbf", 1000), ("fourier", 100)]
)
def test_refine_grid_to_one_and_to_many_intervals(basis, grid_size):
    module, x = KANLinear(6, 4, basis=basis, grid_size=4), inputs(50, 6)
    assert refine_grid(module, grid_size)(x).isfinite().all()
    assert module.coefficients.isfinite().all()


@pytest.mark.parametrize("change", CHANGES)
def test_a_failure_in_the_last_module_changes_none(monkeypatch, change):
    model = nn.Sequential(make("linear", "bspline", "full"), KANLinear(4, 3), KANLinear(3, 2))
    before, calls = state_of(model), []

    def failing(*arguments, **settings):
        calls.append(arguments)
        if len(calls) == 3:
            raise MemoryError
        return refit_curves(*arguments, **settings)

    monkeypatch.setattr(grid, "refit_curves", failing)
    with pytest.raises(MemoryError):
        CHANGES[change](model)
    assert len(calls) == 3
    assert_untouched(model, before)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_curves_that_are_not_finite_are_refused_by_name(change, bad):
    model = nn.Sequential(make("linear", "bspline", "full"), KANLinear(4, 3))
    model[1].coefficients.data[2, 1, 0] = bad
    before = state_of(model)
    with pytest.raises(KansformerError, match="The curves of 1 are not finite"):
        CHANGES[change](model)
    assert_untouched(model, before)
