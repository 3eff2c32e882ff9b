"""Naming by C++ kernels and in PyTorch gives the same names; a function that the kernels do not know is PyTorch's."""

import pytest
import torch

from kansformer import set_backend
from kansformer.ops.backend import runs_kernels
from kansformer.symbolic import ALL_SYMBOLS, KAN_LIBRARY, LIBRARY, Symbol, SymbolLibrary, fit_symbolic, pairs
from kansformer.symbolic.dictionary import Closest

U = torch.linspace(-1, 1, 64, dtype=torch.float64)


def wavy_curves(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(count, 6, generator=generator, dtype=torch.float64) @ torch.stack([U**k for k in range(6)])
    rate = 3 + 6 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    y[::2] = torch.sin(rate[::2] * U) + 0.1 * y[::2]
    y[::3] = torch.tanh(rate[::3] * (U + 0.2))
    y[7] = 3.5
    y[8:11] += 0.05 * torch.randn(3, 64, generator=generator, dtype=torch.float64)
    return U.expand(count, -1), y


@pytest.fixture
def in_torch():
    """Run a function without kernels."""

    def run(function):
        set_backend("reference")
        try:
            return function()
        finally:
            set_backend(None)

    return run


@pytest.mark.parametrize("library", [KAN_LIBRARY, LIBRARY], ids=["kan", "all"])
@pytest.mark.parametrize("refined", [4, None])
def test_kernels_and_torch_name_alike(in_torch, library, refined):
    x, y = wavy_curves(48)
    result, expected = (
        run(lambda: fit_symbolic(x, y, library=library, refined=refined))
        for run in (lambda function: function(), in_torch)
    )
    assert result.names == expected.names and result.names[7] == "constant"
    torch.testing.assert_close(result.r2_fit, expected.r2_fit, rtol=0, atol=1e-6)
    torch.testing.assert_close(result.r2, expected.r2, rtol=0, atol=1e-4)  # not at its optimum, so a and b matter
    torch.testing.assert_close(result.d[7], expected.d[7])


def test_the_backend_that_was_asked_for_decides(in_torch, monkeypatch):
    assert runs_kernels() and not in_torch(runs_kernels)
    monkeypatch.setattr("kansformer.ops.native.library._state", lambda: "no compiler.")
    assert not runs_kernels()
    x, y = wavy_curves(12)
    assert len(fit_symbolic(x, y)) == 12


def test_an_own_function_beside_known_ones(in_torch):
    odd = Symbol(name="sin", complexity=2, function=lambda z: torch.sin(z) + 0.2 * z.square(), sympy=lambda z: z)
    library = SymbolLibrary([KAN_LIBRARY.named("exp"), odd, KAN_LIBRARY.named("x")])
    x, y = U.expand(2, -1), torch.stack([odd.function(3 * U + 0.4), torch.exp(1.5 * U)])
    fits, expected = fit_symbolic(x, y, library=library), in_torch(lambda: fit_symbolic(x, y, library=library))
    assert fits.names == expected.names == ["sin", "exp"]
    assert fits.r2.min() > 1 - 1e-9
    torch.testing.assert_close(fits.params, expected.params, rtol=1e-5, atol=1e-5)


def test_only_the_function_itself_is_known():
    sine = KAN_LIBRARY.named("sin")
    assert pairs._known_function(sine) is not None
    assert pairs._known_function(Symbol(name="sin", complexity=2, function=torch.cos, sympy=lambda z: z)) is None
    assert pairs._known_function(Symbol(name="sin", complexity=2, function=torch.sin, sympy=lambda z: z)) is None
    named = [symbol.name for symbol in ALL_SYMBOLS if pairs._known_function(symbol) is None]
    assert named == []


def test_a_function_that_is_flat_on_the_points_is_judged_as_a_constant(in_torch):
    relu = LIBRARY.subset(["relu"])
    y = wavy_curves(12)[1][:3]
    flat = torch.zeros(2, 3, dtype=torch.long)
    flat[1] = torch.arange(3)
    params = torch.tensor([[1.0], [-5.0]], dtype=torch.float64).expand(2, 3).contiguous()
    held_out = torch.arange(64) % 4 == 2

    def judge():
        return pairs.judge_pairs(relu, U, y, flat, params, held_out)

    assert judge()[0].tolist() == [0, 0, 0]
    torch.testing.assert_close(judge(), in_torch(judge))


def test_no_pairs_are_no_fits(in_torch):
    empty = torch.zeros(2, 0, dtype=torch.long)
    for run in (lambda function: function(), in_torch):
        result = run(lambda: pairs.refine_pairs(KAN_LIBRARY, U, torch.zeros(1, 64).double(), empty, empty.double(), 3))
        assert result.shape == (3, 0)


def test_starts_are_looked_up_or_searched(in_torch, monkeypatch):
    seen = []
    original = Closest.start
    monkeypatch.setattr(Closest, "start", lambda self, *pair: seen.append(original(self, *pair)) or seen[-1])
    x, y = wavy_curves(20)
    fit_symbolic(x, y)
    in_torch(lambda: fit_symbolic(x, y))
    torch.testing.assert_close(*seen)
