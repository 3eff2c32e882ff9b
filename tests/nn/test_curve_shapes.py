"""Curves that are held to a shape obey it everywhere, and a curve that obeys is left alone."""

import re

import pytest
import torch
from torch import nn

from kansformer import GatedKANFeedForward, KANConfig, KANLinear, LearnedActivation, convert
from kansformer.errors import ConfigError
from kansformer.training import CurveShape, HoldCurves, KANTrainer, hold_curves

ROUNDING = 1e-12
KINDS = {
    "activation": lambda **kwargs: LearnedActivation(4, edges="channel", dtype=torch.float64, **kwargs),
    "groups": lambda **kwargs: LearnedActivation(4, edges="group", groups=2, dtype=torch.float64, **kwargs),
    "linear": lambda **kwargs: KANLinear(4, 1, bias=False, dtype=torch.float64, **kwargs),
}


def bent(kind, direction=0, **kwargs):
    """A module with curves of noise around a slope, on unequal domains."""
    torch.manual_seed(0)
    module = KINDS[kind](**kwargs)
    nn.init.normal_(module.coefficients)
    slope = 2 * direction * torch.linspace(-1, 1, module.coefficients.shape[1], dtype=torch.float64)
    module.coefficients.data += slope.reshape(1, -1, *[1] * (module.coefficients.dim() - 2))
    module.domain += torch.rand(module.domain.shape[0], 1)
    return module


def curves(module, rows=5000):
    """Values (rows, I) of all curves with their base at sorted points far beyond the domains, and the points."""
    x = torch.linspace(-4, 5, rows, dtype=torch.float64)
    if isinstance(module, LearnedActivation):
        return module(x.unsqueeze(-1).expand(-1, 4)), x
    others = torch.zeros(rows, 4, dtype=torch.float64)
    zero = module(others)
    return torch.cat(
        [module(others.index_fill(1, torch.tensor(i), 0) + x.unsqueeze(-1) * torch.eye(4)[i]) - zero for i in range(4)],
        dim=-1,
    ), x


