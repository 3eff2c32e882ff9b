"""The CPU path against the definition: outputs, every gradient, second derivatives, and the memory it may take."""

import pytest
import torch
from numerics import assert_close_to_float64, relative_error
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kansformer.basis import EXTRAPOLATIONS, Basis
from kansformer.ops import Curves, cpu, cpu_local
from kansformer.ops.backend import BACKENDS

CPU, REFERENCE = BACKENDS["cpu"], BACKENDS["reference"]
NAMES = ("x", "coefficients", "denominator")


def run(backend, operation, case, gradient=None):
    """Output and the gradients of everything trainable, by name."""
    tensors = {n: getattr(case, n).detach().requires_grad_() for n in NAMES if getattr(case, n) is not None}
    curves = Curves(tensors["coefficients"], case.domain, tensors.get("denominator"), case.basis)
    output = getattr(backend, operation)(tensors["x"], curves)
    if gradient is None:
        gradient = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).reshape(output.shape)
    found = torch.autograd.grad(output, list(tensors.values()), gradient.to(output))
    return output, dict(zip(tensors, found, strict=True))


@pytest.fixture(params=[1, 7, None], ids=["token by token", "chunks", "one chunk"])
def chunk(request, monkeypatch):
    """Tokens per chunk, whatever the case's width."""
    if request.param is not None:
        for name in ("CURVE_CHUNK", "EDGE_CHUNK"):
            monkeypatch.setattr(cpu, name, request.param * 17 * 7)
        monkeypatch.setattr(cpu_local, "CHUNK", request.param * 17)
    return request.param


@pytest.mark.parametrize(("tokens", "inputs"), [(1, 1), (1, 7), (5, 3), (33, 17)])
def test_outputs_and_gradients_in_float64(make_case, basis, operation, chunk, tokens, inputs):
    case = make_case(basis, operation, tokens, inputs, outputs=3)
    (actual, gradients), (expected, expected_gradients) = run(CPU, operation, case), run(REFERENCE, operation, case)
    assert_close_to_float64(actual, expected, torch.float64)
    assert_close_to_float64(gradients, expected_gradients, torch.float64, gradient=True)


@pytest.mark.parametrize("backend", [REFERENCE, CPU], ids=["reference", "cpu"])
def test_float32_stays_within_the_table(make_case, basis, operation, chunk, backend):
    case = make_case(basis, operation, tokens=33, inputs=17).to(torch.float32)
    (actual, gradients) = run(backend, operation, case)
    (expected, expected_gradients) = run(REFERENCE, operation, case.to(torch.float64))
    assert_close_to_float64(actual, expected, torch.float32)
    # A rational curve's Q loses digits where it crosses zero, and the slope of |Q| multiplies what is left.
    looser = 2.0 if basis.name == "rational" else 1.0
    assert_close_to_float64(gradients, expected_gradients, torch.float32, gradient=True, looser=looser)


@pytest.mark.parametrize("grid_size", [1, 2, 13, 64, 1000])
@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
def test_every_bspline(make_case, operation, extrapolation, order, grid_size):
    case = make_case(Basis(grid_size=grid_size, order=order, extrapolation=extrapolation), operation, 21, 3)
    (actual, gradients), (expected, expected_gradients) = run(CPU, operation, case), run(REFERENCE, operation, case)
    # One ulp of x is 1000 times larger, seen from an interval of the finest grid.
    looser = max(1.0, grid_size / 10)
    assert_close_to_float64(actual, expected, torch.float64, looser=looser)
    assert_close_to_float64(gradients, expected_gradients, torch.float64, gradient=True, looser=looser)


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
def test_knots_and_ends_of_the_domain(make_case, operation, extrapolation):
    case = make_case(Basis(grid_size=4, order=3, extrapolation=extrapolation), operation, tokens=5, inputs=2)
    domain = torch.tensor([[-1.0, 1.0], [0.0, 4.0]], dtype=torch.float64)
    knots = domain[:, 0] + (domain[:, 1] - domain[:, 0]) * torch.linspace(0, 1, 5, dtype=torch.float64).unsqueeze(-1)
    case = type(case)(case.basis, knots, case.coefficients, None, domain)
    (actual, gradients), (expected, expected_gradients) = run(CPU, operation, case), run(REFERENCE, operation, case)
    assert_close_to_float64(actual, expected, torch.float64)
    assert_close_to_float64(gradients, expected_gradients, torch.float64, gradient=True)


def test_inputs_that_are_not_finite(make_case, basis, operation):
    case = make_case(basis, operation, tokens=4, inputs=3).to(torch.float32)
    x = torch.tensor([torch.inf, -torch.inf, 3e38, torch.nan]).unsqueeze(-1).expand(-1, 3).contiguous()
    case = type(case)(basis, x, case.coefficients, case.denominator, case.domain)
    (actual, gradients), (expected, expected_gradients) = run(CPU, operation, case), run(REFERENCE, operation, case)
    assert actual[:3].isfinite().all() and actual[3].isnan().all()
    assert_close_to_float64(actual[:3], expected[:3], torch.float32)
    assert_close_to_float64(gradients["x"][:3], expected_gradients["x"][:3], torch.float32)


