"""Layers around existing ones: exact while straight, sharing what they took over, and leaving no trace."""

from copy import deepcopy

import pytest
import torch
from nn.formulas import inputs, randomised
from torch import nn

from kansformer.basis import BASES, Basis
from kansformer.errors import ConfigError
from kansformer.nn import GatedKANFeedForward, KANLinear, LearnedActivation
from kansformer.nn.curves import EDGES, CurveSpec, reset_curves

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def spec_of(basis: str, edges: str) -> CurveSpec:
    return CurveSpec(basis=Basis(name=basis, grid_size=4), edges=edges, domain=(-1.0, 1.0), rank=3, groups=2)


class ScaledSiLU(nn.Module):
    """An activation with a parameter, a buffer and a buffer that is not saved, all of its own."""

    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor([0.7]))
        self.register_buffer("beta", torch.tensor(0.3))
        self.register_buffer("shift", torch.tensor(0.1), persistent=False)

    def forward(self, x):
        return self.alpha * nn.functional.silu(x) + self.beta * x + self.shift


@pytest.mark.parametrize("edges", EDGES)
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_straight_layer_is_the_linear_layer(basis, edges, dtype):
    linear = nn.Linear(6, 4, dtype=dtype)
    layer = KANLinear.from_linear(linear, spec_of(basis, edges))
    reset_curves(layer)
    x = torch.cat([inputs(20, 6, dtype=dtype), torch.zeros(1, 6, dtype=dtype), 100 * inputs(2, 6, dtype=dtype)])
    assert torch.equal(layer(x), linear(x))
    assert layer.weight is linear.weight and layer.bias is linear.bias
    assert layer.coefficients.dtype == dtype
    assert isinstance(layer, nn.Linear)


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.GELU(approximate="tanh"), nn.functional.relu, ScaledSiLU()])
@pytest.mark.parametrize("edges", ["channel", "group"])
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_straight_activation_is_the_activation(activation, basis, edges, dtype):
    activation = deepcopy(activation).to(dtype) if isinstance(activation, nn.Module) else activation
    module = LearnedActivation.from_activation(activation, 6, spec_of(basis, edges), dtype=dtype)
    reset_curves(module)
    x = torch.cat([inputs(20, 6, dtype=dtype), 100 * inputs(2, 6, dtype=dtype)])
    assert torch.equal(module(x), activation(x))


def test_a_new_gated_block_is_a_swiglu():
    block, x = GatedKANFeedForward(6, 8), inputs(9, 6)
    gate = nn.functional.silu(block.gate_proj(x))
    assert torch.equal(block(x), block.down_proj(gate * block.up_proj(x)))


def test_an_activations_own_parameters_keep_their_names():
    activation = ScaledSiLU()
    module = LearnedActivation.from_activation(activation, 6, spec_of("bspline", "channel"))
    reset_curves(module)
    assert set(module.state_dict()) == {"alpha", "beta", "coefficients", "domain"}
    assert module.alpha is activation.alpha
    module(inputs(3, 6)).sum().backward()
    assert module.alpha.grad.abs() > 0
    with torch.no_grad():
        module.alpha.fill_(3.0)
    assert torch.equal(module(inputs(3, 6)), activation(inputs(3, 6)))


def test_an_activations_own_tensors_follow_the_module():
    activation = ScaledSiLU()
    module = LearnedActivation.from_activation(activation, 6, spec_of("bspline", "channel"))
    reset_curves(module)
    copy, x = deepcopy(module).double(), inputs(3, 6).double()
    assert (copy.alpha.dtype, copy.beta.dtype, copy.shift.dtype) == (torch.float64,) * 3
    assert torch.equal(copy(x), deepcopy(activation).double()(x))
    restored = copy.without_curves()
    assert isinstance(restored, ScaledSiLU) and restored.shift.dtype == torch.float64
    assert restored.alpha is copy.alpha
    assert module.alpha.dtype == torch.float32


