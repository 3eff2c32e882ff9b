"""Formulas: edges become them, numbers are exact, and what has no formula says so."""

import math

import pytest
import sympy
import torch

from kansformer.errors import ConfigError, ConversionStateError, DataError, ShapeError
from kansformer.kan import KAN, Edge, create_dataset, find_formula, kan_from_formula
from kansformer.kan.edges import cut_edges
from kansformer.kan.rounding import evaluate, rounded, text_of
from kansformer.kan.sparse import straighten_single_paths
from kansformer.symbolic import LIBRARY, fit_symbolic
from kansformer.symbolic.constants import Formula, torch_function, with_float_factors

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def quickstart():
    return create_dataset(lambda x: torch.exp(torch.sin(math.pi * x[:, [0]]) + x[:, [1]] ** 2), 2)


def test_the_quickstart_formula_is_found_to_the_last_digit(quickstart):
    found = find_formula(quickstart, width=[2, 5, 1], networks=2, **QUIET)
    assert str(found.formulas[0]) == "exp(x_2**2 + sin(pi*x_1))"  # what the README says
    assert found.test_rmse < 1e-12 and found.curves_rmse < 1e-3
    assert "exp(x_2**2" in repr(found) and "KANLinear" not in repr(found)
    x_1, x_2 = sympy.symbols("x_1 x_2")
    values = sympy.lambdify((x_1, x_2), found.formulas[0], "numpy")(*quickstart.test_input.T.numpy())
    assert abs(torch.as_tensor(values) - quickstart.test_target[:, 0]).max() < 0.01  # numbers of four digits
    exact = sympy.lambdify((x_1, x_2), found.model.formula()[0], "numpy")(*quickstart.test_input.T.numpy())
    torch.testing.assert_close(torch.as_tensor(exact), quickstart.test_target[:, 0], rtol=1e-11, atol=1e-11)
    assert "RMSE" in str(found) and found.model.width[1] in [(1, 0), (2, 0)]  # exp(a + b) or exp(a)*exp(b)


def test_a_product_is_found():
    data = create_dataset(lambda x: x[:, [0]] * x[:, [1]], 2, num_train=500, num_test=100)
    found = find_formula(data, width=[2, [2, 1], 1], variables=["mass", "speed"], **QUIET)
    assert found.test_rmse < 1e-12
    assert str(found.formulas[0]) == "mass*speed"


def test_edges_are_named_and_fixed(quickstart):
    model = KAN([2, 1, 1], seed=1)
    model.fit(quickstart, steps=40, **QUIET)
    with pytest.raises(ConversionStateError, match=r"The edge \(0, 0 -> 0\) is a curve, so the network has no formula"):
        model.formula()
    before = model(quickstart.test_input).detach()
    looked = model.fit_symbolic(quickstart.train_input, fix=False)
    assert torch.equal(model(quickstart.test_input).detach(), before) and len(looked) == 3
    assert list(looked.to_pandas().columns[:3]) == ["layer", "input", "output"]
    named = model.fit_symbolic(quickstart.train_input, noise=1e-4)
    assert named.fits.names == ["sin", "x^2", "exp"] and not model.layers[0].coefficients.any()
    history = model.fit(quickstart, steps=40, **QUIET)
    assert history.test_error[-1] < 1e-12
    assert len(model.formula(digits=3)) == 1


