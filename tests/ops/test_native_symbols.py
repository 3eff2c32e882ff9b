"""The C++ kernels that name curves against their definitions in PyTorch, in float64."""

import pytest
import torch

from kansformer.ops.native import symbols as kernels
from kansformer.symbolic import ALL_SYMBOLS, KAN_LIBRARY
from kansformer.symbolic.dictionary import Dictionary, normalised
from kansformer.symbolic.pairs import judge
from kansformer.symbolic.refine import refine
from kansformer.symbolic.symbol import symbol_values

U_S = torch.linspace(-1, 1, 45, dtype=torch.float64)
HELD_OUT_S = torch.arange(len(U_S)) % 4 == 2
# Arguments a·u + b that stay in the domain and show what is special about a function, and close to them a start.
POSITIVE = ("1/x", "1/x^2", "sqrt", "1/sqrt(x)", "x^1.5", "log")
INNER = ("arcsin", "arccos", "arctanh")
# Their slopes jump where rounding puts a point on the other side of a kink, so that a few steps lead elsewhere.
KINKED = ("relu", "abs", "leaky_relu", "clip", "hardswish", "relu^2")


def params_of(name: str, curves: int = 19) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, curves, generator=generator, dtype=torch.float64)
    if name in POSITIVE:
        return 1 + a, 2.3 + b
    if name in INNER:
        return 0.3 + 0.3 * a, 0.3 * b
    if name == "tan":
        return 0.7 + 0.3 * a, 0.4 * b
    return 2 + 3 * a, b - 0.5


