"""Optimizer groups: every trainable parameter once, curves with a learning rate of their own and no decay."""

import copy
import pickle
import warnings

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


def first_step(model, optimizer) -> list[str]:
    """The warnings of an optimizer's first two steps."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    return [str(warning.message) for warning in caught]


@pytest.fixture
def curved():
    return nn.Sequential(nn.Linear(4, 4), LearnedActivation(4))


def with_curves_at(curved, lr, weight_decay=0.0):
    curves = {"params": [*curved[1].parameters()], "lr": lr, "weight_decay": weight_decay}
    return [{"params": [*curved[0].parameters()], "lr": 1e-3}, curves]


def test_a_plain_optimizer_warns_once_and_names_the_remedy(curved):
    (message,) = first_step(curved, torch.optim.AdamW(curved.parameters(), lr=2e-3))
    assert message.startswith("AdamW trains curves with a learning rate of 0.002, at which they learn little and ")
    assert "a weight decay of 0.01" in message and "kansformer.optimizer_groups(model, lr=0.002)" in message
    assert "KANTrainer" in message and "kan_trainer(SFTTrainer)" in message


@pytest.mark.parametrize(
    ("settings", "faults"),
    [((1e-3,), "a learning rate of"), ((3e-2, 0.1), "with a weight decay of 0.1"), ((3e-2,), None)],
)
def test_groups_made_by_hand(curved, settings, faults):
    messages = first_step(curved, torch.optim.AdamW(with_curves_at(curved, *settings)))
    assert len(messages) == (faults is not None) and all(faults in message for message in messages)


def test_groups_of_optimizer_groups_do_not_warn(curved):
    assert not first_step(curved, torch.optim.AdamW(optimizer_groups(curved, 1e-3, curve_lr_multiplier=0.5)))


def test_a_scheduler_warm_up_does_not_change_the_check(curved):
    for rate, warned in ((3e-2, 0), (1e-3, 1)):
        optimizer = torch.optim.AdamW(with_curves_at(curved, rate))
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
        assert len(first_step(curved, optimizer)) == warned


@pytest.mark.parametrize(("lr", "warned"), [(1e-2, 0), (5e-5, 1)])
def test_curves_alone_need_a_minimum_rate(curved, lr, warned):
    curved[0].requires_grad_(False)
    assert len(first_step(curved, torch.optim.Adam(curved.parameters(), lr=lr))) == warned


def test_curves_per_edge_and_frozen_curves_do_not_warn(curved):
    edges = nn.Sequential(KANLinear(4, 4, edges="full"), KANLinear(4, 4, edges="low_rank"))
    assert not first_step(edges, torch.optim.AdamW(edges.parameters()))
    curved[1].requires_grad_(False)
    assert not first_step(curved, torch.optim.AdamW(curved.parameters()))


@pytest.mark.parametrize(
    "change",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), lambda model: model.double().float()],  # noqa: S301
    ids=["copied", "pickled", "cast"],
)
@pytest.mark.parametrize("inner", [lambda: LearnedActivation(4), lambda: KANLinear(4, 4, edges="group", groups=2)])
def test_copies_are_recognised(change, inner):
    model = change(nn.Sequential(nn.Linear(4, 4), inner()))
    assert len(first_step(model, torch.optim.AdamW(model.parameters()))) == 1


def test_replaced_parameters_are_recognised(curved):
    curved[1].coefficients = nn.Parameter(curved[1].coefficients.detach().clone())  # as loaders do
    assert len(first_step(curved, torch.optim.AdamW(curved.parameters()))) == 1


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs a torch with torch.distributed")
def test_shards_of_fsdp2_are_recognised(curved):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(curved, mesh=init_device_mesh("cpu", (1,)))
        assert type(curved[1].coefficients.data).__name__ == "DTensor"
        assert len(first_step(curved, torch.optim.AdamW(curved.parameters()))) == 1
        assert not first_step(curved, torch.optim.AdamW(optimizer_groups(curved, 1e-3)))
    finally:
        torch.distributed.destroy_process_group()


def test_a_step_can_be_compiled(curved):
    optimizer = torch.optim.AdamW(optimizer_groups(curved, 1e-3))
    curved(torch.ones(2, 4)).sum().backward()
    torch.compile(optimizer.step, backend="eager")()
