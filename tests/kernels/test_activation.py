"""The learned activation against its definition in float64: outputs and every gradient.

The definition itself is compared with kansformer's bases.
"""

import math

import pytest
import torch
from activation_calls import DOUBLE, check, defined, in_double, run
from kan_kernels import activation_launch, activation_operators, definition, is_exact
from kan_kernels.activation import learned_activation
from kan_kernels.base_functions import INTERPRETED
from kan_kernels.bases import EXTRAPOLATIONS, MAX_ORDER
from kan_kernels.centred_form import is_centred, lost_bits
from kan_kernels.tiles import Tile
from numerics import assert_close_to_float64, relative_error

from kansformer.basis import Basis

BASES = [
    *(("bspline", grid, order) for grid, order in [(1, 1), (3, 1), (5, 2), (5, 3), (2, 4), (3, 5)]),
    *(("chebyshev", 1, order) for order in (1, 2, 4)),
    *(("rational", 1, order) for order in (1, 2, 5)),
]
NAMES = list(definition.BASE_FUNCTIONS)


@pytest.fixture
def few_programs(monkeypatch):
    """Makes launches of a few programs, each of which walks over many tokens."""
    if not INTERPRETED.value:
        pytest.skip("needs TRITON_INTERPRET=1: a GPU says itself how many programs it runs")
    monkeypatch.setattr(activation_launch, "_USUAL_MULTIPROCESSORS", 1)
    monkeypatch.setattr(activation_launch, "_USUAL_RESIDENT", 4)
    monkeypatch.setattr(activation_operators, "PLANS", {})


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize(("basis", "grid_size"), [("bspline", 5), ("bspline", 40), ("rational", 1)])
def test_sixteen_bit_inputs_at_the_ends_of_the_domain(case, basis, grid_size, extrapolation, dtype):
    # The ends are inputs, as where a domain is the range of what was recorded: they belong to it.
    tensors, settings = case(
        (2, 200), None, dtype, basis, grid_size, extrapolation=extrapolation, base="zero", factor=False
    )
    tensors["domain"] = tensors["domain"].to(dtype).float()
    tensors["x"] = tensors["domain"].T.to(dtype).contiguous()
    check(tensors, settings)


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


def test_the_same_bits_every_time(case, few_programs):
    tensors, settings = case((200, 16), 2, torch.float16, "rational")
    y, gradients = run(learned_activation, tensors, settings)
    again, gradients_again = run(learned_activation, tensors, settings)
    assert torch.equal(y, again)
    assert all(torch.equal(gradients[name], gradients_again[name]) for name in gradients)


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
        pytest.skip(f"needs a GPU on which the kernels' {name} is PyTorch's in all 65,536 values of {dtype}")
    tensors, settings = case((50, 6), dtype=dtype, base=name)
    in_torch = {**settings, "base": definition.BASE_FUNCTIONS[name](tensors["x"])}
    assert torch.equal(learned_activation(**tensors, **settings), learned_activation(**tensors, **in_torch))
