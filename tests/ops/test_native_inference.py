"""The short way of curves without gradients: the bits of the usual way, its errors, and how few steps it takes."""

import sys

import pytest
import torch

from kansformer import KANLinear, LearnedActivation, set_backend
from kansformer.basis import Basis
from kansformer.errors import ShapeError
from kansformer.ops import apply_curves
from kansformer.ops.backend import BACKENDS
from kansformer.ops.curves import ACTIVATIONS
from kansformer.ops.native import inference

MAX_CALLS = {"gated": (14, 49), "activation": (16, 48), "layer": (23, 52)}
"""Python functions, and all functions, that one token's call takes. The first were 34 and 101 before."""


@pytest.fixture(autouse=True)
def native():
    set_backend("native")
    yield
    set_backend(None)


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
        y = inference.serve(x, case.curves, base, factor)
        assert torch.equal(y, BACKENDS["native"].apply_curves(x, case.curves, base, factor))
        assert torch.equal(y, apply_curves(x, case.curves, base, factor))
    assert all(torch.equal(t, copy) for t, copy in zip(given, copies, strict=True)), "an argument was written to"


def test_what_it_does_not_take_goes_the_usual_way(make_case):
    case = make_case(Basis(), "apply_curves", 4, 6).to(torch.float32)
    curves, x = case.curves, case.x
    assert inference.serve(x, curves, "silu", None) is None, "a graph is recorded"
    with torch.no_grad():
        assert inference.serve(x, curves, "silu", None) is not None
        assert inference.serve(x.double(), curves, "silu", None) is None
        assert inference.serve(x.to("meta"), curves, "silu", None) is None
        assert inference.serve(x.t().contiguous().t(), curves, "silu", None) is None
        assert inference.serve(x[:0], curves, "silu", None) is None
        assert inference.serve(x[0, 0], curves, "silu", None) is None
        assert inference.serve(x, curves.to(torch.bfloat16), "silu", None) is None
        assert inference.serve(x, curves._replace(basis=Basis(name="rbf")), "silu", None) is None
        assert inference.serve(x, curves._replace(basis=Basis(grid_size=6)), "silu", None) is None
        assert inference.serve(x, curves, x[:1], None) is None
        assert inference.serve(x, curves, None, x[:, :1]) is None
        assert (
            torch.vmap(lambda row: row if inference.serve(row, curves, "silu", None) is None else None)(x) is not None
        )
        for wrong in (curves._replace(domain=curves.domain[:2]), curves._replace(coefficients=curves.coefficients[:4])):
            assert inference.serve(x, wrong, "silu", None) is None
            with pytest.raises(ShapeError):
                apply_curves(x, wrong, "silu")


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
