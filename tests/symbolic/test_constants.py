"""Constants of formulas: fitted with standard errors, snapped to exact values that the samples allow, and no others."""

import math

import numpy as np
import pytest
import sympy
import torch

from kansformer.symbolic.constants import (
    Fitted,
    Formula,
    _jacobian,
    _with_numpy,
    fit_constants,
    simplified,
    with_signs,
)

X, Y = sympy.symbols("x y")
NAMES = ["x", "y"]
K = Formula.of(sympy.Float(1.5) * X + sympy.Float(2.5) * Y + sympy.Float(0.5), NAMES).constants


def samples(rows=200):
    generator = torch.Generator().manual_seed(3)
    return 0.5 + 3 * torch.rand(rows, 2, generator=generator, dtype=torch.float64)


def normal(rows, seed=0):
    return torch.randn(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(expression, x, y, **options) -> Fitted:
    return fit_constants(Formula.of(expression, NAMES), x, y, **options)


def nats(rows):
    """A description length: that of the errors, of the constants and of the operations."""

    def cost(result: Fitted) -> float:
        error = max(result.error, 1e-10)
        constants = len(result.formula.values) * math.log(rows) / 2
        return rows * math.log(error) + constants + result.formula.size() if math.isfinite(error) else math.inf

    return cost


def snapped(expression, x, y) -> sympy.Expr:
    return simplified(fitted(expression, x, y), x, y, cost=nats(len(y))).formula.expression()


def number(value):
    return sympy.Float(value)


START = number(1.5) * sympy.exp(number(-0.8) * X) + number(0.3) * Y ** number(1.5)
TRUTH = [1.7, -0.9, 0.4, 1.3]


def curve(x):
    return 1.7 * torch.exp(-0.9 * x[:, 0]) + 0.4 * x[:, 1] ** 1.3


FUNCTIONS = ["exp", "log", "sqrt", "sin", "cos", "tan", "tanh", "cosh", "sinh", "asin", "acos", "atan", "atanh", "sign",
    "erf", "Abs"]  # fmt: skip
OPERATIONS = [
    K[0] * X**2 + K[1] / Y - K[2], (K[0] + X) ** 2.5 / (X * K[1] + K[2]), 2 / (K[0] - X * K[1]) + K[2], 2 ** (K[0] * X),
    (K[0] * X) ** (K[1] * Y), X ** K[0] * K[1] ** K[2], sympy.Max(K[0] * X, K[1], Y), sympy.Min(K[0] * X, K[1], K[2]),
    K[0] * sympy.log(X) + sympy.sqrt(2) * K[1], sympy.Abs(X - 1) ** K[0], (1 - X) * K[0] ** 2 + K[1] ** -K[2],
]  # fmt: skip


@pytest.mark.parametrize(
    "tree", [*(getattr(sympy, name)(K[0] * X / 8 + K[1] * Y / 16) * K[2] for name in FUNCTIONS), *OPERATIONS], ids=str
)
def test_derivatives_by_constants_are_those_of_autograd(tree):
    x = samples(20)
    x[0] = 1.0
    formula = Formula(tree, torch.tensor([0.3, 0.4, 1.2], dtype=torch.float64), tuple(NAMES))
    copies = formula.values.unsqueeze(-1).repeat(1, len(x)).requires_grad_()
    (expected,) = torch.autograd.grad(formula.compiled()(x.mT, copies).sum(), copies, allow_unused=True)
    with np.errstate(all="ignore"):
        jacobian = _jacobian(_with_numpy(formula.function()), x.mT.numpy(), formula.values.numpy())
    torch.testing.assert_close(torch.tensor(jacobian.T), expected, rtol=1e-12, atol=1e-14, equal_nan=True)


def test_floats_become_constants_and_exact_numbers_stay():
    formula = Formula.of(number(2.5) * X**2 + sympy.Rational(1, 2) * sympy.sin(sympy.pi * Y) + number(0.5), NAMES)
    assert sorted(formula.values.tolist()) == [0.5, 2.5]
    assert formula.expression() == number(2.5) * X**2 + sympy.sin(sympy.pi * Y) / 2 + number(0.5)
    assert formula.tree.has(sympy.pi, sympy.Rational(1, 2))
    x = samples(5)
    values = formula.compiled()(x.mT, formula.values.unsqueeze(-1).expand(-1, 5))
    torch.testing.assert_close(values, 2.5 * x[:, 0] ** 2 + torch.sin(math.pi * x[:, 1]) / 2 + 0.5)
    assert Formula.of(X, NAMES).size() == 1 and Formula.of(X + number(1.5), NAMES).size() == 3


def test_constants_are_exact_without_noise():
    x = samples()
    result = fitted(START, x, curve(x))
    assert result.formula.values.tolist() == pytest.approx(TRUTH, rel=1e-9)
    assert result.error < 1e-12


def test_standard_errors_are_those_of_a_simulation():
    x, formula = samples(), Formula.of(START, NAMES)
    results = [fit_constants(formula, x, curve(x) + 0.02 * normal(200, seed)) for seed in range(250)]
    values = torch.stack([result.formula.values for result in results])
    errors = torch.stack([result.deviations for result in results])
    assert values.mean(dim=0).tolist() == pytest.approx(TRUTH, rel=3e-3)
    assert (values.std(dim=0) / errors.mean(dim=0)).tolist() == pytest.approx([1.0] * 4, abs=0.2)
    assert torch.tensor([result.error for result in results]).mean() == pytest.approx(0.02, rel=0.03)


def test_the_error_of_a_mean_is_that_of_textbooks():
    y = 5 + normal(400)
    result = fitted(number(4.0), samples(400), y)
    assert result.formula.values.item() == pytest.approx(y.mean().item())
    assert result.deviations.item() == pytest.approx((y.std() / 400**0.5).item(), rel=1e-6)


def test_constants_that_others_can_replace_have_infinite_errors():
    x = samples()
    y = 3 * torch.exp(x[:, 0] + 0.2) + 0.1 + 0.01 * normal(200)
    formula = Formula(K[0] + K[1] * sympy.exp(X + K[2]), torch.tensor([0.2, 2.0, 0.5], dtype=torch.float64), ("x", "y"))
    result = fit_constants(formula, x, y)
    assert result.deviations.isinf().tolist() == [False, True, True]
    assert result.error == pytest.approx(0.01, rel=0.2)
    simple = simplified(result, x, y, cost=nats(200))
    assert len(simple.formula.values) == 2 and simple.deviations.isfinite().all()
    assert simple.error == pytest.approx(result.error, rel=1e-6)


@pytest.mark.parametrize(
    ("truth", "start", "expected"),
    [
        (lambda x: x[:, 0] + 2 * x[:, 1], number(1.1) * X + number(1.9) * Y, X + 2 * Y),
        (lambda x: x[:, 0] ** 0.5, number(1.2) * X ** number(0.6), sympy.sqrt(X)),
        (lambda x: torch.sin(math.pi * x[:, 0]), sympy.sin(number(3.1) * X), sympy.sin(sympy.pi * X)),
        (lambda x: torch.cos(math.pi / 2 * x[:, 0]), sympy.cos(number(1.6) * X), sympy.cos(sympy.pi * X / 2)),
        (lambda x: x[:, 0] ** 3 / 3 + x[:, 1], number(0.3) * X ** number(2.9) + number(1.1) * Y, X**3 / 3 + Y),
        (lambda x: 1 / x[:, 0] ** 2, number(1.1) * X ** number(-1.9), X**-2),
        (lambda x: -torch.exp(-x[:, 0] / 4), number(-1.1) * sympy.exp(number(-0.3) * X), -sympy.exp(-X / 4)),
    ],
)
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_constants_are_snapped_within_their_errors(truth, start, expected, noise):
    x = samples()
    assert snapped(start, x, truth(x) + noise * normal(200)) == expected


def test_zero_removes_a_term():
    x = samples()
    for noise in (0.0, 0.01):
        y = 2.03 * torch.exp(-0.37 * x[:, 0]) + noise * normal(200)
        start = number(2.0) * sympy.exp(number(-0.4) * X) + number(0.2) * sympy.sin(Y) + number(0.1)
        result = snapped(start, x, y)
        assert result.free_symbols == {X} and len(Formula.of(result, NAMES).values) == 2


@pytest.mark.parametrize(("factor", "exponent"), [(2.03, 1.0), (1.0, 2.02), (3.1, 1.0), (0.53, 1.0), (1.0, 0.97)])
def test_constants_stay_where_the_samples_say_so(factor, exponent):
    x = samples()
    y = factor * x[:, 0] ** exponent + 0.01 * normal(200)
    start = fitted(number(factor) * X ** number(exponent), x, y)
    assert (start.deviations < 3e-3).all()
    result = simplified(start, x, y, cost=nats(200)).formula
    assert result.values.tolist() == pytest.approx([value for value in (factor, exponent) if value != 1], abs=6e-3)


def test_one_factor_in_large_noise_becomes_an_integer():
    # A factor of 2.03 with an error of 0.05 may be 2.
    x = samples()
    y = 2.03 * x[:, 0] + 1.5 * normal(200)
    start = fitted(number(2.0) * X, x, y)
    assert start.deviations.item() == pytest.approx(0.05, rel=0.2)
    assert simplified(start, x, y, cost=nats(200)).formula.expression() == 2 * X


@pytest.mark.parametrize(
    "start",
    [
        sympy.log(X - number(2.0)),
        sympy.exp(number(1000.0) * X),
        (X - number(2.0)) ** number(0.5),
        sympy.asin(number(3.0) * X),
        K[0] * X,
    ],
)
def test_a_start_that_is_not_finite_has_an_infinite_error(start):
    x = samples()
    formula = Formula.of(start, NAMES)
    if not len(formula.values):
        formula = Formula(start, torch.tensor([math.nan], dtype=torch.float64), ("x", "y"))
    result = fit_constants(formula, x, curve(x))
    assert result.error == math.inf and result.deviations.isinf().all()
    torch.testing.assert_close(result.formula.values, formula.values, equal_nan=True)
    simple = simplified(result, x, curve(x), cost=nats(200))  # another formula, which is finite
    assert simple.error < math.inf and not simple.formula.tree.has(sympy.nan, sympy.zoo, sympy.oo)


def test_steps_to_values_that_are_not_finite_are_not_taken():
    x = samples()
    y = torch.log(x[:, 0] - 0.45)
    result = fitted(sympy.log(X - number(0.2)), x, y)
    assert result.formula.values.tolist() == pytest.approx([-0.45]) and result.error < 1e-10


def test_formulas_without_constants():
    x = samples()
    result = fitted(sympy.log(X) + Y, x, x[:, 0].log() + x[:, 1] + 0.5)
    assert result.error == pytest.approx(0.5) and result.deviations.shape == (0,)
    assert simplified(result, x, curve(x), cost=nats(200)) is result
    assert fitted(sympy.Integer(2), x, torch.full((200,), 2.0, dtype=torch.float64)).error == 0


def test_a_constant_is_not_snapped_if_that_costs_more():
    x = samples()
    y = x[:, 0] + normal(200)
    start = fitted(number(1.1) * X, x, y)
    assert abs(start.formula.values.item() - 1) < start.deviations.item()
    assert simplified(start, x, y, cost=lambda result: result.error) is start
    assert simplified(start, x, y, cost=nats(200)).formula.expression() == X


def test_values_that_make_poles_are_not_taken():
    x = samples()
    formula = Formula(K[0] * X / K[1] + K[2], torch.tensor([3.0, 2.0, 0.0], dtype=torch.float64), ("x", "y"))
    y = 1.37 * x[:, 0] + 0.01 * normal(200)
    result = simplified(fit_constants(formula, x, y), x, y, cost=nats(200)).formula
    assert result.values.tolist() == pytest.approx([1.37], abs=5e-3) or result.values.tolist() == pytest.approx(
        [1 / 1.37], abs=5e-3
    )
    assert result.expression().free_symbols == {X}


def test_narrow_valleys_are_followed():
    """c·log(x + b) on a short range is nearly a line: b and c vary together along a bend."""
    x = torch.linspace(0.03, 0.375, 64, dtype=torch.float64).unsqueeze(-1)
    y = 86 - 26.73 * torch.log(x[:, 0] + 25)
    start = sympy.Float(87.7) - sympy.Float(27.0) * sympy.log(sympy.Symbol("x") + sympy.Float(25.3))
    fitted = fit_constants(Formula.of(start, ["x"]), x, y)
    assert fitted.error < 1e-12


@pytest.mark.parametrize(
    ("formula", "expected"),
    [("Abs(x - 3)", "3 - x"), ("1/sqrt((x + 1)**2)", "1/(x + 1)"), ("Abs(x - 1/2)", "Abs(x - 1/2)"),
     ("sqrt(Abs(x - 2)**2)", "2 - x"), ("x/sqrt(0.5*(x - 2)**2)", "x/(2 - x)/sqrt(0.5)"),
     ("exp(3*Abs(x - 1))", "exp(3 - 3*x)"), ("Abs(x - 1 + 1e-12)", "1 - 1e-12 - x"),
     ("Abs(x - 1 + 1e-12)**0.3", "Abs(x - 1 + 1e-12)**0.3"), ("Abs(x - 0.99)", "Abs(x - 0.99)")],
)  # fmt: skip
def test_absolute_values_where_the_sign_is_known(formula, expected):
    x = torch.linspace(0, 1, 11, dtype=torch.float64).unsqueeze(-1)
    resolved = with_signs(Formula.of(sympy.sympify(formula), ["x"]), x)
    assert sympy.simplify(resolved.expression() - sympy.sympify(expected)) == 0
