"""The short way of curves without gradients: the bits of the usual way, its errors, and how few steps it takes."""

import copy
import pickle
import sys
from dataclasses import replace

import pytest
import torch

from kansformer import KANLinear, LearnedActivation, refine_grid, set_backend
from kansformer.basis import Basis
from kansformer.errors import ShapeError
from kansformer.nn.curves import NEVER
from kansformer.ops import apply_curves
from kansformer.ops.curves import ACTIVATIONS
from kansformer.ops.native.inference import Inference

MAX_CALLS = {"gated": (7, 41), "activation": (9, 41), "layer": (15, 45)}
"""Python functions, and all functions, that one token's call takes. The first two were 34 and 101 once."""


@pytest.fixture(autouse=True)
def native():
    set_backend("native")
    yield
    set_backend(None)


def serve(x, curves, base, factor=None):
    """A first call of curves of the shape of `curves`."""
    channels = x.shape[-1] if x.ndim else 1
    return Inference(channels, curves)(x, curves.coefficients, curves.domain, curves.denominator, base, factor)


@pytest.mark.parametrize("name", ["bspline", "chebyshev", "rational"])
@pytest.mark.parametrize("base", [None, "tensor", *ACTIVATIONS])
@pytest.mark.parametrize("has_factor", [False, True])
@pytest.mark.parametrize("tokens", [1, 7])
def test_the_bits_are_those_of_the_usual_way(make_case, name, base, has_factor, tokens):
    case = make_case(Basis(name=name, grid_size=4), "apply_curves", tokens, 19).to(torch.float32)
    x = case.x.reshape(1, tokens, 19)
    base = x.cos() if base == "tensor" else base
    factor = x.sin() if has_factor else None
    given = [t for t in (x, base, factor) if isinstance(t, torch.Tensor)]
    copies = [t.clone() for t in given]
    with torch.no_grad():
        y = serve(x, case.curves, base, factor)
        assert torch.equal(y, apply_curves(x, case.curves, base, factor))
    assert all(torch.equal(t, copy) for t, copy in zip(given, copies, strict=True)), "an argument was written to"


def test_what_it_does_not_take_goes_the_usual_way(make_case):
    case = make_case(Basis(), "apply_curves", 4, 6).to(torch.float32)
    curves, x = case.curves, case.x
    with torch.no_grad():
        assert serve(x, curves, "silu") is not None
        assert serve(x.double(), curves, "silu") is None
        assert serve(x.to("meta"), curves, "silu") is None
        assert serve(x.t().contiguous().t(), curves, "silu") is None
        assert serve(x[:0], curves, "silu") is None
        assert serve(x[0, 0], curves, "silu") is None
        assert serve(x, curves.to(torch.bfloat16), "silu") is None
        assert serve(x, curves._replace(basis=Basis(name="rbf")), "silu") is None
        assert serve(x, curves._replace(basis=Basis(grid_size=6)), "silu") is None
        assert serve(x, curves, x[:1]) is None
        assert serve(x, curves, None, x[:, :1]) is None
        assert torch.vmap(lambda row: row if serve(row, curves, "silu") is None else None)(x) is not None
        for wrong in (curves._replace(domain=curves.domain[:2]), curves._replace(coefficients=curves.coefficients[:4])):
            assert serve(x, wrong, "silu") is None
            with pytest.raises(ShapeError):
                apply_curves(x, wrong, "silu")


CHANGES = ["refine", "cast", "other curves", "other basis", "no backend", "parametrized", "copy", "pickle"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_module_that_changes_gives_what_it_would_have_given(change):
    module, x = LearnedActivation(6), torch.randn(3, 6)
    torch.nn.init.normal_(module.coefficients)
    with torch.no_grad():
        before = module(x)
        if change == "refine":
            refine_grid(module, 10)
            torch.testing.assert_close(module(x), before)
        elif change == "cast":
            torch.testing.assert_close(module.double()(x.double()), before.double(), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(module.float()(x), before)
        elif change == "other curves":
            module.coefficients.data = torch.zeros_like(module.coefficients)
            assert torch.equal(module(x), torch.nn.functional.silu(x))
            good, module.coefficients.data = module.coefficients.data, module.coefficients.data[:4]
            with pytest.raises(ShapeError):
                module(x)
            module.coefficients.data = good
        elif change == "other basis":
            module.curves = replace(module.curves, basis=replace(module.curves.basis, extrapolation="zero"))
            assert torch.equal(module(x + 100), torch.nn.functional.silu(x + 100))
        elif change == "no backend":
            set_backend("reference")
            torch.testing.assert_close(module(x), before)
            assert module._inference[-1] is None
        elif change == "parametrized":
            torch.nn.utils.parametrize.register_parametrization(module, "coefficients", torch.nn.Tanhshrink())
            assert not torch.equal(module(x), before)
        else:
            module = copy.deepcopy(module) if change == "copy" else pickle.loads(pickle.dumps(module))  # noqa: S301
            assert module._inference == NEVER, "an address of another process would be read"
            assert torch.equal(module(x), before)
    assert module(x).requires_grad, "a graph is recorded"


@torch.no_grad()
def test_a_number_is_refused_as_before_the_first_call():
    module = LearnedActivation(1)
    module(torch.ones(1))
    with pytest.raises(ShapeError, match=r"1 channels, got input \(\)"):
        module(torch.tensor(0.5))


@torch.no_grad()
def test_a_module_that_becomes_narrower_keeps_a_new_short_way():
    module, x = LearnedActivation(6), torch.randn(3, 6)
    torch.nn.init.normal_(module.coefficients)
    before = module(x)
    module.in_features, module.domain = 4, module.domain[:4]
    module.coefficients = torch.nn.Parameter(module.coefficients[:4])
    assert torch.equal(module(x[:, :4].contiguous()), before[:, :4])
    assert module._inference[-1].channels == 4


def _calls(function):
    """Python functions, and all functions, that are called by a call."""
    seen = []
    sys.setprofile(lambda frame, event, argument: seen.append(event))
    try:
        function()
    finally:
        sys.setprofile(None)
    return seen.count("call"), seen.count("call") + seen.count("c_call")


def test_one_token_takes_few_steps():
    activation, x = LearnedActivation(48), torch.randn(1, 1, 48)
    layer = KANLinear(48, 4, edges="channel", base="identity")
    functions = {
        "gated": lambda: activation.gated(x, x),
        "activation": lambda: activation(x),
        "layer": lambda: layer(x),
    }
    counts = {}
    set_backend(None)  # what users have
    with torch.no_grad():
        for name, function in functions.items():
            function()
            counts[name] = _calls(function)
    assert all(count <= limit for name in counts for count, limit in zip(counts[name], MAX_CALLS[name], strict=True)), (
        counts
    )