def test_symbols_are_fixed_and_taken_back(quickstart):
    model = KAN([2, 1, 1], seed=1)
    model.fit(quickstart, steps=40, **QUIET)
    edge, x = Edge(0, 0, 0), quickstart.train_input
    before = model(quickstart.test_input).detach()
    assert model.suggest_symbols(edge, x, top=3)["name"][0] in ("sin", "gaussian")
    assert model.fix_symbol(edge, "sin", x) > 0.999
    with pytest.raises(ConfigError, match="is a formula already. Make it a curve first, by unfix_symbol"):
        model.fix_symbol(edge, "sin", x)
    fixed = model(quickstart.test_input).detach()
    model.unfix_symbol(edge)
    assert not len(model.formulas[0])
    torch.testing.assert_close(model(quickstart.test_input).detach(), fixed, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(fixed, before, rtol=0.1, atol=0.1)
    with pytest.raises(ConfigError, match="is a curve, so it has no formula to remove"):
        model.unfix_symbol(edge)


def test_an_edge_that_is_cut_leaves_its_mean_over_the_samples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=generator, dtype=torch.float64).exp()
    model = KAN([2, 1], grid_size=8)
    model.fit((x, x[:, :1] ** 2 + x[:, 1:]), steps=10, **QUIET)
    mean = model.predict(x).mean()
    assert model.fix_symbol((0, 0, 0), "0", x) == 0
    torch.testing.assert_close(model.predict(x).mean(), mean)
    model = KAN([1, 1])
    model.fix_symbol((0, 0, 0), "log", x[:, :1], affine=(1, 0, 1, 0))
    domain = model.layers[0].domain.clone()
    for refused in (lambda: model.fix_symbol((0, 0, 0), "0"), lambda: model.unfix_symbol((0, 0, 0), 3 - x[:, :1])):
        with pytest.raises(DataError, match="not finite"):
            refused()
    assert torch.equal(model.layers[0].domain, domain) and not model.layers[0].bias.any()


def test_a_constant_edge_goes_into_the_bias():
    model = KAN([1, 1])
    with torch.no_grad():
        model.layers[0].coefficients.fill_(0.5)
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    model.fit_symbolic(x)
    assert not list(model.edges()) and torch.allclose(model(x), torch.full_like(x, 0.5))
    assert float(model.formula(digits=4)[0]) == 0.5


def test_chains_become_one_curve(quickstart):
    model = KAN([2, 4, 1], seed=0)
    mask_IO = torch.ones(2, 4).bool()
    mask_IO[[0, 1, 0, 0], [0, 1, 2, 3]] = False  # inputs 0, 1, 0 and 0
    mask_IO[1, 3] = False  # both enter the last
    cut_edges(model, 0, mask_IO)
    model.fit(quickstart, steps=10, smoothness=1e-3, **QUIET)  # gentle ones
    before = model(quickstart.train_input).detach()
    refined = model.layers[1].curves.basis.grid_size
    assert refined == 5 and straighten_single_paths(model, quickstart.train_input) == 3
    assert model.width[1] == (3, 0)  # two nodes passed the first input on
    change = (model(quickstart.train_input) - before).std() / before.std()
    assert change < 0.1  # a grid of 5 cannot follow two curves in one
    assert [s.name for s in model.formulas[0].symbols] == ["x", "x"]


def test_numbers_are_rounded_in_the_result():
    x = sympy.Symbol("x")
    expression = sympy.Float(3.14159265) * sympy.sin(sympy.Float(2.00000001) * x) + sympy.Float(1e-15) * x
    points = {"x": torch.linspace(-1, 1, 20, dtype=torch.float64)}
    assert str(rounded(expression, 4, points)) == "3.142*sin(2*x)"
    assert rounded(sympy.Integer(0), 3, points) == 0


def test_rounding_does_not_change_the_function():
    # Multiplied out, this needs ten digits at x about 2000; as it stands, five.
    x = sympy.Symbol("x")
    points = {"x": torch.linspace(2000, 2020, 50, dtype=torch.float64)}
    expression = sympy.Float(0.1234567) * (x - sympy.Float(2010.3)) ** 2 + sympy.Float(1.2345)
    shown = rounded(expression, 4, points)
    exact = evaluate(expression, points)
    assert (evaluate(shown, points) - exact).square().mean().sqrt() < 1e-3 * exact.std()
    # A small coefficient of a large variable is no trace.
    points = {"x": torch.linspace(1e11, 5e11, 50, dtype=torch.float64)}
    assert str(rounded(1 + sympy.Float(1e-11) * x, 4, points)) == "1.0e-11*x + 1"


