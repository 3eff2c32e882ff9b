"""Every module with every basis and kind of edge: values, gradients, shapes, dtypes, and life as a torch module."""

from copy import deepcopy

import pytest
import torch
from nn.formulas import BASIS_AND_EDGES, expected_output, float64_twin, inputs, make
from numerics import assert_close_to_float64
from torch.utils.checkpoint import checkpoint

from kansformer.errors import ConfigError, ShapeError
from kansformer.nn import GatedKANFeedForward, KANFeedForward, KANLinear, LearnedActivation
from kansformer.nn.base import BASE_FUNCTIONS

CASES = [
    (kind, basis, edges)
    for kind in ("linear", "activation", "feedforward", "gated")
    for basis, edges in BASIS_AND_EDGES
    if kind in ("linear", "feedforward") or edges in ("channel", "group")
]
ONE_EACH = [
    ("linear", "bspline", "full"),
    ("linear", "rational", "low_rank"),
    ("activation", "bspline", "channel"),
    ("feedforward", "chebyshev", "group"),
    ("gated", "bspline", "channel"),
]

# A half-precision module rounds at every store between its layers, so an error may be this many times the table's:
# a layer rounds its activated input, its product and the sum; two layers do that twice, and the second layer's slope
# multiplies what the first one lost.
ROUNDINGS = {"linear": 1.25, "activation": 1.0, "feedforward": 3.0, "gated": 3.0}


def loss_gradients(module, output, x):
    tensors = {"x": x, **dict(module.named_parameters())}
    weight = ((torch.arange(output.numel()) % 11 - 4) / 4).reshape(output.shape).to(output)  # exact in every dtype
    return dict(zip(tensors, torch.autograd.grad((output * weight).sum(), list(tensors.values())), strict=True))


def both(kind, basis, edges, dtype):
    """Module, input, output and gradients; then the float64 output and gradients from the formula."""
    module, x = make(kind, basis, edges, dtype), inputs(23, 6, dtype=dtype).requires_grad_()
    output = module(x)
    twin, x_64 = float64_twin(module), x.detach().double().requires_grad_()
    expected = expected_output(twin, x_64)
    return output, loss_gradients(module, output, x), expected, loss_gradients(twin, expected, x_64)


