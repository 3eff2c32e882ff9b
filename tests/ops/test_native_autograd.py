"""The C++ kernels under autograd and compilers: second derivatives, what is saved, layouts, operators."""

from functools import partial

import pytest
import torch
from numerics import assert_close_to_float64, relative_error
from ops.native_calls import ADDED, NATIVE, REFERENCE, run
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from kansformer import KANLinear, LearnedActivation
from kansformer.basis import Basis
from kansformer.ops import Curves

pytestmark = pytest.mark.usefixtures("poisoned_memory")

OWN_WARNING = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of torch 2.15's checks


def test_second_derivatives(make_case, known_basis, operation):
    case = make_case(known_basis, operation, tokens=4, inputs=3, outputs=2)

    def penalty(function, case):
        x = case.x.detach().requires_grad_()
        coefficients = case.coefficients.detach().requires_grad_()
        # What is added and multiplied is made of x as well.
        base, factor = x.sin()[:, : 3 if operation == "apply_curves" else 2], {}
        if operation == "apply_curves":
            factor["factor"] = x.cos()
        y = function(x, Curves(coefficients, case.domain, case.denominator, case.basis), base, **factor)
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return slope, *torch.autograd.grad(slope.square().sum(), (x, coefficients))

    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
        stored = case.to(dtype)
        expected = penalty(REFERENCE[operation], stored.to(torch.float64))
        for actual, wide in zip(penalty(NATIVE[operation], stored), expected, strict=True):
            assert actual.dtype == dtype and relative_error(actual, wide) < tolerance


def test_nothing_but_the_inputs_is_saved(make_case, known_basis, operation):
    case = make_case(known_basis, operation, tokens=300, inputs=8, outputs=8).to(torch.float32)
    assert 0 < case.saved_bytes(NATIVE[operation]) <= case.x.nbytes + case.bytes_of_curves


def test_bfloat16_is_saved_as_it_is(make_case, known_basis):
    case = make_case(known_basis, "apply_curves", tokens=300, inputs=8).to(torch.bfloat16)
    base, factor = case.x.sin(), case.x.cos().requires_grad_()
    saved = case.saved_bytes(lambda x, curves: NATIVE["apply_curves"](x, curves, base, factor))
    assert 0 < saved <= 3 * case.x.nbytes + case.to(torch.float32).bytes_of_curves


