"""The public call: shapes, dtypes, autocast and its errors."""

import pytest
import torch
from numerics import assert_close_to_float64

from kansformer.basis import Basis
from kansformer.errors import ShapeError
from kansformer.ops import Curves, apply_curves, cpu_local, reference, set_backend, sum_edges
from kansformer.ops.native import kernels

CALLS = {"apply_curves": apply_curves, "sum_edges": sum_edges}


@pytest.fixture(params=["native", "cpu", "reference"])
def backend(request):
    set_backend(request.param)
    yield request.param
    set_backend(None)


def call(operation, case, x=None):
    x = case.x if x is None else x
    return CALLS[operation](x, case.curves)


def expected_of(operation, case):
    case = case.to(torch.float64)
    return getattr(reference, operation)(case.x, case.curves)


@pytest.mark.parametrize("leading", [(), (1,), (0,), (12,), (3, 4), (2, 3, 2), (3, 0, 4)])
def test_any_leading_shape(make_case, basis, operation, backend, leading):
    case = make_case(basis, operation, tokens=12)
    x = case.x[: torch.Size(leading).numel()].reshape(*leading, 5)
    y = call(operation, case, x)
    expected = expected_of(operation, case)
    assert y.shape == (*leading, expected.shape[-1])
    assert_close_to_float64(y, expected[: torch.Size(leading).numel()].reshape(y.shape), torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_result_is_computed_in_float32_and_not_rounded(make_case, basis, operation, backend, dtype):
    case = make_case(basis, operation).to(dtype)
    y = call(operation, case)
    computed = torch.float64 if dtype == torch.float64 else torch.float32
    assert y.dtype == computed
    assert_close_to_float64(y, expected_of(operation, case), computed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_with_a_base_the_sum_is_rounded_once(make_case, basis, operation, backend, dtype):
    case = make_case(basis, operation).to(dtype)
    expected = expected_of(operation, case)
    base = torch.linspace(-3, 3, expected.numel(), dtype=dtype).reshape(expected.shape)
    factor = {"factor": base.flip(0)} if operation == "apply_curves" else {}
    y = CALLS[operation](case.x, case.curves, base=base, **factor)
    assert y.dtype == dtype
    for product in factor.values():
        assert torch.equal(y, CALLS[operation](case.x, case.curves, base=base) * product)
    expected = base.double() + expected
    expected = expected * base.flip(0).double() if factor else expected
    assert_close_to_float64(y, expected, dtype, looser=1.5 if factor else 1.0)  # the product is a second rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_zero_curves_leave_the_base_as_it_is(make_case, basis, operation, backend, dtype):
    case = make_case(basis, operation).to(dtype)
    shape = expected_of(operation, case).shape
    base = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    zero = case.curves._replace(coefficients=torch.zeros_like(case.coefficients))
    y = CALLS[operation](case.x, zero, base=base)
    assert torch.equal(y, base)


def test_groups_share_their_curve(make_case, basis, backend):
    case = make_case(basis, "apply_curves", inputs=3)
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = apply_curves(x, case.curves)
    alone = [None if t is None else t.repeat_interleave(2, dim=0) for t in case.curves[:3]]
    assert torch.equal(y, apply_curves(x, Curves(*alone, case.basis)))


def test_autocast_does_not_reach_the_curves(make_case, basis, operation, backend):
    case = make_case(basis, operation).to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = call(operation, case)
        assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.bfloat16
    assert y.dtype == torch.float32
    assert_close_to_float64(y, expected_of(operation, case), torch.float32)


def test_meta_tensors(make_case, basis, operation):
    case = make_case(basis, operation)
    tensors = (case.x, case.coefficients, case.denominator, case.domain)
    meta = type(case)(basis, *(None if t is None else t.to("meta") for t in tensors))
    y = call(operation, meta)
    assert y.is_meta and y.shape == expected_of(operation, case).shape


def test_tensors_on_different_devices_are_refused(make_case, basis, operation):
    case = make_case(basis, operation)
    with pytest.raises(ShapeError, match="Curves on meta cannot take an input on cpu"):
        CALLS[operation](case.x, case.curves._replace(coefficients=case.coefficients.to("meta")))
    with pytest.raises(ShapeError, match="The base is on meta, the input on cpu"):
        CALLS[operation](case.x, case.curves, base=case.x.to("meta"))


def test_an_explicit_backend_compiles_to_one_graph(make_case, basis, operation, backend):
    torch._dynamo.reset()
    case = make_case(basis, operation).to(torch.float32)
    compiled = torch.compile(CALLS[operation], fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(case.x, case.curves), call(operation, case), rtol=1e-4, atol=1e-4)


def test_what_is_exported_runs_without_this_package(make_case, basis, operation):
    case = make_case(basis, operation).to(torch.float32)

    class Module(torch.nn.Module):
        def forward(self, x):
            return CALLS[operation](x, case.curves)

    program = torch.export.export(Module(), (case.x,))
    assert not [node for node in program.graph.nodes if "kansformer" in str(node.target)]
    torch.testing.assert_close(program.module()(case.x), Module()(case.x), rtol=1e-4, atol=1e-4)


def test_shapes_that_do_not_fit_are_refused(make_case, operation):
    case, rational = (make_case(Basis(name=name), operation) for name in ("bspline", "rational"))
    function, x, curves = CALLS[operation], case.x, case.curves
    with pytest.raises(ShapeError, match=r"Input of shape \(9, 4\) does not end in the 5 curve inputs"):
        function(x[:, 1:], curves)
    with pytest.raises(ShapeError, match=r"base of shape \(9, 1\) does not fit the output of shape \(9, "):
        function(x, curves, base=x[:, :1])
    with pytest.raises(ShapeError, match=r"Input of shape \(\)"):
        function(torch.tensor(1.0), curves)
    with pytest.raises(ShapeError, match=r"do not have the 8 per curve"):
        function(x, curves._replace(coefficients=case.coefficients[:, 1:]))
    with pytest.raises(ShapeError, match=r"Domain of shape \(4, 2\).*expected \(5, 2\)"):
        function(x, curves._replace(domain=case.domain[1:]))
    with pytest.raises(ShapeError, match=r"Denominator of shape None.*expected \(5, 2\)"):
        function(x, rational.curves._replace(denominator=None))
    with pytest.raises(ShapeError, match=r"Denominator of shape \(4, 2\).*expected \(5, 2\)"):
        function(x, rational.curves._replace(denominator=rational.denominator[1:]))
    with pytest.raises(ShapeError, match=r"Denominator of shape \(5, 2\).*expected None"):
        function(x, curves._replace(denominator=rational.denominator))


def test_coefficients_of_the_other_operation_are_refused(make_case):
    curves, edges = (make_case(Basis(), operation) for operation in CALLS)
    with pytest.raises(ShapeError, match=r"Coefficients of shape \(5, 8, 4\)"):
        apply_curves(edges.x, edges.curves)
    with pytest.raises(ShapeError, match=r"Coefficients of shape \(5, 8\)"):
        sum_edges(curves.x, curves.curves)


def test_fixed_curves_cost_no_gradients_of_their_own(make_case, basis, operation, backend, monkeypatch):
    """Only the input's gradient is computed, and it is the same; nothing of the curves' size is added up."""
    case = make_case(basis, operation, tokens=40).to(torch.float32)
    trained = case.curves.map(lambda tensor: tensor.clone().requires_grad_())._replace(domain=case.domain)
    x = case.x.requires_grad_()
    y = CALLS[operation](x, trained)
    gradient = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    expected = torch.autograd.grad(y, (x, trained.coefficients), gradient)[0]
    asked = []
    differentiate = kernels.call

    def watch(kernel, settings, sizes, tensors, activation=0):
        asked.extend(name for name, tensor in tensors.items() if tensor is not None and name.startswith("dco"))
        return differentiate(kernel, settings, sizes, tensors, activation)

    monkeypatch.setattr(kernels, "call", watch)
    monkeypatch.setattr(cpu_local, "_factors_gradient", None)
    y = CALLS[operation](x, case.curves)
    (actual,) = torch.autograd.grad(y, x, gradient)
    assert torch.allclose(actual, expected, rtol=1e-6, atol=1e-6)
    assert not asked
