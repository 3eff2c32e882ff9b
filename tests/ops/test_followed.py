"""Where torch follows operations on plain tensors, curves are the plain definition: a kernel's work would be missed."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from kansformer import KANLinear, LearnedActivation, set_backend
from kansformer.discover import KNOWN_ACTIVATIONS

MODULES = {
    "activation": lambda: LearnedActivation(6),
    "channel": lambda: KANLinear(6, 3, edges="channel"),
    "full": lambda: KANLinear(6, 3, edges="full"),
    "low rank": lambda: KANLinear(6, 3, edges="low_rank", rank=2),
    "closed form": lambda: KNOWN_ACTIVATIONS["silu-cosine"].module(),
}
TOKENS = 65  # memory that was just freed may hold the right values of fewer ones


@pytest.fixture(params=MODULES)
def module(request):
    module = MODULES[request.param]()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


@pytest.fixture(params=["native", "cpu"], autouse=True)
def backend(request):
    set_backend(request.param)
    yield
    set_backend(None)


@pytest.mark.parametrize("grad", [torch.no_grad, torch.enable_grad])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("trace", [lambda module, x: torch.jit.trace(module, x), lambda module, x: make_fx(module)(x)])
def test_a_traced_module_computes_its_curves(module, grad, trace):
    first, other = torch.randn(2, TOKENS, 6)
    with grad():
        module(first)
        torch.testing.assert_close(trace(module, first)(other), module(other), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grad", [torch.no_grad, torch.enable_grad])
def test_forward_mode_derivatives(module, grad):
    x, tangent = torch.randn(2, TOKENS, 6).requires_grad_(grad is torch.enable_grad)
    expected = torch.func.jvp(module, (x.detach(),), (tangent.detach(),))[1]
    with grad(), forward_ad.dual_level():
        found = forward_ad.unpack_dual(module(forward_ad.make_dual(x, tangent))).tangent
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transform", ["jvp", "grad", "vmap of grad"])
def test_transforms_inside_a_compiled_function(module, transform):
    x, tangent = torch.randn(2, 3, 6)
    function = {
        "jvp": lambda x: torch.func.jvp(module, (x,), (tangent,))[1],
        "grad": torch.func.grad(lambda x: module(x).square().sum()),
        "vmap of grad": torch.func.vmap(torch.func.grad(lambda row: module(row).square().sum())),
    }[transform]
    torch.compiler.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(compiled, function(x), rtol=1e-4, atol=1e-4)