def test_numbers_beyond_float64_stay():
    x = sympy.Symbol("x")
    points = {"x": torch.linspace(1, 2, 50, dtype=torch.float64)}
    large = sympy.Float("1.23456789e400")
    assert rounded(sympy.tanh(large * x), 4, points) == sympy.tanh(large * x)
    assert not rounded(1 / (1 + large * x), 4, points).has(sympy.zoo)


@pytest.mark.parametrize("rate", [1.5, 0.6])
def test_formulas_of_years_are_evaluated_in_float64(rate):
    year, logarithm = sympy.Symbol("year"), sympy.log(sympy.Float(rate))
    growth = sympy.exp(logarithm * (year - sympy.Float(1990.3)))
    points = {"year": torch.linspace(1990, 2020, 31, dtype=torch.float64)}
    values = rate ** (points["year"] - 1990.3)
    model = kan_from_formula(growth * (year + 1) ** 2)
    for shown, expected in [
        (rounded(1 / (1 + growth), 8, points), 1 / (1 + values)),
        (rounded(growth * (year + 1) ** 2, 8, points), values * (points["year"] + 1) ** 2),
        (Formula.of(with_float_factors(growth), ["year"]).expression(), values),
        (model.formula(variables=["year"])[0], values * (points["year"] + 1) ** 2),
    ]:
        torch.testing.assert_close(evaluate(sympy.sympify(str(shown)), points), expected, rtol=1e-5, atol=0)
    infinite = sympy.Float("inf") * sympy.exp(year)
    assert with_float_factors(infinite) == infinite


def test_a_bell_over_years_has_a_formula():
    year = torch.linspace(1900, 2020, 121, dtype=torch.float64).unsqueeze(-1)
    model = KAN([1, 1])
    model.fit((year, 2 + 5 * torch.exp(-(((year - 1965) / 15) ** 2))), steps=20, progress=False)
    model.fit_symbolic((year, model.predict(year)))
    (formula,) = model.formula(variables=["year"])
    torch.testing.assert_close(evaluate(formula, {"year": year[:, 0]}), model.predict(year)[:, 0])


@pytest.mark.parametrize("power", [3, 4])
def test_powers_of_dates_are_not_expanded(power):
    day = 2459000 + torch.linspace(-50, 50, 101, dtype=torch.float64).unsqueeze(-1)
    model = KAN([1, 1])
    model.update_grid(day)
    model.fix_symbol((0, 0, 0), f"x^{power}", day, affine=(0.02, -49180.0, 1.0, 0.0))
    (formula,) = model.formula(variables=["day"])
    torch.testing.assert_close(evaluate(formula, {"day": day[:, 0]}), model.predict(day)[:, 0])
    near = KAN([1, 1])
    near.fix_symbol((0, 0, 0), f"x^{power}", affine=(2.0, 1.0, 1.0, 0.0))
    assert near.formula()[0].is_Add and near.formula()[0].coeff(sympy.Symbol("x_1"), power) == 2.0**power


def test_a_number_alone_has_its_digits():
    assert text_of(sympy.Float(0.885)) == "0.885" and text_of(sympy.Float(0.5) * sympy.Symbol("x")) == "0.5*x"


def test_integers_beyond_64_bits_are_evaluated():
    x = sympy.Symbol("x")
    assert torch_function([x], sympy.exp(x - 10**25) + x)(torch.ones(2)).tolist() == [1, 1]


def test_sums_in_exponents_and_exact_numbers_are_shown_as_such():
    x, y = sympy.symbols("x y")
    points = {name: torch.linspace(0.1, 2, 40, dtype=torch.float64).roll(k) for k, name in enumerate("xy")}
    for expression, expected in [
        (sympy.exp(x**2) * sympy.exp(sympy.sin(sympy.pi * y)), "exp(x**2 + sin(pi*y))"),
        (sympy.Float(0.5) * x + sympy.Rational(1, 3) * y, "0.5*x + y/3"),
        (sympy.Float(2.0) * x ** sympy.Float(2.0), "2*x**2"),
        (sympy.Float(1.23456) * x * (1 + sympy.Float(1e-13) * y), "1.23*x"),
    ]:
        assert str(rounded(expression, 3, points)) == expected


