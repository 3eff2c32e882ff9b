"""Edges against the definition in float64: outputs, every gradient, both paths, and what surrounds the operation."""

import os

import pytest
import torch
from kan_kernels import definition, edges_operations
from kan_kernels.bases import num_coefficients, num_denominator
from kan_kernels.edges import sum_edges
from numerics import assert_close_to_float64

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
ODD_SHAPES = [(1, 1, 1), (130, 37, 65), (130, 3, 1), (1, 5, 3)]


def case(shape=(5, 4, 3), dtype=torch.float32, basis="bspline", grid_size=2, order=3, spread=1.0, seed=0):
    """Tensors of one operation by name, and the settings of its basis."""
    tokens, inputs, outputs = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    lower = -1.5 - torch.rand(inputs, generator=generator)
    tensors = dict(
        x=(spread * normal(tokens, inputs)).to(dtype),
        coefficients=normal(inputs, num_coefficients(basis, grid_size, order), outputs).to(dtype),
        domain=torch.stack([lower, -lower], -1),
        base=normal(tokens, outputs).to(dtype),
        denominator=(0.3 * normal(inputs, num_denominator(basis, order))).to(dtype) if basis == "rational" else None,
    )
    tensors = {name: None if tensor is None else tensor.to(DEVICE) for name, tensor in tensors.items()}
    return tensors, dict(basis=basis, grid_size=grid_size, order=order)


def outputs_and_gradients(function, tensors, dy, to=lambda t: t):
    """y and the gradient of every floating tensor that is not the domain, by name."""
    leaves = {name: to(t).requires_grad_(name != "domain") for name, t in tensors.items() if t is not None}
    y = function(**leaves)
    wanted = [name for name in leaves if name != "domain"]
    gradients = torch.autograd.grad(y, [leaves[name] for name in wanted], dy.to(y.dtype))
    return {"y": y.detach()}, dict(zip(wanted, gradients, strict=True))


def defined(x, coefficients, domain, base, denominator=None, **settings):
    return definition.sum_edges(x, coefficients, domain, denominator=denominator, **settings) + base