def test_tensors_that_are_not_contiguous(make_case, basis, operation, chunk):
    case = make_case(basis, operation, tokens=10, inputs=6, outputs=3)
    expected, expected_gradients = run(REFERENCE, operation, case)

    def strided(t):
        return None if t is None else torch.stack([t, t], dim=-1).movedim(0, -2)[..., 0].movedim(-1, 0)

    odd = type(case)(case.basis, *(strided(t) for t in (case.x, case.coefficients, case.denominator, case.domain)))
    assert not odd.x.is_contiguous() and not odd.coefficients.is_contiguous()
    wide = torch.linspace(-1, 2, expected.numel(), dtype=torch.float64).reshape(expected.shape)
    actual, gradients = run(CPU, operation, odd, gradient=wide.T.contiguous().T)
    assert_close_to_float64(actual, expected, torch.float64)
    assert_close_to_float64(gradients, expected_gradients, torch.float64, gradient=True)


def test_a_gradient_that_is_one_expanded_number(make_case, basis, operation):
    case = make_case(basis, operation)
    gradient = torch.ones((), dtype=torch.float64)
    shape = run(REFERENCE, operation, case)[0].shape
    gradients = [run(backend, operation, case, gradient.expand(shape))[1] for backend in (CPU, REFERENCE)]
    assert_close_to_float64(*gradients, torch.float64, gradient=True)


@pytest.mark.parametrize("name", ["bspline", "chebyshev"])
def test_gradients_of_many_tokens_keep_their_digits(make_case, name):
    case = make_case(Basis(name=name), "apply_curves", tokens=20_000, inputs=3).to(torch.float32)
    gradient = torch.rand(case.x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).float()
    found = run(CPU, "apply_curves", case, gradient)[1]["coefficients"]
    expected = run(REFERENCE, "apply_curves", case.to(torch.float64), gradient)[1]["coefficients"]
    assert relative_error(found, expected) < 5e-7  # one sum over all tokens gives 1e-6


def test_no_tokens(make_case, basis, operation):
    case = make_case(basis, operation, tokens=0)
    output, gradients = run(CPU, operation, case)
    assert output.shape[0] == 0 and gradients["x"].shape == case.x.shape
    assert gradients["coefficients"].abs().max() == 0


@pytest.mark.parametrize("wanted", NAMES)
def test_one_gradient_alone(make_case, operation, wanted):
    case = make_case(Basis(name="rational", order=4), operation)
    expected = run(REFERENCE, operation, case)[1][wanted]
    arguments = [getattr(case, name).detach().requires_grad_(name == wanted) for name in NAMES]
    x, coefficients, denominator = arguments
    output = getattr(CPU, operation)(x, Curves(coefficients, case.domain, denominator, case.basis))
    gradient = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).reshape(output.shape)
    (found,) = torch.autograd.grad(output, arguments[NAMES.index(wanted)], gradient)
    assert_close_to_float64(found, expected, torch.float64, gradient=True)


@pytest.mark.parametrize("backend", [REFERENCE, CPU], ids=["reference", "cpu"])
def test_gradcheck_twice(make_case, basis, operation, backend):
    case = make_case(basis, operation, tokens=3, inputs=2, outputs=2)
    arguments = [None if t is None else t.requires_grad_() for t in (case.x, case.coefficients, case.denominator)]

    def function(x, coefficients, denominator):
        return getattr(backend, operation)(x, Curves(coefficients, case.domain, denominator, case.basis))

    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments)


def test_functional_transforms(make_case, basis, operation):
    case = make_case(basis, operation, tokens=4, inputs=3)

    def per_token(backend):
        def loss(x_I, coefficients):
            curves = Curves(coefficients, case.domain, case.denominator, basis)
            output = getattr(backend, operation)(x_I[None], curves)
            return output.square().sum()

        return torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(0, None))(case.x, case.coefficients)

    for actual, expected in zip(per_token(CPU), per_token(REFERENCE), strict=True):
        assert_close_to_float64(actual, expected, torch.float64, gradient=True)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation's result had."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.numel = max(self.numel, leaf.untyped_storage().nbytes() // leaf.itemsize)
        return result


@pytest.mark.parametrize("backend", [REFERENCE, CPU], ids=["reference", "cpu"])
def test_nothing_as_large_as_all_basis_values_is_allocated(make_case, basis, operation, backend, monkeypatch):
    monkeypatch.setattr(cpu, "EDGE_CHUNK", 2**12)
    monkeypatch.setattr(cpu, "CURVE_CHUNK", 2**12)
    monkeypatch.setattr(cpu_local, "CHUNK", 2**9)
    case = make_case(basis, operation, tokens=400, inputs=8, outputs=8).to(torch.float32)
    with LargestTensor() as largest:
        run(backend, operation, case)
    all_values = case.x.numel() * basis.num_coefficients
    if backend is REFERENCE:
        assert largest.numel >= all_values  # the check can fail
    else:
        assert largest.numel <= max(2**12, case.x.numel(), case.coefficients.numel()) < all_values


def test_nothing_but_x_grows_with_the_tokens_between_forward_and_backward(make_case, basis, operation):
    case = make_case(basis, operation, tokens=300, inputs=8, outputs=8).to(torch.float32)
    # A B-spline keeps the K + 1 factors of every interval in place of its coefficients, and the matrix for them.
    assert 0 < case.saved_bytes(getattr(CPU, operation)) <= case.x.nbytes + 8 * case.bytes_of_curves
