"""The C++ kernels against the definition in float64: outputs, every gradient, and odd inputs."""

from contextlib import contextmanager

import pytest
import torch
from numerics import assert_close_to_float64, relative_error
from ops.native_calls import ADDED, NAMES, NATIVE, REFERENCE, assert_native_is_right, run

from kansformer.basis import EXTRAPOLATIONS, Basis
from kansformer.ops import Curves
from kansformer.ops.curves import ACTIVATIONS
from kansformer.ops.native import edges_bf16, kernels, library

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize(
    ("tokens", "inputs", "outputs"), [(1, 1, 1), (1, 70, 3), (70, 1, 65), (300, 67, 130), (65, 17, 5)]
)
def test_outputs_and_gradients(make_case, known_basis, operation, tokens, inputs, outputs):
    assert_native_is_right(operation, make_case(known_basis, operation, tokens, inputs, outputs))


@pytest.mark.parametrize(("operation", "added"), ADDED)
def test_what_is_added_and_multiplied(make_case, known_basis, operation, added):
    assert_native_is_right(operation, make_case(known_basis, operation, 20, 19, 18), added)


@pytest.mark.parametrize("grid_size", [1, 2, 13, 40, 64])
@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
def test_every_bspline(make_case, operation, extrapolation, order, grid_size):
    case = make_case(Basis(grid_size=grid_size, order=order, extrapolation=extrapolation), operation, 90, 3)
    # One ulp of x is grid_size times larger, seen from an interval of the grid.
    assert_native_is_right(operation, case, looser=max(1.0, grid_size / 4))


@pytest.mark.parametrize("name", ["chebyshev", "rational"])
@pytest.mark.parametrize("order", [1, 2, 5, 9])
@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
def test_every_polynomial(make_case, name, order, extrapolation):
    case = make_case(Basis(name=name, order=order, extrapolation=extrapolation), "apply_curves", 90, 3)
    # High degrees nearly cancel each other, in the definition as well.
    assert_native_is_right("apply_curves", case, ("base", "factor"), looser=3.0 if order > 5 else 1.0)


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
def test_knots_and_ends_of_the_domain(make_case, operation, extrapolation):
    case = make_case(Basis(grid_size=4, order=3, extrapolation=extrapolation), operation, tokens=5, inputs=2)
    domain = torch.tensor([[-1.0, 1.0], [0.0, 4.0]], dtype=torch.float64)
    knots = domain[:, 0] + (domain[:, 1] - domain[:, 0]) * torch.linspace(0, 1, 5, dtype=torch.float64).unsqueeze(-1)
    assert_native_is_right(operation, type(case)(case.basis, knots, case.coefficients, None, domain))


def test_inputs_that_are_not_finite_spoil_their_own_token_only(make_case, known_basis, operation):
    case = make_case(known_basis, operation, tokens=5, inputs=3).to(torch.float32)
    x = torch.tensor([torch.inf, -torch.inf, 3e38, torch.nan, 0.5]).unsqueeze(-1).expand(-1, 3).contiguous()
    case = type(case)(known_basis, x, case.coefficients, case.denominator, case.domain)
    actual, gradients = run(NATIVE[operation], operation, case)
    expected, expected_gradients = run(REFERENCE[operation], operation, case)
    finite = [0, 1, 2, 4]
    assert actual[finite].isfinite().all() and actual[3].isnan().all()
    assert_close_to_float64(actual[finite], expected[finite], torch.float32)
    assert_close_to_float64(gradients["x"][finite], expected_gradients["x"][finite], torch.float32)