@pytest.mark.parametrize("base", ["identity", "zero"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(("monotone", "curvature"), [(1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, 1)], ids=str)
def test_monotone_and_convex_curves_obey_at_all_points(kind, base, order, monotone, curvature):
    module = bent(kind, monotone, base=base, order=order)
    first, _ = curves(module)
    hold_curves(module, CurveShape(monotone=monotone, curvature=curvature))
    values, _ = curves(module)
    slopes = values.diff(dim=0)
    assert (monotone * slopes >= -ROUNDING).all() and (curvature * slopes.diff(dim=0) >= -ROUNDING).all()
    assert not torch.allclose(values, first) and values.std(dim=0).max() > 1e-3
    hold_curves(module, CurveShape(monotone=monotone, curvature=curvature))
    torch.testing.assert_close(curves(module)[0], values)


@pytest.mark.parametrize("kind", ["activation", "groups"])
def test_bounded_curves_stay_within_their_bounds_at_all_points(kind):
    module = bent(kind, 0.1, base="zero", extrapolation="clamp")
    hold_curves(module, CurveShape(lower=-0.25, upper=0.5, monotone=1))
    values, _ = curves(module)
    assert values.min() >= -0.25 - ROUNDING and values.max() <= 0.5 + ROUNDING
    assert (values.diff(dim=0) >= -ROUNDING).all() and values.std(dim=0).max() > 1e-3
    hold_curves(module, CurveShape(upper=0.0))
    assert curves(module)[0].max() <= ROUNDING


@pytest.mark.parametrize("base", ["identity", "zero"])
@pytest.mark.parametrize("kind", ["activation", "groups"])
def test_curves_pass_through_a_point_and_keep_their_shape(kind, base):
    module = bent(kind, base=base)
    hold_curves(module, CurveShape(monotone=1, through=(0.5, -3.0)))
    at = torch.full((1, 4), 0.5, dtype=torch.float64)
    torch.testing.assert_close(module(at), torch.full_like(at, -3.0))
    assert (curves(module)[0].diff(dim=0) >= -ROUNDING).all()


def test_edges_of_a_linear_layer_pass_through_a_point_with_their_weights():
    module = bent("linear", base="identity")
    hold_curves(module, CurveShape(through=(0.5, -3.0)))
    at = torch.full((1, 4), 0.5, dtype=torch.float64)
    torch.testing.assert_close(module(at), torch.full((1, 1), -12.0, dtype=torch.float64))


def test_a_loop_of_ones_own_keeps_the_shape_and_fits_a_rising_truth():
    torch.manual_seed(0)
    x = 2 * torch.rand(400, 1) - 1
    truth = torch.tanh(4 * x)
    y = truth + 0.2 * torch.randn(400, 1)
    losses = []
    for shape in (None, CurveShape(monotone=1)):
        curve = LearnedActivation(1, base="zero", grid_size=8)
        optimizer = torch.optim.Adam(curve.parameters(), lr=0.05)
        if shape is not None:
            optimizer.register_step_post_hook(lambda *_, curve=curve, shape=shape: hold_curves(curve, shape))
        for _ in range(200):
            optimizer.zero_grad()
            (curve(x) - y).square().mean().backward()
            optimizer.step()
        losses.append((curve(x) - truth).square().mean().item())
    assert (curve(torch.linspace(-2, 2, 10_000).unsqueeze(-1)).diff(dim=0) >= -1e-6).all()
    assert losses[1] < losses[0]  # what the shape forbids is noise here


def test_the_trainer_keeps_the_shape(tmp_path):
    from transformers import TrainingArguments

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.curve = LearnedActivation(2, base="identity")

        def forward(self, x, labels):
            return {"loss": (self.curve(x) - labels).square().mean()}

    torch.manual_seed(0)
    x = torch.randn(64, 2)
    rows = [{"x": row, "labels": -row} for row in x]
    settings = TrainingArguments(
        tmp_path, max_steps=5, learning_rate=0.1, per_device_train_batch_size=8, report_to=[], disable_tqdm=True,
        use_cpu=True, save_strategy="no", remove_unused_columns=False,
    )  # fmt: skip
    model, rising = Model(), HoldCurves(CurveShape(monotone=1))
    KANTrainer(model=model, args=settings, train_dataset=rows, callbacks=[rising]).train()
    assert model.curve.coefficients.abs().max() > 0.1
    assert (model.curve(torch.linspace(-3, 3, 1000).unsqueeze(-1).expand(-1, 2)).diff(dim=0) >= -1e-6).all()


@pytest.mark.parametrize(
    ("build", "shape", "sentence"),
    [
        (lambda: nn.Linear(2, 2), dict(monotone=1), "The model has no curves, so none can be held"),
        (lambda: LearnedActivation(2), dict(monotone=1), "added to silu, which has another shape. Choose a base among"),
        (lambda: LearnedActivation(2, base=torch.cos), dict(monotone=1), "added to a function of its own"),
        (lambda: LearnedActivation(2, base="zero", basis="rbf"), dict(monotone=1), "are of the basis 'rbf'"),
        (lambda: KANLinear(2, 2, base="zero", edges="low_rank"), dict(monotone=1), "no coefficients of their own"),
        (lambda: LearnedActivation(2, base="identity"), dict(lower=0), "added to x, which has no bounds"),
        (lambda: LearnedActivation(2, base="zero"), dict(lower=0), "extrapolation='linear', which breaks the shape"),
        (
            lambda: LearnedActivation(2, base="zero", extrapolation="clamp"),
            dict(curvature=1),
            "outside of their domains. Choose linear.",
        ),
        (lambda: LearnedActivation(2, base="zero"), dict(through=(2, 0)), "through has x = 2, which is outside"),
        (
            lambda: nn.Sequential(LearnedActivation(2, base="zero"), GatedKANFeedForward(2, 4)),
            dict(monotone=1),
            "The curves of 1.",
        ),
    ],
)
def test_what_cannot_be_held_is_refused_and_nothing_changes(build, shape, sentence):
    model = build()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        hold_curves(model, CurveShape(**shape))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ({}, "The shape asks for nothing."),
        (dict(monotone=2), "monotone must be -1, 0 or 1, got 2."),
        (dict(curvature="up"), "curvature must be -1, 0 or 1, got 'up'."),
        (dict(lower=1, upper=1), "lower must be below upper, got 1 and 1."),
        (dict(upper=float("nan")), "upper"),
        (dict(through=(1,)), "through must be a point (x, y), got (1,)."),
        (dict(through=(0, float("inf"))), "y of through"),
        (dict(lower=0, curvature=1), "Bounds go with monotone only"),
        (dict(lower=0, through=(0, 1)), "Bounds go with monotone only"),
    ],
)
def test_a_shape_checks_itself(shape, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        CurveShape(**shape)


def test_fixed_curves_are_not_changed():
    model = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 4))
    fixed = convert(model, KANConfig(curves="shakespeare", trainable=False, slots=("act",)))
    with pytest.raises(ConfigError, match="hold_curves changes curves"):
        hold_curves(fixed, CurveShape(monotone=1))