def test_an_activation_whose_parameters_lie_deeper_is_refused():
    activation = nn.Sequential(nn.Identity(), nn.PReLU())
    with pytest.raises(ConfigError, match="Sequential.*1.weight.*own submodules"):
        LearnedActivation.from_activation(activation, 6, spec_of("bspline", "channel"))


@pytest.mark.parametrize("wrap", [lambda activation: activation, nn.Sequential])
def test_an_activation_that_writes_into_its_input(wrap):
    safe, inplace = (
        LearnedActivation.from_activation(wrap(nn.ReLU(inplace=flag)), 6, spec_of("bspline", "channel"))
        for flag in (False, True)
    )
    inplace.load_state_dict(randomised(safe).state_dict())
    x = inputs(9, 6).requires_grad_()
    results = [module(x * 1) for module in (safe, inplace)]
    assert torch.equal(*results)
    gradients = [torch.autograd.grad(y.sum(), x)[0] for y in results]
    assert torch.equal(*gradients)


def test_an_activation_with_a_mode_follows_the_module():
    activation = nn.RReLU()
    module = LearnedActivation.from_activation(activation, 6, spec_of("bspline", "channel"))
    reset_curves(module)
    nn.Sequential(module).eval()
    x = inputs(9, 6)
    assert torch.equal(module(x), module(x))
    module.train()
    assert activation.training


def test_from_linear_and_back():
    linear = nn.Linear(6, 4)
    linear.weight.requires_grad_(False)
    linear.note = "kept"
    calls = []
    linear.register_forward_hook(lambda *arguments: calls.append("hook"))
    keys, x = set(vars(linear)), inputs(3, 6)
    layer = KANLinear.from_linear(linear.eval(), spec_of("rational", "low_rank"))
    reset_curves(layer)
    assert set(vars(linear)) == keys and set(linear.state_dict()) == {"weight", "bias"}  # the original is as it was
    assert layer.note == "kept" and not layer.training and not layer.weight.requires_grad
    layer(x)
    assert calls == ["hook"]
    back = layer.without_curves()
    assert type(back) is nn.Linear and set(vars(back)) == keys
    assert back.weight is linear.weight and set(back.state_dict()) == {"weight", "bias"}
    assert torch.equal(back(x), linear(x))


def test_a_subclass_keeps_its_own_forward():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * nn.functional.linear(x, self.weight, self.bias)

    linear = Doubled(6, 4)
    layer = KANLinear.from_linear(linear, spec_of("bspline", "full"))
    reset_curves(layer)
    assert torch.equal(layer(inputs(3, 6)), linear(inputs(3, 6)))
    assert type(layer.without_curves()) is Doubled


@pytest.mark.parametrize("edges", EDGES)
def test_swapping_leaves_the_global_random_state_alone(edges):
    linear, before = nn.Linear(6, 4), torch.get_rng_state()
    layers = []
    for _ in range(2):
        layer = KANLinear.from_linear(linear, spec_of("bspline", edges))
        reset_curves(layer, noise=0.1, generator=torch.Generator().manual_seed(7))
        layers.append(layer)
    assert torch.equal(torch.get_rng_state(), before)
    assert layers[0].coefficients.abs().max() > 0
    for name, tensor in layers[0].state_dict().items():
        assert torch.equal(tensor, layers[1].state_dict()[name]), name


def test_same_seed_same_layer():
    layers = []
    for _ in range(2):
        torch.manual_seed(3)
        layers.append(KANLinear(6, 4))
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in layers), strict=True))
    torch.manual_seed(3)
    assert torch.equal(layers[0].weight, nn.Linear(6, 4).weight)  # the weights start as those of a linear layer


def test_an_activation_that_hides_that_it_writes_into_its_input():
    with pytest.raises(ConfigError, match="The activation relu_ changes its input in place"):
        LearnedActivation(4, base=torch.relu_)(torch.randn(2, 4))