@pytest.mark.parametrize(("kind", "basis", "edges"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_output_and_every_gradient(kind, basis, edges, dtype):
    output, gradients, expected, expected_gradients = both(kind, basis, edges, dtype)
    # An error of the first layer moves the second along its curves: those of a Fourier series have a slope of up to
    # 2π·4 per domain.
    looser = 6.0 if kind in ("feedforward", "gated") and basis == "fourier" else 1.0
    assert output.dtype == dtype
    assert_close_to_float64(output, expected, dtype, looser=looser)
    assert_close_to_float64(gradients, expected_gradients, dtype, gradient=True, looser=looser)
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())


@pytest.mark.parametrize(("kind", "basis", "edges"), CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_output(kind, basis, edges, dtype):
    module, x = make(kind, basis, edges, dtype), inputs(23, 6, dtype=dtype)
    assert module(x).dtype == dtype
    expected = expected_output(float64_twin(module), x.double())
    assert_close_to_float64(module(x), expected, dtype, looser=ROUNDINGS[kind])


@pytest.mark.parametrize(("kind", "basis", "edges"), ONE_EACH)
def test_domains_are_never_narrower_than_float32(kind, basis, edges):
    def domains(module):
        return {name: tensor for name, tensor in module.named_buffers() if name.endswith("domain")}

    assert {domain.dtype for domain in domains(make(kind, basis, edges, torch.bfloat16)).values()} == {torch.float32}
    module = make(kind, basis, edges)
    before = {name: domain.clone() for name, domain in domains(module).items()}
    for change in (
        lambda m: m.bfloat16(),
        lambda m: m.half(),
        lambda m: m.to("cpu", torch.bfloat16),
        lambda m: m.float(),
    ):
        dtypes = {parameter.dtype for parameter in change(module).parameters()}
        assert len(dtypes) == 1 and all(torch.equal(domain, before[name]) for name, domain in domains(module).items())
    assert {domain.dtype for domain in domains(module.double()).values()} == {torch.float64}
    assert all(torch.equal(domain.float(), before[name]) for name, domain in domains(module.half()).items())
    assert {domain.dtype for domain in domains(module).values()} == {torch.float32}
    module.half().to("meta").to_empty(device="cpu")
    assert {domain.dtype for domain in domains(module).values()} == {torch.float32}


def test_bfloat16_rounds_a_fine_wide_curve_no_more_than_its_coefficients():
    module = LearnedActivation(8, base="zero", grid_size=64, domain=(-101.3, 99.7))
    with torch.no_grad():
        module.coefficients.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.linspace(-100, 99, 8000).reshape(-1, 8).bfloat16()
    twin = deepcopy(module).double()
    twin.coefficients.data = module.coefficients.bfloat16().double()
    assert_close_to_float64(module.bfloat16()(x), twin(x.double()), torch.bfloat16)


@pytest.mark.parametrize(("basis", "edges"), BASIS_AND_EDGES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradients_of_a_layer(basis, edges, dtype):
    _, gradients, _, expected = both("linear", basis, edges, dtype)
    assert_close_to_float64(gradients, expected, dtype, gradient=True, looser=ROUNDINGS["linear"])


@pytest.mark.parametrize(("kind", "basis", "edges"), ONE_EACH)
@pytest.mark.parametrize("leading", [(), (1,), (0,), (2, 3), (2, 0, 3)])
def test_any_leading_shape(kind, basis, edges, leading):
    module, x = make(kind, basis, edges, torch.float64), inputs(*leading, 6, dtype=torch.float64)
    output = module(x.requires_grad_())
    expected = expected_output(float64_twin(module), x.reshape(-1, 6))
    assert output.shape == (*leading, expected.shape[-1])
    assert_close_to_float64(output, expected.reshape(output.shape), torch.float64)
    output.sum().backward()
    assert x.grad.shape == x.shape
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize(("kind", "basis", "edges"), ONE_EACH)
def test_input_that_is_not_contiguous(kind, basis, edges):
    module, x = make(kind, basis, edges, torch.float64), inputs(6, 5, 3, dtype=torch.float64).permute(2, 1, 0)
    assert_close_to_float64(module(x), module(x.contiguous()), torch.float64)


@pytest.mark.parametrize(("kind", "basis", "edges"), CASES)
def test_meta_device(kind, basis, edges):
    with torch.device("meta"):
        module = {
            "linear": lambda **rest: KANLinear(6, 4, rank=3, **rest),
            "activation": lambda **rest: LearnedActivation(6, **rest),
            "feedforward": lambda **rest: KANFeedForward(6, 8, rank=3, **rest),
            "gated": lambda **rest: GatedKANFeedForward(6, 8, **rest),
        }[kind](basis=basis, edges=edges, groups=2, grid_size=4, order=3)
    assert all(tensor.is_meta for tensor in module.state_dict().values())
    assert module(torch.empty(2, 3, 6, device="meta")).shape[:2] == (2, 3)
    real = make(kind, basis, edges)
    module.load_state_dict(real.state_dict(), assign=True)
    assert torch.equal(module(inputs(4, 6)), real(inputs(4, 6)))


@pytest.mark.parametrize(("kind", "basis", "edges"), ONE_EACH)
def test_autocast_gives_the_dtype_of_a_plain_linear(kind, basis, edges):
    module, x = make(kind, basis, edges), inputs(23, 6)
    with torch.autocast("cpu", torch.bfloat16):
        output = module(x)
        plain = torch.nn.Linear(6, 4)(x).dtype if kind != "activation" else torch.nn.SiLU()(x).dtype
    assert output.dtype == plain
    expected = expected_output(float64_twin(module), x.double())
    # Autocast rounds float32 inputs and weights as well, before it multiplies them.
    assert_close_to_float64(output, expected, torch.bfloat16, looser=2 * ROUNDINGS[kind])


@pytest.mark.parametrize(("kind", "basis", "edges"), ONE_EACH)
def test_deepcopy_shares_nothing(kind, basis, edges):
    module, x = make(kind, basis, edges), inputs(4, 6)
    copy, before = deepcopy(module), module(x)
    assert torch.equal(copy(x), before)
    with torch.no_grad():
        for tensor in copy.state_dict().values():
            tensor.add_(1)
    assert torch.equal(module(x), before)


STATE_DICT_KEYS = {
    ("linear", "bspline", "full"): {"weight": (4, 6), "bias": (4,), "coefficients": (6, 7, 4), "domain": (6, 2)},
    ("linear", "bspline", "channel"): {"weight": (4, 6), "bias": (4,), "coefficients": (6, 7), "domain": (6, 2)},
    ("linear", "bspline", "group"): {"weight": (4, 6), "bias": (4,), "coefficients": (2, 7), "domain": (2, 2)},
    ("linear", "rational", "low_rank"): {
        "weight": (4, 6),
        "bias": (4,),
        "coefficients": (6, 4, 3),
        "mix": (3, 4),
        "denominator": (6, 2),
        "domain": (6, 2),
    },
    ("activation", "rational", "group"): {"coefficients": (2, 4), "denominator": (2, 2), "domain": (2, 2)},
    ("activation", "fourier", "channel"): {"coefficients": (6, 9), "domain": (6, 2)},
}


@pytest.mark.parametrize("case", STATE_DICT_KEYS)
def test_state_dict_keys_are_a_contract(case):
    assert {name: tuple(t.shape) for name, t in make(*case).state_dict().items()} == STATE_DICT_KEYS[case]


@pytest.mark.parametrize(("kind", "basis", "edges"), CASES)
def test_state_dict_round_trip(kind, basis, edges):
    module, other, x = make(kind, basis, edges), make(kind, basis, edges, seed=5), inputs(4, 6)
    assert not torch.equal(module(x), other(x))
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(x), other(x))


@pytest.mark.parametrize(("kind", "basis", "edges"), ONE_EACH)
def test_gradient_checkpointing_changes_nothing(kind, basis, edges):
    module = make(kind, basis, edges)
    found = []
    for call in (module, lambda x: checkpoint(module, x, use_reentrant=False)):
        x = inputs(9, 6).requires_grad_()
        output = call(x)
        found.append({"output": output, **loss_gradients(module, output, x)})
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


# Compiling takes many seconds, so only one layer with edges and one activation.
@pytest.mark.parametrize(
    ("kind", "basis", "edges"), [("linear", "rational", "low_rank"), ("activation", "bspline", "group")]
)
def test_compiles_to_one_graph(kind, basis, edges):
    module, x = make(kind, basis, edges), inputs(23, 6).requires_grad_()
    compiled = torch.compile(module, fullgraph=True)
    output = compiled(x)
    expected = expected_output(twin := float64_twin(module), x_64 := x.detach().double().requires_grad_())
    assert_close_to_float64(output, expected, torch.float32, looser=4.0)
    expected_gradients = loss_gradients(twin, expected, x_64)
    gradients = loss_gradients(module, output, x)
    assert_close_to_float64(gradients, expected_gradients, torch.float32, gradient=True, looser=4.0)


@pytest.fixture
def poisoned_memory():
    """Every torch.empty is full of NaN."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("kind", "basis", "edges"), CASES)
def test_uninitialised_memory_is_never_read(kind, basis, edges, poisoned_memory):
    modules = {"linear": (KANLinear, 6, 4), "activation": (LearnedActivation, 6)}
    modules |= {"feedforward": (KANFeedForward, 6, 8), "gated": (GatedKANFeedForward, 6, 8)}
    cls, *sizes = modules[kind]
    module = cls(*sizes, basis=basis, edges=edges, groups=2)
    assert all(tensor.isfinite().all() for tensor in module.state_dict().values())
    x = inputs(9, 6).requires_grad_()
    output = module(x)
    assert output.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in loss_gradients(module, output, x).values())


def test_group_is_channel_with_repeated_coefficients():
    for basis in ("bspline", "rational"):
        group, channel, x = make("linear", basis, "group"), make("linear", basis, "channel"), inputs(9, 6)
        state = {
            name: tensor if name in ("weight", "bias") else tensor.repeat_interleave(3, dim=0)
            for name, tensor in group.state_dict().items()
        }
        channel.load_state_dict(state)
        assert torch.equal(group(x), channel(x))


def test_low_rank_is_full_with_the_product():
    low_rank, full = (make("linear", "bspline", edges, torch.float64) for edges in ("low_rank", "full"))
    state = low_rank.state_dict()
    state["coefficients"] = state["coefficients"] @ state.pop("mix")
    full.load_state_dict(state)
    x = inputs(9, 6, dtype=torch.float64)
    assert_close_to_float64(full(x), low_rank(x), torch.float64)


def test_representation_shows_the_curves():
    expected = "edges='group', basis='rational', grid_size=4, order=3"
    layer, activation = (repr(make(kind, "rational", "group")) for kind in ("linear", "activation"))
    assert layer == f"KANLinear(in_features=6, out_features=4, bias=True, {expected}, base='silu')"
    assert activation == f"LearnedActivation(6, base=silu, {expected})"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"edges": "all"}, "Unknown edges 'all'. Choose one of: full, low_rank, channel, group"),
        ({"base": "swish"}, "Unknown base function 'swish'. Choose one of: identity, silu, gelu, relu, tanh, zero"),
        ({"basis": "wavelet"}, "Unknown basis 'wavelet'"),
        ({"domain": (1.0, 1.0)}, "domain must run from a lower to a higher finite number"),
        ({"domain": (0.0, float("inf"))}, "domain must run from a lower to a higher finite number"),
        ({"domain": 3.0}, "domain must be two numbers"),
        ({"edges": "group", "groups": 4}, "groups=4 does not divide the 6 input channels"),
        ({"edges": "group", "groups": 0}, "groups must be a whole number of at least 1, got 0"),
        ({"edges": "low_rank", "rank": 1.5}, "rank must be a whole number of at least 1, got 1.5"),
        ({"domain": (1.0, 1 + 1e-9), "dtype": torch.bfloat16}, r"domain \(1.0, 1.0.*\) has no width.* torch.float32"),
        ({"domain": (0.0, 1e39), "dtype": torch.float16}, r"domain \(0.0, 1e\+39\) .* torch.float32"),
    ],
)
def test_impossible_settings_name_the_choices(settings, message):
    with pytest.raises(ConfigError, match=message):
        KANLinear(6, 4, **settings)


def test_an_activation_has_no_edges():
    with pytest.raises(ConfigError, match="Without weights there are no edges: edges='full' must be channel or group"):
        LearnedActivation(6, edges="full")


@pytest.mark.parametrize(("kind", "edges"), [("linear", "full"), ("linear", "channel"), ("activation", "channel")])
def test_an_input_of_another_width_is_refused(kind, edges):
    with pytest.raises(ShapeError, match=r"curves for 6 channels, got input \(2, 1\)"):
        make(kind, "bspline", edges)(torch.zeros(2, 1))
    with pytest.raises(ShapeError, match=r"curves for 6 channels, got input \(\)"):
        make("activation", "bspline", "channel")(torch.zeros(()))


@pytest.mark.parametrize("base", BASE_FUNCTIONS)
@pytest.mark.parametrize("edges", ["full", "low_rank", "channel"])
def test_every_base_function_can_be_trained(base, edges):
    layer = KANLinear(3, 2, base=base, edges=edges).double()
    torch.nn.init.normal_(layer.coefficients)
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(layer, x)
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_any_callable_can_be_bent():
    class Unhashable:
        __hash__ = None

        def __call__(self, x):
            return 2 * x

    x = torch.ones(2, 3)
    assert torch.equal(LearnedActivation(3, base=Unhashable())(x), 2 * x)