def check(tensors, settings, dtype, path, looser=1.0):
    dy = torch.randn(tensors["base"].shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    expected = outputs_and_gradients(lambda **t: defined(**t, **settings), tensors, dy, lambda t: t.double())
    actual = outputs_and_gradients(lambda **t: sum_edges(**t, **settings, path=path), tensors, dy, torch.clone)
    assert_close_to_float64(actual[0], expected[0], dtype, looser=looser)
    assert_close_to_float64(actual[1], expected[1], dtype, gradient=True, looser=looser)
    assert all(t.dtype == dtype for t in (*actual[0].values(), *actual[1].values()))


@pytest.mark.parametrize("path", ["fused", "expand"])
@pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_shapes_and_dtypes(shape, dtype, path):
    tensors, settings = case(shape, dtype)
    # A single number may be a small difference of large ones, whose roundings do not average out.
    alone = shape == (1, 1, 1) and dtype.itemsize == 2
    check(tensors, settings, dtype, path, looser=8.0 if alone else 1.0)


BASES = [
    *(("bspline", grid, order) for grid, order in [(1, 1), (3, 1), (2, 2), (5, 3), (3, 4), (1, 5), (12, 3), (40, 3)]),
    *(("chebyshev", 1, order) for order in (1, 3, 6)),
    *(("rational", 1, order) for order in (1, 2, 5)),
]


@pytest.mark.parametrize("path", ["fused", "expand"])
@pytest.mark.parametrize("extrapolation", ["linear", "clamp", "zero"])
@pytest.mark.parametrize(("basis", "grid_size", "order"), BASES)
def test_bases_and_extrapolations(basis, grid_size, order, extrapolation, path):
    tensors, settings = case((9, 7, 5), torch.float32, basis, grid_size, order, spread=2.0)
    # A position in one of 40 intervals has 40 times the rounding of x's place in the domain.
    looser = 2.0 if grid_size == 40 else 1.0
    check(tensors, dict(settings, extrapolation=extrapolation), torch.float32, path, looser=looser)


@pytest.mark.parametrize("path", ["fused", "expand"])
@pytest.mark.parametrize("basis", ["bspline", "chebyshev", "rational"])
def test_gradcheck(basis, path):
    tensors, settings = case((2, 2, 1), torch.float64, basis, grid_size=1, order=2, spread=0.7)
    domain = tensors.pop("domain").double()
    tensors = {name: t for name, t in tensors.items() if t is not None}
    leaves = [t.requires_grad_() for t in tensors.values()]

    def function(*values):
        return sum_edges(domain=domain, **dict(zip(tensors, values, strict=True)), **settings, path=path)

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("path", ["fused", "expand"])
@pytest.mark.parametrize("extrapolation", ["linear", "clamp", "zero"])
@pytest.mark.parametrize("basis", ["bspline", "chebyshev", "rational"])
def test_infinite_and_far_inputs_are_as_in_the_definition(basis, extrapolation, path):
    tensors, settings = case((4, 3, 2), torch.float32, basis)
    tensors["x"][:, 0] = torch.tensor([float("inf"), -float("inf"), 1e30, -1e4], device=DEVICE)
    settings["extrapolation"] = extrapolation
    expected = defined(**{k: t if t is None else t.double() for k, t in tensors.items()}, **settings)
    actual = sum_edges(**tensors, **settings, path=path)
    for token in range(4):  # they differ by 26 powers of ten
        assert_close_to_float64(actual[token], expected[token], torch.float32)


@pytest.mark.parametrize("path", ["fused", "expand"])
def test_half_precision_saturates_instead_of_overflowing(path):
    tensors, settings = case((2, 3, 2), torch.float16)
    tensors["x"][0, 1] = float("inf")
    tensors["coefficients"][1] = 0
    assert sum_edges(**tensors, **settings, path=path).isfinite().all()


@pytest.mark.parametrize("path", ["fused", "expand"])
@pytest.mark.parametrize("extrapolation", ["linear", "clamp", "zero"])
def test_nan_spoils_its_own_token_only(extrapolation, path):
    tensors, settings = case((5, 4, 3))
    tensors["x"][2, 1] = float("nan")
    x = tensors["x"].requires_grad_()
    y = sum_edges(**tensors, **settings, extrapolation=extrapolation, path=path)
    (dx,) = torch.autograd.grad(y.nan_to_num().sum(), x)
    others = torch.arange(5, device=DEVICE) != 2
    assert y[2].isnan().all() and y[others].isfinite().all()
    assert dx[others].isfinite().all()


@pytest.mark.parametrize("path", ["fused", "expand"])
def test_no_tokens(path):
    tensors, settings = case((0, 4, 3))
    y, gradients = outputs_and_gradients(
        lambda **t: sum_edges(**t, **settings, path=path), tensors, torch.zeros(0, 3, device=DEVICE), torch.clone
    )
    assert y["y"].shape == (0, 3)
    assert gradients["coefficients"].eq(0).all() and gradients["x"].shape == (0, 4)


def test_no_inputs_leave_the_base():
    tensors, settings = case((3, 0, 2))
    assert torch.equal(sum_edges(**tensors, **settings), tensors["base"])


def test_leading_axes_strides_and_missing_base():
    tensors, settings = case((6, 4, 3))
    tensors["base"] = None
    expected = sum_edges(**tensors, **settings)
    tensors["x"] = torch.stack([tensors["x"]] * 2, -1)[..., 0].view(2, 3, 4)
    tensors["coefficients"] = tensors["coefficients"].transpose(0, 2).contiguous().transpose(0, 2)
    assert not tensors["x"].is_contiguous()
    assert torch.equal(sum_edges(**tensors, **settings), expected.view(2, 3, 3))


@pytest.mark.parametrize("path", ["fused", "expand"])
def test_the_same_numbers_every_time(path):
    tensors, settings = case((130, 9, 5), torch.float16, "rational")  # the weight gradient adds up two parts
    dy = torch.randn(130, 5, device=DEVICE)
    first, second = (
        outputs_and_gradients(lambda **t: sum_edges(**t, **settings, path=path), tensors, dy, torch.clone)
        for _ in range(2)
    )
    assert torch.equal(first[0]["y"], second[0]["y"])
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])


@pytest.mark.parametrize("grid_size", [1, 2], ids=["rows", "planes"])
def test_chunks_of_the_workspace_add_up(grid_size, monkeypatch):
    tensors, settings = case((23, 5, 4), torch.float16, grid_size=grid_size)
    chunks = []
    expand = edges_operations.expand
    monkeypatch.setattr(edges_operations, "expand", lambda *a: chunks.append(len(a[0])) or expand(*a))
    monkeypatch.setattr(edges_operations, "tokens_per_chunk", lambda *_: 8)
    check(tensors, settings, torch.float16, "expand")
    assert chunks == [8, 8, 7] * 2


