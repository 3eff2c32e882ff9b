"""What surrounds the kernels of the learned activation: its derivatives, modes, compilers, strides and errors."""

import pytest
import torch
from activation_calls import DOUBLE, run
from kan_kernels import activation_operators
from kan_kernels.activation import learned_activation
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint


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


def test_a_plan_knows_which_storages_have_addresses_of_32_bits(monkeypatch):
    monkeypatch.setattr(activation_operators, "_IS_HIP", True)
    small, large = (torch.empty(tokens, 8, dtype=torch.bfloat16, device="meta") for tokens in (2**20, 2**28))
    kinds = [activation_operators._rows(tensor, tensor.shape)[2] for tensor in (small, large, large[:5])]
    assert kinds[0] != kinds[1] == kinds[2] and kinds[0][:-1] == kinds[1][:-1]


def test_a_batch_of_gradients(case):
    tensors, settings = case((5, 6), 3)
    x = tensors["x"].requires_grad_()
    y = learned_activation(**tensors, **settings)
    directions = torch.stack([torch.ones_like(y), y.detach().cos()])
    (together,) = torch.autograd.grad(y, x, directions, is_grads_batched=True, retain_graph=True)
    apart = [torch.autograd.grad(y, x, direction, retain_graph=True)[0] for direction in directions]
    torch.testing.assert_close(together, torch.stack(apart))


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


def test_frozen_curves_cost_no_sums(case, monkeypatch):
    tensors, settings = case((5, 4))
    expected = run(learned_activation, tensors, settings)[1]["x"]
    monkeypatch.setattr(activation_operators, "_sum_per_curve", None)
    x = tensors["x"].requires_grad_()
    y = learned_activation(**tensors, **settings)
    ramp = (8 * torch.linspace(-1, 2, y.numel(), device=y.device).reshape(y.shape)).round() / 8
    assert torch.equal(torch.autograd.grad(y, x, ramp)[0], expected)


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