@pytest.mark.parametrize("grad", [True, False], ids=["training", "inference"])
def test_what_a_mode_keeps_is_not_written_into(grad):
    """Selective checkpointing keeps what σ(x) returned, and adds the curve to it when the layer runs again."""
    act = LearnedActivation(6)
    torch.nn.init.normal_(act.coefficients)
    kept, x = [], torch.randn(40, 6)

    class Keep(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            kept.extend([result] if function is torch.ops.aten.silu.default else [])
            return result

    with torch.set_grad_enabled(grad), Keep():
        y = act(x)
    assert torch.equal(kept.pop(), torch.nn.functional.silu(x))
    assert torch.equal(y, act(x))


def test_selective_checkpoints_give_the_same_gradients():
    act = LearnedActivation(6)
    torch.nn.init.normal_(act.coefficients)
    x = torch.randn(40, 6, requires_grad=True)
    save_silu = partial(create_selective_checkpoint_contexts, [torch.ops.aten.silu.default])
    (plain,) = torch.autograd.grad(act(x).square().sum(), x)
    y = checkpoint(lambda x: act(x).square(), x, use_reentrant=False, context_fn=save_silu)
    (again,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(plain, again)


def test_tensors_without_memory_take_the_definition(known_basis, operation):
    with FakeTensorMode():
        x = torch.zeros(4, 3)
        per_edge = (2,) if operation == "sum_edges" else ()
        coefficients = torch.zeros(3, known_basis.num_coefficients, *per_edge)
        denominator = torch.zeros(3, known_basis.num_denominator) if known_basis.num_denominator else None
        y = NATIVE[operation](x, Curves(coefficients, torch.zeros(3, 2), denominator, known_basis))
    assert y.shape == (4, 3 if operation == "apply_curves" else 2)


@pytest.mark.parametrize(
    ("basis", "operation", "added", "dtype"),
    [
        *(
            ("bspline", operation, added, dtype)
            for dtype in (torch.float32, torch.bfloat16)
            for operation, added in (("apply_curves", ()), ("sum_edges", ()), *ADDED)
        ),
        *(
            (basis, operation, added, torch.float32)
            for basis in ("chebyshev", "rational")
            for operation, added in (
                ("apply_curves", ()),
                ("apply_curves", ("base", "factor")),
                ("sum_edges", ("base",)),
            )
        ),
    ],
)
def test_a_compiler_keeps_the_kernels_whole(make_case, basis, operation, added, dtype):
    torch._dynamo.reset()
    case = make_case(Basis(name=basis, grid_size=4, order=3), operation, 20, 19, 18).to(dtype)
    expected, expected_gradients = run(NATIVE[operation], operation, case, added)
    compiled = torch.compile(NATIVE[operation], fullgraph=True, backend="aot_eager")
    actual, gradients = run(compiled, operation, case, added)
    assert torch.equal(actual, expected)
    assert all(torch.equal(gradients[name], expected_gradients[name]) for name in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiler_leaves_a_known_activation_to_the_kernel(make_case, known_basis, dtype):
    torch._dynamo.reset()
    case = make_case(known_basis, "apply_curves", 20, 19).to(dtype)

    def activate(x, curves, factor):
        return NATIVE["apply_curves"](x, curves, "silu", factor)

    expected, expected_gradients = run(activate, "apply_curves", case, ("factor",))
    compiled = torch.compile(activate, fullgraph=True, backend="aot_eager")
    actual, gradients = run(compiled, "apply_curves", case, ("factor",))
    assert torch.equal(actual, expected)
    assert all(torch.equal(gradients[name], expected_gradients[name]) for name in gradients)


@OWN_WARNING
def test_the_operators_pass_torch_s_own_checks(make_case, known_basis):
    case = make_case(known_basis, "apply_curves", 5, 4).to(torch.float32)
    settings = (known_basis.name, known_basis.grid_size, known_basis.order, known_basis.extrapolation)
    x, coefficients = case.x.requires_grad_(), case.coefficients.requires_grad_()
    arguments = (x, coefficients, case.denominator, x.detach(), x.detach(), case.domain, *settings, "")
    torch.library.opcheck(torch.ops.kansformer.curves.default, arguments)


@OWN_WARNING
def test_the_operator_of_edges_passes_torch_s_own_checks(make_case):
    case = make_case(Basis(), "sum_edges", 5, 4, 3).to(torch.float32)
    settings = ("bspline", case.basis.grid_size, case.basis.order, case.basis.extrapolation)
    arguments = (case.x.requires_grad_(), case.coefficients.requires_grad_(), None, case.domain, *settings)
    torch.library.opcheck(torch.ops.kansformer.edges.default, arguments)


def test_leading_axes_are_not_flattened_on_the_way(make_case, known_basis):
    case = make_case(known_basis, "apply_curves", tokens=6).to(torch.float32)
    x = case.x.reshape(2, 3, 5).requires_grad_()
    y = NATIVE["apply_curves"](x, case.curves, x)
    assert y.shape == x.shape
    assert not y.grad_fn.name().startswith("View")
    flat = NATIVE["apply_curves"](case.x, case.curves, case.x)
    assert torch.equal(y.reshape(6, 5), flat)


def test_a_known_activation_is_twice_differentiable(make_case, known_basis):
    case = make_case(known_basis, "apply_curves", tokens=4, inputs=3)

    def penalty(case, function):
        x = case.x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(x, case).square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    def known(x, case):
        return NATIVE["apply_curves"](x, case.curves, "silu")

    def plain(x, case):
        return REFERENCE["apply_curves"](x, case.curves, torch.nn.functional.silu(x))

    actual, expected = penalty(case.to(torch.float32), known), penalty(case, plain)
    assert_close_to_float64(actual, expected, torch.float32, gradient=True, looser=3.0)  # products of gradients


def test_batched_gradients_take_the_definition(make_case, known_basis, operation):
    case = make_case(known_basis, operation, 4, 3, 2).to(torch.float32)
    x = case.x.requires_grad_()
    y = NATIVE[operation](x, case.curves)
    several = torch.randn(5, *y.shape, generator=torch.Generator().manual_seed(0))
    (batched,) = torch.autograd.grad(y, x, several, is_grads_batched=True, retain_graph=True)
    single = torch.stack([torch.autograd.grad(y, x, one, retain_graph=True)[0] for one in several])
    torch.testing.assert_close(batched, single, rtol=1e-4, atol=1e-5)


@OWN_WARNING
def test_compiled_gradients_have_the_layout_that_was_announced(make_case, known_basis):
    torch._dynamo.reset()
    case = make_case(known_basis, "apply_curves", 6, 6).to(torch.float32)
    settings = (known_basis.name, known_basis.grid_size, known_basis.order, known_basis.extrapolation)
    x = case.x.t().requires_grad_()
    arguments = (x, case.coefficients, case.denominator, None, None, case.domain, *settings, "")
    torch.library.opcheck(torch.ops.kansformer.curves.default, arguments)


@pytest.mark.parametrize("edges", ["full", "low_rank"])
def test_hooks_of_the_input_run_once_for_a_gradient_that_is_differentiated_again(edges):
    layer = KANLinear(4, 3, edges=edges)
    gradients = []
    for create_graph in (False, True):
        x = torch.linspace(-1, 1, 20).reshape(5, 4).requires_grad_()
        x.register_hook(torch.neg)
        gradients += torch.autograd.grad(layer(x).square().sum(), x, create_graph=create_graph)
    torch.testing.assert_close(*gradients)


def test_second_derivatives_under_autocast_are_those_without(make_case, known_basis):
    case, results = make_case(known_basis, "apply_curves", tokens=4, inputs=3).to(torch.float32), []
    for enabled in (False, True):
        x = case.x.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = NATIVE["apply_curves"](x, case.curves)
            results.append(torch.autograd.grad(y.square().sum(), x, create_graph=True)[0])
    assert torch.equal(*results)