@contextmanager
def threads_of_torch(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def products_keep_their_bits(threads, dtype):
    """Whether the BLAS of this processor gives one product with one thread and with several."""
    factors = torch.randn(300, 130).to(dtype), torch.randn(130, 66).to(dtype)
    products = []
    for number in (1, threads):
        with threads_of_torch(number):
            products.append(factors[0] @ factors[1])
    return torch.equal(*products)


@pytest.mark.parametrize("threads", [2, 3, 16])
@pytest.mark.parametrize("tokens", [20, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_threads_gives_the_same_bits(make_case, known_basis, operation, tokens, dtype, threads):
    case = make_case(known_basis, operation, tokens, 130, 66).to(dtype)
    results = []
    for number in (1, threads):
        with threads_of_torch(number):
            actual, gradients = run(NATIVE[operation], operation, case, ("base",))
            results.append([actual, *gradients.values()])
    is_same = all(map(torch.equal, *results))
    if not is_same and not products_keep_their_bits(threads, dtype):
        pytest.skip(f"this processor's BLAS gives other bits with {threads} threads")
    assert is_same


def test_gradients_of_many_tokens_keep_their_digits(make_case, known_basis, operation):
    case = make_case(known_basis, operation, tokens=20_000, inputs=3, outputs=2).to(torch.float32)
    shape = (20_000, 3 if operation == "apply_curves" else 2)
    gradient = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).float()
    found = run(NATIVE[operation], operation, case, gradient=gradient)[1]["coefficients"]
    wide = run(REFERENCE[operation], operation, case.to(torch.float64), gradient=gradient)
    assert relative_error(found, wide[1]["coefficients"]) < 5e-7  # one sum over all tokens gives 1e-6


def test_tensors_that_are_not_contiguous_and_one_expanded_gradient(make_case, known_basis, operation):
    case = make_case(known_basis, operation, tokens=10, inputs=6, outputs=3).to(torch.float32)

    def strided(t):
        return None if t is None else torch.stack([t, t], dim=-1).movedim(0, -2)[..., 0].movedim(-1, 0)

    odd = type(case)(case.basis, *(strided(t) for t in (case.x, case.coefficients, case.denominator, case.domain)))
    assert not odd.x.is_contiguous() and not odd.coefficients.is_contiguous()
    gradient = torch.ones(()).expand(10, 6 if operation == "apply_curves" else 3)
    actual, gradients = run(NATIVE[operation], operation, odd, gradient=gradient)
    expected, expected_gradients = run(REFERENCE[operation], operation, case.to(torch.float64), gradient=gradient)
    assert_close_to_float64(actual, expected, torch.float32)
    assert_close_to_float64(gradients, expected_gradients, torch.float32, gradient=True, looser=2.0)


def test_no_tokens(make_case, known_basis, operation):
    output, gradients = run(NATIVE[operation], operation, make_case(known_basis, operation, tokens=0).to(torch.float32))
    assert output.shape[0] == 0 and gradients["x"].shape == (0, 5)
    assert gradients["coefficients"].abs().max() == 0


@pytest.mark.parametrize("tokens", [1, 4, 90])
@pytest.mark.parametrize("activation", ["", "silu"])
@pytest.mark.parametrize("has_factor", [True, False])
@pytest.mark.parametrize("learns", [True, False])
def test_curves_of_bfloat16_are_those_of_float32_rounded(
    make_case, known_basis, tokens, activation, has_factor, learns
):
    case = make_case(known_basis, "apply_curves", tokens, 37).to(torch.float32)
    settings, tensors = kernels.settings_of(known_basis), (case.coefficients, case.denominator)
    rows = torch.randn(3, tokens, 37, generator=torch.Generator().manual_seed(1))
    x, base, factor, gradient = (t.to(torch.bfloat16) for t in (case.x, *rows))
    x[-1, :5] = torch.tensor([torch.inf, -torch.inf, 3e38, torch.nan, 1e-40])
    base, factor = None if activation else base, factor if has_factor else None

    y = kernels.evaluate_curves(settings, activation, x, *tensors, base, factor, case.domain)
    added = ACTIVATIONS[activation](x) if activation else base
    wide = kernels.evaluate_curves(settings, "", x.float(), *tensors, added.float(), None, case.domain)
    expected = wide.to(torch.bfloat16) * factor if has_factor else wide.to(torch.bfloat16)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)

    needs_grad = (True, learns, learns, has_factor and not activation, has_factor)
    rows = [gradient, x, base, factor]
    results, expected = (
        kernels.differentiate_curves(settings, activation, needs_grad, g, x, *tensors, base, factor, case.domain)
        for g, x, base, factor in (rows, [None if t is None else t.float() for t in rows])
    )
    for result, wide in zip(results, expected, strict=True):
        assert (result is None) == (wide is None)
        if result is not None:
            torch.testing.assert_close(result, wide.to(result.dtype), rtol=0, atol=0, equal_nan=True)
    assert results[0].dtype == torch.bfloat16 and (not learns or results[1].dtype == torch.float32)


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("base_dtype", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor_dtype", [None, torch.float32, torch.bfloat16])
def test_curves_between_any_dtypes(make_case, x_dtype, base_dtype, factor_dtype):
    case = make_case(Basis(), "apply_curves", 600, 37).to(torch.bfloat16)
    rows = torch.randn(3, 600, 37, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)

    def results(function, x_dtype, base_dtype, factor_dtype, curve_dtype):
        x, base, factor = (
            None if dtype is None else t.to(dtype, copy=True).requires_grad_()
            for t, dtype in ((case.x, x_dtype), (rows[0], base_dtype), (rows[1], factor_dtype))
        )
        curves = case.curves.to(curve_dtype)
        curves.coefficients.requires_grad_()
        y = function(x, curves, base, factor)
        wanted = [t for t in (x, curves.coefficients, base, factor) if t is not None]
        return y, *torch.autograd.grad(y, wanted, rows[2].to(y.dtype))

    wide = (None if dtype is None else torch.float64 for dtype in (base_dtype, factor_dtype))
    expected = results(REFERENCE["apply_curves"], torch.float64, *wide, torch.float64)
    actual = results(NATIVE["apply_curves"], x_dtype, base_dtype, factor_dtype, torch.bfloat16)
    assert actual[0].dtype == torch.promote_types(base_dtype or torch.float32, factor_dtype or torch.bfloat16)
    for result, reference in zip(actual, expected, strict=True):
        assert_close_to_float64(result, reference, torch.bfloat16, gradient=True)


@pytest.mark.parametrize(
    ("operation", "name", "wanted"),
    [*(("apply_curves", "rational", wanted) for wanted in NAMES), *(("sum_edges", "bspline", n) for n in NAMES[:2])],
)
def test_one_gradient_alone(make_case, operation, name, wanted):
    case = make_case(Basis(name=name), operation).to(torch.float32)
    expected = run(REFERENCE[operation], operation, case.to(torch.float64))[1][wanted]
    tensors = [None if getattr(case, n) is None else getattr(case, n).detach() for n in NAMES]
    tensors[NAMES.index(wanted)].requires_grad_()
    x, coefficients, denominator = tensors
    output = NATIVE[operation](x, Curves(coefficients, case.domain, denominator, case.basis))
    gradient = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).reshape(output.shape).float()
    (found,) = torch.autograd.grad(output, tensors[NAMES.index(wanted)], gradient)
    assert_close_to_float64(found, expected, torch.float32, gradient=True, looser=2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_default_device_does_not_matter(make_case, operation, dtype):
    case = make_case(Basis(), operation, tokens=4, inputs=3, outputs=2).to(dtype)
    base = torch.zeros(4, 3 if operation == "apply_curves" else 2, dtype=dtype)
    curves = Curves(case.coefficients, case.domain, case.denominator, case.basis)
    expected = NATIVE[operation](case.x, curves, base)
    with torch.device("meta"):
        assert torch.equal(NATIVE[operation](case.x, curves, base), expected)


@pytest.mark.parametrize("form", ["tiles", "pairs"])
@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(5, 3, 4), (90, 67, 3), (300, 3, 130)])
def test_bfloat16(make_case, monkeypatch, form, order, extrapolation, tokens, inputs, outputs):
    basis = Basis(grid_size=5, order=order, extrapolation=extrapolation)
    case = make_case(basis, "sum_edges", tokens, inputs, outputs).to(torch.bfloat16)
    assert_bfloat16_is_right(case, form, monkeypatch)


