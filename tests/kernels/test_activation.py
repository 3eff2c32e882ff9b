"""The learned activation against its definition in float64: outputs, every gradient, and what surrounds the operation.

The definition itself is compared with kansformer's bases.
"""

import math

import pytest
import torch
from kan_kernels import activation_launch, activation_operators, definition, exact_bases, is_exact
from kan_kernels.activation import learned_activation
from kan_kernels.base_functions import INTERPRETED, VARIANTS
from kan_kernels.bases import EXTRAPOLATIONS, MAX_ORDER, num_coefficients, num_denominator
from kan_kernels.centred_form import is_centred, lost_bits
from kan_kernels.tiles import Tile
from numerics import assert_close_to_float64, relative_error
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from kansformer.basis import Basis

BASES = [
    *(("bspline", grid, order) for grid, order in [(1, 1), (3, 1), (5, 2), (5, 3), (2, 4), (3, 5)]),
    *(("chebyshev", 1, order) for order in (1, 2, 4)),
    *(("rational", 1, order) for order in (1, 2, 5)),
]
NAMES = list(definition.BASE_FUNCTIONS)
DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _poison(monkeypatch):
    """Memory that a kernel must write starts as NaN, so that what it leaves out is seen."""

    def poisoned(function):
        def create(*sizes, **options):
            tensor = function(*sizes, **options)
            return tensor.fill_(math.nan) if tensor.is_floating_point() and tensor.device.type != "meta" else tensor

        return create

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


@pytest.fixture
def few_programs(monkeypatch):
    """Makes launches of a few programs, each of which walks over many tokens."""
    if not INTERPRETED.value:
        pytest.skip("a GPU says itself how many programs it runs")
    monkeypatch.setattr(activation_launch, "_USUAL_MULTIPROCESSORS", 1)
    monkeypatch.setattr(activation_launch, "_USUAL_RESIDENT", 4)
    monkeypatch.setattr(activation_operators, "PLANS", {})


