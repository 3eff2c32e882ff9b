"""Optimizer groups: every trainable parameter once, curves with a learning rate of their own and no decay."""

import pytest
import torch
from torch import nn

from kansformer.errors import ConfigError
from kansformer.nn import KANLinear, LearnedActivation, optimizer_groups
from kansformer.nn.optim import CURVE_LR_MULTIPLIER


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Embedding(10, 6),
        nn.LayerNorm(6),
        KANLinear(6, 6, basis="bspline", edges="low_rank", rank=2),
        LearnedActivation(6, basis="rational"),
        LearnedActivation(6, basis="bspline"),
        KANLinear(6, 6, basis="chebyshev", edges="full"),
    )


def ids(parameters) -> list[int]:
    return sorted(id(parameter) for parameter in parameters)


def test_every_parameter_is_in_one_group(model):
    groups = optimizer_groups(model, 1e-3)
    assert ids(p for group in groups for p in group["params"]) == ids(model.parameters())
    torch.optim.AdamW(groups)


def test_groups_and_their_settings(model):
    groups = {group["name"]: group for group in optimizer_groups(model, 1e-3, weight_decay=0.1)}
    assert ids(groups["base"]["params"]) == ids([model[0].weight, model[2].weight, model[5].weight])
    assert ids(groups["curves x0.3"]["params"]) == ids([model[2].coefficients, model[2].mix])
    assert ids(groups["curves x3"]["params"]) == ids([model[3].coefficients, model[3].denominator])
    assert ids(groups["curves x30"]["params"]) == ids([model[4].coefficients])
    assert ids(groups["curves x1"]["params"]) == ids([model[5].coefficients])
    rates = {name: (pytest.approx(group["lr"]), group["weight_decay"]) for name, group in groups.items()}
    assert rates == {
        "base": (1e-3, 0.1),
        "base without decay": (1e-3, 0.0),
        "curves x0.3": (3e-4, 0.0),
        "curves x1": (1e-3, 0.0),
        "curves x3": (3e-3, 0.0),
        "curves x30": (3e-2, 0.0),
    }


def test_one_multiplier_for_all_curves(model):
    groups = {group["name"]: group for group in optimizer_groups(model, 1e-3, curve_lr_multiplier=7.0)}
    assert set(groups) == {"base", "base without decay", "curves x7"}
    assert groups["curves x7"]["lr"] == pytest.approx(7e-3)
    assert len(groups["curves x7"]["params"]) == 6


def test_every_basis_has_a_multiplier():
    from kansformer.basis import BASES

    assert set(CURVE_LR_MULTIPLIER) == set(BASES)


def test_frozen_parameters_are_left_out(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("coefficients" in name)
    groups = optimizer_groups(model, 1e-3)
    assert {group["name"] for group in groups} == {"curves x30", "curves x3", "curves x1", "curves x0.3"}
    assert len([p for group in groups for p in group["params"]]) == 4


def test_tied_parameters_are_there_once():
    tied = nn.Sequential(KANLinear(6, 6), KANLinear(6, 6))
    tied[1].weight, tied[1].coefficients = tied[0].weight, tied[0].coefficients
    found = [p for group in optimizer_groups(tied, 1e-3) for p in group["params"]]
    assert ids(found) == ids(set(tied.parameters()))


def test_nothing_to_optimise(model):
    with pytest.raises(ConfigError, match="No parameter of the model requires a gradient"):
        optimizer_groups(model.requires_grad_(False), 1e-3)


@pytest.mark.parametrize("multiplier", [0.0, -1.0])
def test_a_multiplier_that_is_not_positive_is_refused(model, multiplier):
    with pytest.raises(ConfigError, match=f"curve_lr_multiplier must be above 0, got {multiplier}"):
        optimizer_groups(model, 1e-3, curve_lr_multiplier=multiplier)


def test_an_attribute_of_the_same_name_is_not_taken_for_curves():
    model = nn.Sequential(nn.Linear(6, 6), LearnedActivation(6))
    model[0].curves = "bezier"
    assert {group["name"] for group in optimizer_groups(model, 1e-3)} == {"base", "base without decay", "curves x30"}
