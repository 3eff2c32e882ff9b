"""What a call of the learned activation costs the processor, as a number of function calls: seconds would depend on the
machine."""

import sys

import pytest
import torch
from kan_kernels import activation, activation_operators
from launches_nowhere import launches_nowhere
from torch.nn.functional import silu

from kansformer import LearnedActivation
from kansformer.errors import ShapeError

MAX_CALL, MAX_STEP = 64, 192
"""Two of a call ask whether operations are followed, by `make_fx` or forward-mode derivatives."""


def calls_of(function) -> int:
    """Function calls, of Python and of C, in the second and later runs."""
    for _ in range(2):
        function()
    calls = []

    def profile(frame, event, argument):
        if event in ("call", "c_call"):
            calls.append(event)

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return len(calls)


@pytest.fixture
def module():
    return LearnedActivation(64, base=silu, domain=(-4.0, 4.0), dtype=torch.bfloat16)


def test_a_call_is_slim(module):
    x, factor = torch.zeros(2, 3, 64, dtype=torch.bfloat16).unbind()
    with launches_nowhere(), torch.no_grad():
        assert calls_of(lambda: module.gated(x, factor)) <= MAX_CALL


@pytest.fixture
def step(module):
    """A forward and a backward call."""
    x, factor = torch.zeros(2, 3, 64, dtype=torch.bfloat16, requires_grad=True).unbind()

    def run():
        y = module.gated(x, factor)
        torch.autograd.grad(y, (x, factor, module.coefficients), torch.ones_like(y))

    return run


def test_a_step_is_slim(step):
    with launches_nowhere():
        assert calls_of(step) <= MAX_STEP


def test_plain_tensors_bypass_the_dispatcher(step, monkeypatch):
    launched = []
    for name in ("launch_forward", "launch_backward"):
        launch = getattr(activation, name)
        monkeypatch.setattr(activation, name, lambda *a, name=name, launch=launch: launched.append(name) or launch(*a))
    with launches_nowhere():
        step()
    assert launched == ["launch_forward", "launch_backward"]


def test_another_number_of_tokens_takes_the_same_plan(module):
    with launches_nowhere(), torch.no_grad():
        for tokens in (1, 7, 4096):
            x, factor = torch.zeros(2, tokens, 64, dtype=torch.bfloat16).unbind()
            module.gated(x, factor)
        assert len(activation_operators.PLANS) == 1


def test_shapes_are_checked_once_for_a_plan(module, monkeypatch):
    checked, check = [], activation_operators.check
    monkeypatch.setattr(activation_operators, "check", lambda *arguments: checked.append(1) or check(*arguments))
    x, factor = torch.zeros(2, 3, 64, dtype=torch.bfloat16).unbind()
    with launches_nowhere(), torch.no_grad():
        for _ in range(3):
            module.gated(x, factor)
        assert len(checked) == 1
        with pytest.raises(ShapeError, match="The factor of shape"):
            module.gated(x, factor[:2])