def noisy(values: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return values + 0.05 * values.std(dim=-1, keepdim=True) * noise


def known(name: str) -> kernels.KnownFunction:
    symbol = ALL_SYMBOLS.named(name)
    return kernels.KnownFunction(kernels.SYMBOLS.index(name), *symbol.domain, symbol.fit_scale, symbol.fit_shift)


def pairs_of(name: str, a: torch.Tensor, b: torch.Tensor) -> kernels.Pairs:
    return kernels.Pairs(
        [known(name)], torch.zeros(len(a), dtype=torch.long), torch.arange(len(a)), torch.stack([a, b])
    )


@pytest.mark.parametrize(
    ("name", "steps"),
    [(name, steps) for name in kernels.SYMBOLS for steps in ((0, 1) if name in KINKED else (0, 1, 3))],
)
def test_refining_is_its_definition(name, steps):
    symbol, (a, b) = ALL_SYMBOLS.named(name), params_of(name)
    y_ES, _ = normalised(noisy(symbol_values(symbol, a[:, None] * U_S + b[:, None])))
    start = (
        a * 1.05 if symbol.fit_scale else torch.ones_like(a),
        b + 0.04 if symbol.fit_shift else torch.zeros_like(b),
    )
    result = kernels.refine_pairs(pairs_of(name, *start), U_S, y_ES, steps)
    torch.testing.assert_close(result, refine(symbol, U_S, y_ES, *start, steps), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", kernels.SYMBOLS)
def test_judging_is_its_definition(name):
    symbol, (a, b) = ALL_SYMBOLS.named(name), params_of(name)
    z_ES = a[:, None] * U_S + b[:, None]
    y_ES = 3 * noisy(symbol_values(symbol, z_ES)) - 2
    result = kernels.judge_pairs(pairs_of(name, a, b), U_S, y_ES, HELD_OUT_S)
    expected = judge(symbol_values(symbol, z_ES), y_ES, HELD_OUT_S)
    torch.testing.assert_close(result, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["exp", "sin", "tanh", "gelu", "softplus", "mish", "erf", "arctan", "gaussian"])
def test_functions_are_right_far_from_zero(name):
    symbol = ALL_SYMBOLS.named(name)
    a, b = torch.tensor([0.5, 30.0, 400.0, 3.0, 3.0]).double(), torch.tensor([0.0, 1.0, 0.0, -60.0, 60.0]).double()
    z_ES = a[:, None] * U_S + b[:, None]
    y_ES = symbol_values(symbol, z_ES)
    c, _, r2 = kernels.judge_pairs(pairs_of(name, a, b), U_S, y_ES, HELD_OUT_S)
    varies = normalised(y_ES)[1]
    assert varies.sum() >= 3
    torch.testing.assert_close(c[varies], torch.ones_like(c[varies]), rtol=1e-9, atol=0)
    assert (1 - r2[varies]).max() < 1e-12


def test_leaving_the_domain_is_no_fit():
    y_ES, _ = normalised(noisy(U_S.expand(3, -1)))
    a, b = torch.ones(3, dtype=torch.float64), torch.tensor([0.5, -3.0, 1.5], dtype=torch.float64)
    for name in POSITIVE:
        pairs = pairs_of(name, a, b)
        assert (kernels.refine_pairs(pairs, U_S, y_ES, 0)[2] >= 0).tolist() == [False, False, True]
        assert kernels.judge_pairs(pairs, U_S, y_ES, HELD_OUT_S).isnan().all(0).tolist() == [True, True, False]


@pytest.mark.parametrize("name", ["sin", "tanh", "x^2", "relu"])
def test_curves_that_are_nan_or_constant_leave_the_others_alone(name):
    a, b = params_of(name)
    y_ES, _ = normalised(noisy(ALL_SYMBOLS.named(name).function(a[:, None] * U_S + b[:, None])))
    expected = kernels.refine_pairs(pairs_of(name, a, b), U_S, y_ES, 2)
    y_ES = y_ES.clone()
    y_ES[3, 7], y_ES[5] = torch.nan, 0.0
    result = kernels.refine_pairs(pairs_of(name, a, b), U_S, y_ES, 2)
    assert result[2, 3] == -1 and result[2, 5] == 0 and result[:2, 5].isfinite().all()
    others = torch.tensor([row not in (3, 5) for row in range(len(a))])
    assert torch.equal(result[:, others], expected[:, others])


@pytest.mark.parametrize("threads", [1, 2])
def test_pairs_in_any_order_are_the_same_bits(threads):
    names = ["sin", "log", "x", "gelu"]
    functions = [known(name) for name in names]
    generator = torch.Generator().manual_seed(2)
    y_ES, _ = normalised(torch.randn(50, len(U_S), generator=generator, dtype=torch.float64).cumsum(-1))
    function_P = torch.arange(len(names)).repeat_interleave(100)
    row_P = torch.randint(0, 50, (400,), generator=generator)
    params = torch.stack([torch.full((400,), 1.3), torch.full((400,), 1.6)]).double()
    result = kernels.refine_pairs(kernels.Pairs(functions, function_P, row_P, params), U_S, y_ES, 3)
    order = torch.randperm(400, generator=generator)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        shuffled = kernels.Pairs(functions, function_P[order], row_P[order], params[:, order])
        assert torch.equal(kernels.refine_pairs(shuffled, U_S, y_ES, 3), result[:, order])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("curves", [1, 17, 64, 150])
def test_the_search_is_its_definition(curves):
    dictionary = Dictionary(KAN_LIBRARY, U_S)
    generator = torch.Generator().manual_seed(3)
    y_ES = normalised(torch.randn(curves, len(U_S), generator=generator, dtype=torch.float64).cumsum(-1))[0].float()
    closest = dictionary.search(y_ES)
    assert closest.best_FE is not None
    torch.testing.assert_close(closest.r2_FE, dictionary.best_r2(y_ES), rtol=0, atol=1e-6)
    rows = torch.arange(curves)
    for number, symbol in enumerate(KAN_LIBRARY):  # where two candidates are as close, it may be either
        a, b = closest.start(torch.full((curves,), number), rows)
        f_ES, _ = normalised(symbol.function(a[:, None] * U_S + b[:, None]))
        r2 = (f_ES * y_ES).sum(-1).square()
        if symbol.partner is not None:
            g_ES = symbol.partner.function(a[:, None] * U_S + b[:, None])
            g_ES, _ = normalised(g_ES - (g_ES * f_ES).sum(-1, keepdim=True) * f_ES)
            r2 += (g_ES * y_ES).sum(-1).square()
        torch.testing.assert_close(r2.float(), closest.r2_FE[number], rtol=0, atol=1e-6)