@pytest.mark.parametrize("basis", ["bspline", "rational"])
def test_opcheck(basis):
    tensors, settings = case((5, 3, 2), basis=basis)
    x, coefficients, domain, denominator, base = (
        tensors[name] for name in ("x", "coefficients", "domain", "denominator", "base")
    )
    rest = (*settings.values(), "linear")
    operations = torch.ops.kan_kernels
    torch.library.opcheck(operations.sum_edges, (x, coefficients, domain, denominator, base, *rest, "fused"))
    torch.library.opcheck(
        operations.sum_edges_input_gradient, (torch.ones_like(base), x, coefficients, domain, denominator, *rest)
    )
    torch.library.opcheck(
        operations.sum_edges_weight_gradient, (torch.ones_like(base), x, domain, denominator, *rest, None)
    )


def test_the_weight_gradient_is_contiguous_as_compilers_are_told():
    tensors, settings = case((20, 2, 130), grid_size=2)  # 5 coefficients, which are expanded in planes
    x, domain, base = (tensors[name] for name in ("x", "domain", "base"))
    arguments = (torch.ones_like(base), x, domain, None, *settings.values(), "linear", "expand")
    gradient = torch.ops.kan_kernels.sum_edges_weight_gradient(*arguments)
    assert gradient.is_contiguous()
    torch.library.opcheck(
        torch.ops.kan_kernels.sum_edges_weight_gradient, arguments, test_utils=("test_schema", "test_faketensor")
    )


def test_a_compiled_caller_gives_the_same():
    tensors, settings = case((4, 3, 2))

    def function(**t):
        return sum_edges(**t, **settings).tanh()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    dy = torch.randn(4, 2, device=DEVICE)
    expected = outputs_and_gradients(function, tensors, dy, torch.clone)
    actual = outputs_and_gradients(compiled, tensors, dy, torch.clone)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_checkpointing_gives_the_same():
    tensors, settings = case((4, 3, 2))
    dy = torch.randn(4, 2, device=DEVICE)

    def checkpointed(**t):
        return torch.utils.checkpoint.checkpoint(lambda: sum_edges(**t, **settings), use_reentrant=False)

    expected = outputs_and_gradients(lambda **t: sum_edges(**t, **settings), tensors, dy, torch.clone)
    actual = outputs_and_gradients(checkpointed, tensors, dy, torch.clone)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("path", ["fused", "expand"])
def test_autocast_leaves_the_dtype_alone(path):
    tensors, settings = case((4, 3, 2))
    dy = torch.randn(4, 2, device=DEVICE)
    expected = outputs_and_gradients(lambda **t: sum_edges(**t, **settings, path=path), tensors, dy, torch.clone)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        actual = outputs_and_gradients(lambda **t: sum_edges(**t, **settings, path=path), tensors, dy, torch.clone)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_coefficients_of_another_dtype_keep_their_gradients():
    tensors, settings = case((4, 3, 2), torch.float16)
    tensors["coefficients"] = tensors["coefficients"].float().requires_grad_()
    y = sum_edges(**tensors, **settings)
    y.sum().backward()
    assert y.dtype == torch.float16 and tensors["coefficients"].grad.dtype == torch.float32


def test_backward_keeps_nothing_but_its_inputs():
    tensors, settings = case((16, 4, 3))
    x, coefficients = tensors["x"].requires_grad_(), tensors["coefficients"].requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        sum_edges(**tensors, **settings, path="expand")
    inputs = {t.data_ptr() for t in (x, coefficients, tensors["domain"])}
    assert {t.data_ptr() for t in saved} <= inputs


def test_second_derivatives_are_refused():
    tensors, settings = case((4, 3, 2))
    x = tensors["x"].requires_grad_()
    (dx,) = torch.autograd.grad(sum_edges(**tensors, **settings).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="sum_edges has no second derivatives. Take those of its definition"):
        torch.autograd.grad(dx.sum(), x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(basis="rbf"), "Unknown basis 'rbf'. The kernels have: bspline, chebyshev, rational."),
        (dict(extrapolation="mirror"), "Unknown extrapolation 'mirror'. Choose one of: linear, clamp, zero."),
        (dict(order=6), "order must be from 1 to 5 for the basis 'bspline', got 6."),
        (dict(grid_size=0), "grid_size must be at least 1, got 0."),
        (dict(path="quick"), "Unknown path 'quick'. Choose one of: fused, expand, sparse, or None."),
        (dict(grid_size=3), r"coefficients must have shape \(4, 6, 3\) .* got \(4, 5, 3\)."),
        (dict(denominator=torch.ones(4, 2)), "denominator must have shape None"),
        (dict(base=torch.ones(5, 4)), r"base must have shape \(5, 3\)"),
        (dict(domain=torch.ones(3, 2)), r"domain must have shape \(4, 2\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_the_value_and_the_choices(change, message):
    tensors, settings = case((5, 4, 3))
    with pytest.raises(ValueError, match=message):
        sum_edges(**{**tensors, **settings, **change})