@pytest.mark.parametrize("form", ["tiles", "pairs"])
@pytest.mark.parametrize("grid_size", [1, 16, 64])
def test_bfloat16_in_several_blocks(make_case, monkeypatch, form, grid_size):
    """Of tokens in every kernel, and of inputs, fewer of which are taken together as the grid gets finer."""
    case = make_case(Basis(grid_size=grid_size), "sum_edges", 530, 35, 33).to(torch.bfloat16)
    assert_bfloat16_is_right(case, form, monkeypatch)


def assert_bfloat16_is_right(case, form, monkeypatch):
    """Without a matrix unit the tiles are computed one number at a time."""
    if form == "pairs" and not library.library().edges_pairs_supported():
        pytest.skip("needs a processor with pairs of bfloat16 (AVX-512 BF16)")
    monkeypatch.setattr(edges_bf16, "forms", lambda: (form,))
    tokens, outputs = len(case.x), case.coefficients.shape[2]
    gradient = torch.linspace(-1, 2, tokens * outputs).reshape(tokens, outputs).to(torch.bfloat16)
    expected, expected_gradients = run(REFERENCE["sum_edges"], "sum_edges", case.to(torch.float64), ("base",), gradient)
    actual, gradients = run(NATIVE["sum_edges"], "sum_edges", case, ("base",), gradient)
    assert actual.dtype == torch.bfloat16 and gradients["x"].dtype == torch.bfloat16
    # Basis values are rounded before they are multiplied.
    assert_close_to_float64(actual, expected, torch.bfloat16, looser=1.25)
    assert_close_to_float64(gradients, expected_gradients, torch.bfloat16, gradient=True)
    zero = type(case)(case.basis, case.x, torch.zeros_like(case.coefficients), None, case.domain)
    base = torch.randn(tokens, outputs, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    assert torch.equal(NATIVE["sum_edges"](zero.x, zero.curves, base), base)


def test_few_tokens_take_the_last_form(monkeypatch):
    monkeypatch.setattr(edges_bf16, "forms", lambda: ("tiles", "pairs"))
    assert edges_bf16._form_for(torch.zeros(edges_bf16.MIN_TOKENS, 1)) == "tiles"
    assert edges_bf16._form_for(torch.zeros(edges_bf16.MIN_TOKENS - 1, 1)) == "pairs"


@pytest.mark.parametrize("name", kernels.SLOPES)
@pytest.mark.parametrize("with_factor", [False, True])
def test_known_activations(make_case, known_basis, name, with_factor):
    case = make_case(known_basis, "apply_curves", tokens=40, inputs=19).to(torch.float32)
    case.x[:2] = torch.tensor([[60.0], [-60.0]])
    activation = ACTIVATIONS[name]

    def known(x, curves, **extras):
        return NATIVE["apply_curves"](x, curves, name, **extras)

    def plain(x, curves, **extras):
        return REFERENCE["apply_curves"](x, curves, activation(x), **extras)

    added = ("factor",) if with_factor else ()
    actual, gradients = run(known, "apply_curves", case, added)
    expected, expected_gradients = run(plain, "apply_curves", case.to(torch.float64), added)
    looser = 2.0 if known_basis.name == "rational" else 1.0
    assert_close_to_float64(actual, expected, torch.float32, looser=looser)
    assert_close_to_float64(gradients, expected_gradients, torch.float32, gradient=True, looser=looser)
    zero = type(case)(known_basis, case.x, torch.zeros_like(case.coefficients), case.denominator, case.domain)
    with torch.no_grad():
        x = case.x.clone()
        y = known(x, zero.curves)
    assert torch.equal(y, activation(case.x)) and torch.equal(x, case.x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("curves_in_all", "channels"), [(1, 70), (3, 17), (4, 43)])
def test_groups_of_channels_share_a_curve(make_case, known_basis, curves_in_all, channels, dtype):
    """Groups end anywhere in a vector and in a thread's part, and their gradients are the sums of their channels'."""
    case = make_case(known_basis, "apply_curves", inputs=curves_in_all)
    # More tokens than are added up at once, and enough for several threads.
    x = 1.5 * torch.randn(
        520, curves_in_all * channels, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    case = type(case)(known_basis, x, case.coefficients, case.denominator, case.domain).to(dtype)
    added, gradient = ("base", "factor"), torch.linspace(-1, 2, x.numel()).reshape(x.shape).to(dtype)
    wide = case.to(torch.float64)
    expected, expected_gradients = run(REFERENCE["apply_curves"], "apply_curves", wide, added, gradient)
    # In 16 bits it is rounded before the factor, too; in 32 as in `assert_native_is_right`.
    looser = 2.0 if dtype == torch.bfloat16 or known_basis.name == "rational" else 1.0
    looser_gradients = 1.0 if dtype == torch.bfloat16 else looser
    for threads in (1, 2):
        with threads_of_torch(threads):
            actual, gradients = run(NATIVE["apply_curves"], "apply_curves", case, added, gradient)
        assert_close_to_float64(actual, expected, dtype, looser=looser)
        assert_close_to_float64(gradients, expected_gradients, dtype, gradient=True, looser=looser_gradients)


@pytest.mark.parametrize("tokens", [1, 300])
def test_a_group_s_curve_is_that_of_each_channel_to_the_bit(make_case, known_basis, tokens):
    case = make_case(known_basis, "apply_curves", inputs=3).to(torch.float32)
    x = torch.randn(tokens, 51, generator=torch.Generator().manual_seed(1))
    own = [None if t is None else t.repeat_interleave(17, dim=0) for t in case.curves[:3]]
    assert torch.equal(NATIVE["apply_curves"](x, case.curves), NATIVE["apply_curves"](x, Curves(*own, known_basis)))


@pytest.mark.parametrize("grid_size", [1, 8, 14, 15])  # the last one has more intervals than a register holds
@pytest.mark.parametrize("channels", [16, 43])
def test_fixed_curves_of_groups_look_up_in_a_register(make_case, grid_size, channels):
    """The same numbers as where every channel has its own copy, in forward to the bit, and no other gradients."""
    basis = Basis(grid_size=grid_size)
    case = make_case(basis, "apply_curves", inputs=4).to(torch.float32)
    x = 2 * torch.randn(33, 4 * channels, generator=torch.Generator().manual_seed(1))
    x[0, 0], x[1, 1], x[2, 2] = torch.nan, torch.inf, -1e30
    gradient = torch.linspace(-1, 2, x.numel()).reshape(x.shape)
    results = []
    for curves in (case.curves, case.curves.per_channel(x.shape[1])):
        leaf, factor = x.clone().requires_grad_(), gradient.flip(0).requires_grad_()
        y = NATIVE["apply_curves"](leaf, curves, "silu", factor)
        results.append([y.detach(), *torch.autograd.grad(y, (leaf, factor), gradient)])
    for shared, own in zip(*results, strict=True):
        assert torch.allclose(shared, own, rtol=2e-6, atol=1e-6, equal_nan=True)
    assert torch.equal(results[0][0].nan_to_num(), results[1][0].nan_to_num())


@pytest.mark.parametrize(("tokens", "inputs"), [(70, 1500), (3, 5000), (9, 130)])
def test_wide_rows_are_cut_into_tasks(make_case, tokens, inputs):
    """The finest grid's curves of all channels are more than one task may have."""
    assert_native_is_right("apply_curves", make_case(Basis(grid_size=64), "apply_curves", tokens, inputs), looser=16.0)