@pytest.fixture
def case(device):
    """Builds the tensors of one call by name, and its settings. Every curve has its own domain, which x leaves."""

    def build(
        shape=(7, 6),
        curves=None,
        dtype=torch.float32,
        basis="bspline",
        grid_size=5,
        order=3,
        extrapolation="linear",
        base="silu",
        factor=True,
        parameters=None,
        seed=0,
    ):
        generator = torch.Generator().manual_seed(seed)
        curves = shape[-1] if curves is None else curves
        parameters = parameters or (DOUBLE if dtype == DOUBLE else torch.float32)

        def normal(*size):
            return torch.randn(*size, generator=generator, dtype=DOUBLE)

        lower = -1 - normal(curves).abs()
        tensors = {
            "x": (1.5 * normal(*shape)).to(dtype),
            "coefficients": normal(curves, num_coefficients(basis, grid_size, order)).to(parameters),
            "domain": torch.stack([lower, lower + 2 + normal(curves).abs()], -1).to(parameters),
        }
        if basis == "rational":
            tensors["denominator"] = normal(curves, num_denominator(basis, order)).to(parameters)
        if factor:
            tensors["factor"] = normal(*shape).to(dtype)
        settings = dict(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
        if base == "given":
            tensors["base"] = normal(*shape).to(dtype)
        else:
            settings["base"] = base
        return {name: t.to(device) for name, t in tensors.items()}, settings

    return build


def run(function, tensors, settings):
    """The output, and the gradients of everything but the domain, by name."""
    leaves = {name: t.detach().clone().requires_grad_(name != "domain") for name, t in tensors.items()}
    y = function(**leaves, **settings)
    ramp = torch.linspace(-1, 2, max(1, y.numel()), device=y.device)[: y.numel()].reshape(y.shape)
    ramp = (8 * ramp).round() / 8  # the same number in every dtype
    wanted = [name for name in leaves if name != "domain"]
    found = torch.autograd.grad(y, [leaves[name] for name in wanted], ramp.to(y.dtype))
    return y.detach(), dict(zip(wanted, found, strict=True))


def in_double(tensors):
    return {name: t.double() for name, t in tensors.items()}


def defined(coefficients, domain, x, **rest):
    return definition.learned_activation(x, coefficients, domain, **rest)


def check(tensors, settings, looser=1.0):
    dtype = tensors["x"].dtype
    y, gradients = run(learned_activation, tensors, settings)
    expected, expected_gradients = run(defined, in_double(tensors), settings)
    # σ, the sum and the product are each rounded to 16 bits, as PyTorch rounds them.
    roundings = math.sqrt(1 + (settings.get("base") not in (None, "identity", "zero")) + ("factor" in tensors))
    assert_close_to_float64(y, expected, dtype, looser=looser * (roundings if dtype.itemsize == 2 else 1))
    assert_close_to_float64(gradients, expected_gradients, dtype, gradient=True, looser=looser)
    assert y.dtype == dtype
    for name, gradient in gradients.items():
        assert gradient.dtype == tensors[name].dtype


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize(("basis", "grid_size", "order"), BASES)
def test_the_definition_is_kansformers(case, basis, grid_size, order, extrapolation):
    tensors, settings = case((40, 6), 3, DOUBLE, basis, grid_size, order, extrapolation, "zero", factor=False)
    ours = Basis(name=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    per_channel = {n: t.repeat_interleave(2, 0) for n, t in tensors.items() if n != "x"}
    values = ours.values(tensors["x"], per_channel["domain"], per_channel.get("denominator"))
    expected = (values * per_channel["coefficients"]).sum(-1)
    assert relative_error(defined(**tensors, **settings), expected) < 1e-13


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize(("basis", "grid_size", "order"), BASES)
def test_bases_and_extrapolations(case, basis, grid_size, order, extrapolation):
    check(*case((70, 6), 3, torch.float32, basis, grid_size, order, extrapolation))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize("base", [*NAMES, "given"])
@pytest.mark.parametrize("factor", [True, False], ids=["gated", "plain"])
def test_base_functions(case, base, factor, dtype):
    tensors, settings = case((33, 5), base=base, factor=factor, dtype=dtype, basis="chebyshev")
    tensors["coefficients"] *= 0.01  # so that an error in σ is not hidden
    check(tensors, settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "curves"), [((1, 1), 1), ((130, 37), 37), ((1, 37), 1), ((2, 3, 8), 2)], ids=["1", "odd", "row", "3d"]
)
def test_shapes_and_dtypes(case, shape, curves, dtype):
    check(*case(shape, curves, dtype))
    check(*case(shape, curves, dtype, "rational", 1, 3, base="given"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_parameters_in_sixteen_bits(case, dtype):
    check(*case((20, 6), 3, dtype, parameters=dtype))


@pytest.mark.parametrize("order", range(1, MAX_ORDER["chebyshev"] + 1, 5))
def test_long_chebyshev_series(case, order):
    # Rounding grows with the square of the degree.
    check(*case((9, 3), basis="chebyshev", order=order), looser=3 if order > 6 else 1)


@pytest.mark.parametrize("grid_size", [13, 14, 40])
def test_fine_grids(case, grid_size):
    # Held in registers up to 16 coefficients, then looked up. float32 places x in a grid interval to one part in 2^24
    # of the whole grid, so the error grows with the grid.
    check(*case((9, 4), 2, grid_size=grid_size, order=3), looser=grid_size / 4)
    check(*case((9, 4), 2, DOUBLE, grid_size=grid_size, order=3), looser=1)


@pytest.mark.parametrize("base", ["silu", "given"])
def test_many_tokens_are_shared_among_programs(case, base, few_programs):
    check(*case((300, 70), 35, basis="rational", order=3, base=base))


@pytest.mark.parametrize("settings", [("bspline", 5, 3), ("rational", 1, 3), ("chebyshev", 1, 2)], ids=str)
def test_several_tiles_a_turn(case, settings, few_programs, monkeypatch):
    tile = Tile(path="fused", rows=4, columns=32, turns=3)
    monkeypatch.setattr(activation_launch, "activation_tile", lambda *arguments: tile)
    check(*case((61, 37), dtype=torch.bfloat16, basis=settings[0], grid_size=settings[1], order=settings[2]))


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize(("grid_size", "order"), [(1, 2), (8, 2), (1, 3), (2, 3), (5, 3), (8, 3), (5, 4), (4, 5)])
def test_the_centred_form_in_float32(case, grid_size, order, extrapolation, few_programs, monkeypatch):
    # 16-bit inputs take it, whose rounding would hide an error: here its own is seen.
    monkeypatch.setattr(activation_launch, "form_of", lambda curve, dtype: "centred")
    tensors, settings = case((70, 6), 3, torch.float32, "bspline", grid_size, order, extrapolation)
    check(tensors, settings, looser=2 ** max(0.0, lost_bits(grid_size, order) - 2))


def test_what_is_centred():
    assert [max(g for g in range(1, 40) if is_centred(g, order)) for order in range(2, 6)] == [22, 11, 8, 7]
    assert not is_centred(5, 1)


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize("basis", ["bspline", "rational"])
def test_infinite_inputs_in_sixteen_bits(case, basis, extrapolation):
    tensors, settings = case(
        (4, 3), None, torch.bfloat16, basis, extrapolation=extrapolation, base="zero", factor=False
    )
    tensors["x"][:, 0] = torch.tensor([math.inf, -math.inf, 3e38, -1e4])
    y, gradients = run(learned_activation, tensors, settings)
    expected, expected_gradients = run(defined, in_double(tensors), settings)
    for token in range(4):
        # Three numbers: their roundings do not average out.
        assert_close_to_float64(y[token], expected[token], torch.bfloat16, looser=1.3)
    assert_close_to_float64(gradients, expected_gradients, torch.bfloat16, gradient=True)


def test_a_factor_of_another_shape_is_refused_after_a_right_one(case):
    tensors, settings = case((5, 6), 3)
    learned_activation(**tensors, **settings)
    with pytest.raises(ValueError, match=r"factor must have x's shape \(5, 6\)"):
        learned_activation(**{**tensors, "factor": tensors["factor"][:4]}, **settings)


def test_a_mode_sees_the_operators(case):
    seen = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Watching():
        run(learned_activation, *case((5, 6), 3))
    assert "kan_kernels.learned_activation.default" in seen
    assert "kan_kernels.learned_activation_backward.default" in seen


def test_no_tokens(case):
    tensors, settings = case((0, 6), 3)
    y, gradients = run(learned_activation, tensors, settings)
    assert y.shape == (0, 6)
    assert not gradients["coefficients"].any()
    assert gradients["x"].shape == gradients["factor"].shape == (0, 6)


def test_strided_rows_are_read_in_place(case):
    tensors, settings = case((9, 6))
    both = torch.cat([tensors["x"], tensors["factor"]], -1)
    expected = learned_activation(**tensors, **settings)
    halves = dict(zip(("x", "factor"), both.chunk(2, -1), strict=True))
    assert torch.equal(learned_activation(**{**tensors, **halves}, **settings), expected)
    transposed = {**tensors, "x": tensors["x"].t().contiguous().t()}
    assert torch.equal(learned_activation(**transposed, **settings), expected)


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize("basis", ["bspline", "chebyshev", "rational"])
def test_far_and_infinite_inputs(case, basis, extrapolation):
    tensors, settings = case((4, 3), basis=basis, extrapolation=extrapolation, base="zero", factor=False)
    tensors["x"][:, 0] = torch.tensor([math.inf, -math.inf, 1e30, -1e4])
    y, gradients = run(learned_activation, tensors, settings)
    expected, expected_gradients = run(defined, in_double(tensors), settings)
    for token in range(4):  # they differ by 26 powers of ten; one token's few values may owe digits to cancellation
        assert_close_to_float64(y[token], expected[token], torch.float32, looser=4)
    assert_close_to_float64(gradients, expected_gradients, torch.float32, gradient=True)


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize("basis", ["bspline", "chebyshev", "rational"])
def test_nan_stays_in_its_channel(case, basis, extrapolation):
    # σ = 0, so that the NaN is the curve's.
    tensors, settings = case((4, 3), basis=basis, extrapolation=extrapolation, base="zero")
    tensors["x"][1, 1] = math.nan
    y, gradients = run(learned_activation, tensors, settings)
    alone = torch.zeros(4, 3, dtype=torch.bool)
    alone[1, 1] = True
    for result in (y, gradients["x"], gradients["factor"]):
        assert torch.equal(result.isnan().cpu(), alone)
    for name in gradients.keys() & {"coefficients", "denominator"}:
        assert gradients[name].isnan().any(-1).tolist() == [False, True, False]


@pytest.mark.parametrize(("basis", "base"), [("bspline", "silu"), ("chebyshev", "tanh"), ("rational", "given")])
def test_gradcheck(case, basis, base):
    tensors, settings = case((2, 2), 1, DOUBLE, basis, 2, 3, base=base)
    domain = tensors.pop("domain")
    leaves = [t.requires_grad_() for t in tensors.values()]

    def function(*values):
        return learned_activation(domain=domain, **dict(zip(tensors, values, strict=True)), **settings)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def test_a_third_derivative_is_refused(case):
    tensors, settings = case((3, 2), dtype=DOUBLE)
    x = tensors["x"].requires_grad_()
    (first,) = torch.autograd.grad(learned_activation(**tensors, **settings).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no third derivative; take kan_kernels.definition"):
        torch.autograd.grad(first.sum(), x, create_graph=True)


@pytest.mark.parametrize("base", ["gelu", "given"])
def test_opcheck(case, base):
    tensors, settings = case((5, 4), 2, basis="rational", base=base)
    leaves = {name: t.requires_grad_(name != "domain") for name, t in tensors.items()}
    order = ("x", "coefficients", "domain", "denominator", "base", "factor")
    arguments = [*(leaves.get(name) for name in order), base, *list(settings.values())[:4]]
    # The operators take no part in autograd: a function around them does.
    detached = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
    torch.library.opcheck(torch.ops.kan_kernels.learned_activation.default, detached)
    backward = torch.ops.kan_kernels.learned_activation_backward.default
    for sums in (True, False):
        torch.library.opcheck(backward, (torch.ones_like(detached[0]), *detached, sums))


@pytest.mark.parametrize("base", ["silu", "given"])
def test_compiled(case, base):
    tensors, settings = case((5, 4), 2, basis="rational", base=base)
    compiled = torch.compile(learned_activation, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        y, gradients = run(compiled, tensors, settings)
        expected, expected_gradients = run(learned_activation, tensors, settings)
        assert torch.equal(y, expected)
        assert all(torch.equal(gradients[name], expected_gradients[name]) for name in gradients)


def test_checkpointed(case):
    tensors, settings = case((5, 4), 2)

    def checkpointed(**arguments):
        return checkpoint(learned_activation, **arguments, use_reentrant=False)

    y, gradients = run(checkpointed, tensors, settings)
    expected, expected_gradients = run(learned_activation, tensors, settings)
    assert torch.equal(y, expected)
    assert all(torch.equal(gradients[name], expected_gradients[name]) for name in gradients)


def test_the_same_bits_every_time(case, few_programs):
    tensors, settings = case((200, 16), 2, torch.float16, "rational")
    y, gradients = run(learned_activation, tensors, settings)
    again, gradients_again = run(learned_activation, tensors, settings)
    assert torch.equal(y, again)
    assert all(torch.equal(gradients[name], gradients_again[name]) for name in gradients)


def test_frozen_curves_cost_no_sums(case, monkeypatch):
    tensors, settings = case((5, 4))
    expected = run(learned_activation, tensors, settings)[1]["x"]
    monkeypatch.setattr(activation_operators, "_sum_per_curve", None)
    x = tensors["x"].requires_grad_()
    y = learned_activation(**tensors, **settings)
    ramp = (8 * torch.linspace(-1, 2, y.numel(), device=y.device).reshape(y.shape)).round() / 8
    assert torch.equal(torch.autograd.grad(y, x, ramp)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("base", ["relu", "identity", "given"])
def test_a_zero_curve_changes_no_bit(case, base, dtype):
    tensors, settings = case((50, 6), dtype=dtype, base=base)
    tensors["coefficients"].zero_()
    sigma = tensors["base"] if base == "given" else definition.BASE_FUNCTIONS[base](tensors["x"])
    assert torch.equal(learned_activation(**tensors, **settings), sigma * tensors["factor"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "tanh"])
def test_an_exact_base_is_rounded_before_the_curve_is_added(case, device, dtype, name):
    if not is_exact(name, device, dtype):
        pytest.skip("it is not exact here")
    tensors, settings = case((50, 6), dtype=dtype, base=name)
    in_torch = {**settings, "base": definition.BASE_FUNCTIONS[name](tensors["x"])}
    assert torch.equal(learned_activation(**tensors, **settings), learned_activation(**tensors, **in_torch))


def test_exact_bases(device):
    for name in NAMES:
        assert is_exact(name, device, torch.float32) == (name in ("identity", "relu", "zero"))
    for dtype in (torch.float16, torch.bfloat16):
        assert all(is_exact(name, device, dtype) for name in ("identity", "relu", "zero"))
    with pytest.raises(ValueError, match="Unknown base 'elu'. Choose one of: identity, silu, "):
        is_exact("elu", device, torch.float16)


def test_only_the_function_that_is_asked_for_is_tried(device, monkeypatch):
    tried = []
    for name in ("_AGREES", "_EXACT"):
        monkeypatch.setattr(exact_bases, name, {})
    monkeypatch.setattr(exact_bases, "_try", lambda variant, *_: tried.append(variant) or variant == "silu")
    assert is_exact("silu", device, torch.bfloat16) and is_exact("silu", device, torch.bfloat16)
    assert tried == ["silu_branchless", "silu"]


def test_what_is_known_holds_while_a_graph_is_captured(device, monkeypatch):
    for name in ("_AGREES", "_EXACT"):
        monkeypatch.setattr(exact_bases, name, {})
    assert is_exact("relu", device, torch.bfloat16)
    monkeypatch.setattr(exact_bases, "is_capturing", lambda device: True)
    monkeypatch.setattr(exact_bases, "_try", None)
    assert is_exact("relu", device, torch.bfloat16)
    assert not is_exact("tanh", device, torch.bfloat16)
    monkeypatch.undo()
    assert exact_bases._agrees("tanh", "tanh", device, torch.bfloat16) == is_exact("tanh", device, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("base", "variant"), [(base, v) for base, variants in VARIANTS.items() for v in variants])
def test_variants_of_a_base_are_right_for_every_value(case, device, base, variant, dtype):
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).reshape(512, 128).to(device)
    y = learned_activation(
        x, torch.zeros(1, 2, device=device), torch.tensor([[-1.0, 1.0]], device=device),
        basis="chebyshev", grid_size=1, order=1, base=variant,
    )  # fmt: skip
    expected = torch.where(x.isnan(), x, definition.BASE_FUNCTIONS[base](x.float()).to(dtype))
    assert torch.equal(y.isnan(), expected.isnan())
    difference = (y.view(torch.int16).int() - expected.view(torch.int16).int()).abs()
    zeros = (y == 0) & (expected == 0)
    assert difference[~y.isnan() & ~zeros].max() <= 1  # the last bit, where an exponential differs


def test_errors_name_the_value_and_the_choices(case):
    tensors, settings = case((5, 6), 3)
    x = tensors["x"]
    for changed, message in [
        (dict(basis="fourier"), "Unknown basis 'fourier'. The kernels have: bspline, chebyshev, rational"),
        (dict(order=6), "order must be from 1 to 5 for the basis 'bspline', got 6"),
        (dict(base="elu"), "Unknown base 'elu'. Choose one of: identity, silu, .*; or give the tensor"),
        (dict(x=x.long()), "x must be float16, bfloat16, float32 or float64, got torch.int64"),
        (dict(x=x[:, :5], factor=None), r"P divides the channels of x, got \(3, 8\) with x \(5, 5\)"),
        (dict(coefficients=x.new_zeros(3, 7)), r"coefficients must have the shape \(3, 8\), got \(3, 7\)"),
        (dict(domain=x.new_zeros(6, 2)), r"domain must have the shape \(3, 2\), got \(6, 2\)"),
        (dict(denominator=x.new_zeros(3, 2)), "denominator must be None for the basis 'bspline'"),
        (dict(basis="rational", coefficients=x.new_zeros(3, 4)), "denominator must be a tensor for .* 'rational'"),
        (dict(factor=x[:1]), r"factor must have x's shape \(5, 6\) and dtype torch.float32, got \(1, 6\)"),
        (dict(base=x.half()), "base must have x's shape .* got .* torch.float16"),
    ]:
        with pytest.raises(ValueError, match=message):
            learned_activation(**{**tensors, **settings, **changed})