def test_given_curves_are_named_as_before():
    x = torch.linspace(-1, 1, 32, dtype=torch.float64)[None]
    fits = fit_symbolic(x, torch.sin(3 * x), library=LIBRARY.subset(["sin", "x"]))
    assert fits.names == ["sin"]


def test_noise_lets_the_simplest_win():
    x = torch.linspace(-1, 1, 64, dtype=torch.float64)[None]
    y = x + 1e-4 * torch.sin(9 * x) + 1e-3 * x**2
    assert fit_symbolic(x, y).names != ["x"]
    assert fit_symbolic(x, y, noise=1e-5).names == ["x"]
    with pytest.raises(ConfigError, match="noise must be a share from 0 to below 1, got 2"):
        fit_symbolic(x, y, noise=2)


def test_bad_input(quickstart):
    with pytest.raises(ConfigError, match="networks must be a whole number of at least 1, got 0"):
        find_formula(quickstart, networks=0)
    model = KAN([2, 1])
    model.fit_symbolic(quickstart.train_input)
    with pytest.raises(ConfigError, match=r"Two inputs would have one name: \['a', 'a'\]"):
        model.formula(variables=["a", "a"])
    with pytest.raises(ShapeError, match=r"x must be \(samples, 2\), got \(5, 3\)"):
        KAN([2, 1]).fit_symbolic(torch.zeros(5, 3))
    constant = KAN([1, 1], base="zero")
    constant.layers[0].coefficients.data.fill_(1.0)
    with pytest.raises(ConfigError, match="is constant, so 'sin' cannot be fitted to it"):
        constant.fix_symbol(Edge(0, 0, 0), "sin")
    with pytest.raises(ConfigError, match="has 2 inputs, and 1 names were given"):
        model.formula(variables=["a"])


def test_rounding_makes_no_pole_beyond_the_samples():
    x = sympy.Symbol("x")
    formula = 1 / (x - sympy.Float(1.00004))
    inside, edge = {"x": torch.linspace(0, 0.5, 50).double()}, {"x": torch.tensor([1.0]).double()}
    shown = rounded(formula, 4, inside)
    assert shown == 1 / (x - 1) and not evaluate(shown, edge).isfinite()
    assert evaluate(sympy.sympify(str(rounded(formula, 4, inside, edge))), edge).isfinite()


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_an_input_that_is_constant_on_the_data_becomes_a_constant(constant):
    x = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 1] = constant
    y = torch.sin(3 * x[:, :1]) + 2
    for change in ("all", "zero"):
        model = KAN([2, 1])
        model.fit((x, y), steps=20, **QUIET)
        before = (model.predict(x) - y).square().mean().sqrt()
        if change == "all":
            assert "(0, 1 -> 0): constant" in str(model.fit_symbolic(x))
        else:
            model.fix_symbol((0, 1, 0), "0", x)
        assert (model.predict(x) - y).square().mean().sqrt() < 2 * before + 1e-3


def test_curves_that_vary_little_beside_their_offset_are_no_constants():
    x = torch.linspace(0, 1, 64, dtype=torch.float64).unsqueeze(0)
    assert fit_symbolic(x, 1e7 + torch.sin(3 * x)).names == ["sin"]
    assert fit_symbolic(x, 1e7 + 1e-9 * torch.sin(3 * x)).names == ["constant"]
    assert fit_symbolic(x.float(), 1e7 + torch.zeros_like(x).float()).names == ["constant"]


def test_digits_are_judged_where_the_data_are():
    x = torch.linspace(250, 350, 120, dtype=torch.float64).unsqueeze(-1)
    found = find_formula((x, 500 + 4e-8 * x**4), variables=["T"], networks=1, **QUIET)
    assert found.model.formula(variables=["T"], digits=4)[0].has(sympy.Symbol("T"))
