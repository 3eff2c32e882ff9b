"""kansformer's modules on the kernels, against its own reference: the wiring between the two."""

import pytest
import torch
from numerics import assert_close_to_float64
from torch import nn

from kansformer import GatedKANFeedForward, KANFeedForward, KANLinear, LearnedActivation, set_backend
from kansformer.nn.curves import curved_modules
from kansformer.ops import backend, triton
from kansformer.ops.curves import ACTIVATIONS

MODULES = {
    "activation": lambda **k: LearnedActivation(24, **k),
    "grouped activation": lambda **k: LearnedActivation(24, edges="group", groups=4, **k),
    "full": lambda **k: KANLinear(24, 20, **k),
    "low_rank": lambda **k: KANLinear(24, 20, edges="low_rank", rank=3, **k),
    "channel": lambda **k: KANLinear(24, 20, edges="channel", **k),
    "feed-forward": lambda **k: KANFeedForward(24, 16, **k),
    "gated": lambda **k: GatedKANFeedForward(24, 16, **k),
}


@pytest.fixture(autouse=True)
def on_triton():
    set_backend("triton")
    yield
    set_backend(None)


def made(name, device, dtype=torch.float32, **settings):
    torch.manual_seed(0)
    module = MODULES[name](**settings).double()
    for _, curved in curved_modules(module):
        nn.init.normal_(curved.coefficients, std=0.3)
    return module.to(device=device, dtype=dtype)


def run(module, x, gradient):
    x = x.detach().requires_grad_()
    names, parameters = zip(*module.named_parameters(), strict=True)
    y = module(x)
    found = torch.autograd.grad(y, [x, *parameters], gradient.to(y), allow_unused=True)
    return y, {n: g for n, g in zip(["x", *names], found, strict=True) if g is not None}


@pytest.mark.parametrize("basis", ["bspline", "chebyshev", "rational"])
@pytest.mark.parametrize("name", MODULES)
def test_modules_equal_the_reference(device, name, basis):
    module = made(name, device, basis=basis)
    x = torch.randn(5, 24, device=device)
    gradient = torch.linspace(-1, 1, 5 * module(x).shape[-1], device=device).reshape(5, -1)
    actual, gradients = run(module, x, gradient)
    set_backend("reference")
    expected, expected_gradients = run(module.double(), x.double(), gradient)
    # Two layers, one after the other.
    assert_close_to_float64(actual, expected, torch.float32, looser=3.0)
    assert_close_to_float64(gradients, expected_gradients, torch.float32, gradient=True, looser=5.0)


@pytest.mark.parametrize("name", ["activation", "gated"])
def test_other_bases_take_the_definition(device, name):
    module = made(name, device, basis="rbf")
    x = torch.randn(3, 24, device=device)
    y = module(x)
    set_backend("reference")
    assert torch.equal(y, module(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["activation", "channel", "full"])
def test_straight_curves_leave_every_bit(device, name, dtype):
    module = made(name, device, dtype, base="silu")
    nn.init.zeros_(module.coefficients)
    x = torch.randn(9, 24, device=device).to(dtype)
    activated = nn.functional.silu(x)
    expected = activated if name == "activation" else nn.functional.linear(activated, module.weight, module.bias)
    assert torch.equal(module(x), expected)


def test_the_kernel_computes_the_activation_only_where_it_is_exact(device, monkeypatch):
    module = made("activation", device, torch.float16, base="relu")
    x = torch.randn(3, 24, device=device).to(torch.float16)
    called = []
    monkeypatch.setitem(ACTIVATIONS, "relu", lambda x: called.append(x) or x.relu())
    y = module(x)
    assert not called  # relu is exact everywhere
    monkeypatch.setattr(triton, "_is_exact", lambda *arguments: False)
    assert torch.equal(module(x), y) and called


def test_functional_transforms_take_the_definition(device):
    module = made("activation", device)
    x = torch.randn(4, 24, device=device)
    slopes = torch.func.vmap(torch.func.grad(lambda x_I: module(x_I[None]).sum()))(x)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(module(x).sum(), x)
    torch.testing.assert_close(slopes, expected, rtol=1e-4, atol=1e-5)


def test_fixed_curves_launch_no_sums(device, monkeypatch):
    import kan_kernels.activation_operators as kernel

    module = made("grouped activation", device)
    expected = run(module, x := torch.randn(5, 24, device=device), torch.ones(5, 24, device=device))[1]["x"]
    module.coefficients.requires_grad_(False)
    plans, make = [], kernel.make_plan
    monkeypatch.setattr(kernel, "PLANS", {})
    monkeypatch.setattr(kernel, "make_plan", lambda *arguments: plans.append(make(*arguments)) or plans[-1])
    x = x.requires_grad_()
    assert torch.equal(torch.autograd.grad(module(x).sum(), x)[0], expected)
    assert len(plans) == 2 and plans[1].constants["SUMS"] is False and plans[1].coefficient_blocks == 1


def test_one_graph(device):
    module = made("gated", device)
    x = torch.randn(4, 24, device=device)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))


def test_auto_prefers_the_kernels_on_a_gpu_only():
    assert backend.select_backend("auto", "cuda") is backend.BACKENDS["triton"]
    assert backend.select_backend("auto", "cpu") is not backend.BACKENDS["triton"]
