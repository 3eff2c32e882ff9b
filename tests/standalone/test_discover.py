"""From tables to formulas, and from formulas to networks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import sympy
import torch

from kansformer.errors import ConfigError, DataError, ShapeError
from kansformer.kan import KAN, Dataset, Edge, SearchSettings, create_dataset, find_formula, kan_from_formula
from kansformer.kan.data import Scaling
from kansformer.kan.edge_symbols import name_one_by_one
from kansformer.kan.edges import cut_edges
from kansformer.kan.fitting import rmse
from kansformer.kan.formula_search import FormulaSearch, shapes_for
from kansformer.kan.monomials import sums_of_monomials
from kansformer.symbolic import SCIENCE_LIBRARY
from kansformer.symbolic.constants import Fitted, Formula

QUIET = {"progress": False}
X, Y, Z = sympy.symbols("x y z")


def test_formulas_that_hang_on_the_last_digits_explain_nothing():
    x = torch.stack([torch.arange(80) % 2, torch.linspace(1, 2, 80)], dim=1).double()
    y = x[:, :1] * x[:, 1:] ** 2
    search = FormulaSearch(Dataset(x, y, x[:0], y[:0]), 0, ["x", "y"], SCIENCE_LIBRARY, SearchSettings(), deadline=0.0)
    bad = Y**2 * (sympy.sqrt(sympy.Float(3.339e31) - sympy.Float(1.315e16) * sympy.exp(-(X**2))) - 5.778e15)
    lengths = [
        search.length(Fitted(Formula.of(e, ["x", "y"]), 0.0, torch.zeros(0)))
        for e in (bad, sympy.Float(1.0) * X * Y**2)
    ]
    assert lengths[0] == math.inf and math.isfinite(lengths[1])


def test_units_do_not_matter():
    data = create_dataset(lambda x: 1e-6 * x[:, [0]] / x[:, [1]], 2, ranges=[(0.0, 3e4), (200.0, 900.0)], num_test=50)
    found = find_formula(data, variables=["power", "speed"], networks=6, digits=3, **QUIET)
    assert found.test_rmse < 1e-9 * data.test_target.std()
    power, speed = sympy.symbols("power speed")
    assert sympy.simplify(found.formulas[0] * speed / power) == pytest.approx(1e-6, rel=1e-3)
    assert rmse(found.curves, data.train_input, data.train_target) == pytest.approx(found.curves_rmse)


def test_gauges_are_fixed_by_naming_edges_one_after_the_other():
    # Behind a product, ψ(φ₁·φ₂) stays the same if both are raised to a power and ψ takes the root: the curves here are
    # x^1.5, y^1.5 and arcsin(t^(2/3)), of which the last has no name.
    data = create_dataset(lambda x: torch.asin(x[:, [0]] * x[:, [1]]), 2, ranges=(0.4, 0.95))
    x, y = data.train_input, data.train_target
    model = KAN([2, [0, 1], 1], grid_size=20, base="zero", domain=(0.4, 0.95))
    cut_edges(model, 0, torch.tensor([[False, True], [True, False]]))
    for channel in range(2):
        model.fix_symbol(Edge(0, channel, channel), "x^1.5")
        model.formulas[0].affine.data[-1] = torch.tensor([1.0, 0.0, 1.0, 0.0])
        model.unfix_symbol(Edge(0, channel, channel))
    model.layers[1].domain.copy_(torch.tensor([[0.06, 0.87]]))
    model.layers[0].requires_grad_(False)
    model.fit((x, y), steps=5, grid_update_every=0, **QUIET)
    model.layers[0].requires_grad_(True)
    assert rmse(model, x, y) < 1e-4
    named = name_one_by_one(model, x, y, library=SCIENCE_LIBRARY, noise=1e-6)
    assert sorted(symbol.name for formulas in named.formulas for symbol in formulas.symbols) == ["arcsin", "x", "x"]
    assert rmse(named, data.test_input, data.test_target) < 1e-10


def test_the_functions_to_choose_from_are_named():
    x = torch.rand(60, 1, dtype=torch.float64)
    found = find_formula((x, torch.exp(x)), library=["x", "exp"], networks=1, **QUIET)
    assert str(found.formulas[0]) == "exp(x_1)"


def test_noise_ends_the_search():
    clean = create_dataset(lambda x: torch.exp(x[:, [0]]), 1, num_train=200, num_test=0)
    noise = 0.05 * torch.randn(200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = find_formula((clean.train_input, clean.train_target + noise), networks=30, **QUIET)
    assert 0.03 < found.train_rmse < 0.06
    assert found.test_rmse != found.test_rmse  # there are no test samples


def test_shapes_begin_with_simple_ones():
    for inputs in (1, 3):
        shapes = shapes_for(inputs)
        assert shapes[0].width == [inputs, 1] and all(shape.width[-1] == 1 for shape in shapes)
        for shape in shapes:
            straight = [formula[2].name for formula in shape.build(0, SearchSettings()).formulas[-1].edges()]
            assert straight == ["x"] * (shape.width[-2][1] if shape.linear_products else 0)


def test_scaled_networks_become_networks_of_the_columns():
    x = torch.rand(50, 2, dtype=torch.float64) * torch.tensor([1e3, 1e-3]) + 5
    y = torch.stack([3e4 * x[:, 0], x[:, 1]], dim=1)
    data = Dataset(x, y, x[:0], y[:0])
    scaling = Scaling.of(data)
    scaled = scaling.apply(data)
    assert [end.item() for end in scaled.train_input.aminmax()] == pytest.approx([-1, 1])
    model = KAN([2, 2, 2], base="zero", seed=1)
    model.fit(scaled, steps=3, **QUIET)
    before = model(scaled.train_input).detach()
    scaling.undo(model)
    torch.testing.assert_close(model(x).detach(), before * scaling.spread + scaling.mean)


def test_constant_columns_do_no_harm():
    x = torch.rand(60, 2, dtype=torch.float64)
    x[:, 1] = 3.0
    found = find_formula((x, torch.exp(x[:, :1])), networks=3, **QUIET)
    assert found.train_rmse < 1e-9


def uniform(rows, columns, lower=0.0, upper=1.0, seed=0):
    unit = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lower + (upper - lower) * unit


def noise_of(y, share, seed=0):
    return share * y.std() * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def is_finite(found):
    """Whether the numbers and the values of a result are finite."""
    figures = [found.train_rmse, found.curves_rmse, *(a.train_rmse for front in found.alternatives for a in front)]
    expressions = [*found.formulas, *(a.formula for front in found.alternatives for a in front)]
    bad = (sympy.nan, sympy.oo, -sympy.oo, sympy.zoo, sympy.I)
    return all(map(math.isfinite, figures)) and not any(e.has(*bad) for e in expressions)


@pytest.fixture(scope="module")
def quickstart():
    return create_dataset(lambda x: torch.exp(torch.sin(math.pi * x[:, [0]]) + x[:, [1]] ** 2), 2, num_train=400)


def test_an_interrupted_search_gives_the_best_formula_so_far(quickstart):
    calls = []

    def stop(*report):
        calls.append(report)
        raise KeyboardInterrupt

    found = find_formula(quickstart, width=[2, 1], networks=9, progress=stop)
    assert len(calls) == 1 and found.stopped == "interrupted" and is_finite(found)
    assert "The search ended early: interrupted." in str(found)
    # With outputs that were not begun, these are constants.
    x = quickstart.train_input
    found = find_formula((x, torch.stack([x[:, 0] + x[:, 1], x[:, 0] ** 3], dim=1)), networks=1, progress=stop)
    assert found.stopped == "interrupted" and len(found.formulas) == len(found.alternatives) == 2
    assert str(found.formulas[0]) == "x_1 + x_2" and not found.formulas[1].free_symbols
    assert "interrupted" not in str(find_formula((x, x[:, :1]), networks=1, **QUIET))


def test_a_search_without_time_gives_a_finite_formula(quickstart):
    noise = torch.randn(quickstart.train_target.shape, generator=torch.Generator().manual_seed(0))
    target = quickstart.train_target + noise.to(quickstart.train_target)
    quickstart = replace(quickstart, train_target=target)
    found = find_formula(quickstart, seconds=0.01, **QUIET)
    assert is_finite(found) and found.stopped == "0.01 seconds were over" and found.stopped in str(found)
    assert found.train_rmse <= quickstart.train_target.std() + 1e-9
    assert rmse(found.model, quickstart.train_input, quickstart.train_target) == pytest.approx(found.train_rmse)
    for seconds in (0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="seconds must be"):
            find_formula(quickstart, seconds=seconds, **QUIET)


def test_no_sums_of_monomials_when_the_time_is_over(monkeypatch):
    x = uniform(60, 2, 0.5, 2.0)
    dataset = Dataset(x, torch.sin(3 * x[:, :1]) * x[:, 1:], x[:0], x[:0, :1])
    search = FormulaSearch(dataset, 0, ["a", "b"], SCIENCE_LIBRARY, SearchSettings(), deadline=0.0)
    calls = list[int]()

    def sums(*given):
        for number in range(5):
            calls.append(number)
            yield sympy.Symbol("a")

    monkeypatch.setattr("kansformer.kan.formula_search.sums_of_monomials", sums)
    search.run(None, 1, 0, lambda *report: None)
    assert not calls and search.is_out_of_time
    search._monomials()
    assert calls == [0]


@pytest.mark.parametrize("width", [None, [1, 1]])
def test_a_formula_that_is_not_finite_is_never_returned(monkeypatch, width):
    # Behind the fit, the sine is undefined at the middle sample.
    x = torch.linspace(0, 2, 101, dtype=torch.float64)[:, None]
    y = torch.sin(3 * x)
    from kansformer.symbolic import constants

    def undefined(z):
        z = torch.as_tensor(z, dtype=torch.float64)
        return torch.where((z - 3.0).abs() < 0.01, torch.nan, torch.sin(z))

    monkeypatch.setitem(constants.TORCH_FUNCTIONS, "sin", undefined)
    monkeypatch.setitem(constants.NUMPY_FUNCTIONS, "sin", lambda z: undefined(getattr(z, "values", z)).numpy())
    monkeypatch.setattr(constants, "_compiled", constants._compiled.__wrapped__)  # whose cache would keep this sine
    found = find_formula((x, y), width=width, networks=1, library=["x", "x^2", "sin"], **QUIET)
    assert is_finite(found) and not found.formulas[0].has(sympy.sin)
    assert not any(a.formula.has(sympy.sin) for a in found.alternatives[0])


@pytest.mark.parametrize(
    ("expected", "nearest"),
    [("log(x_1)", 1e-9), ("log(x_1)", 1e-4), ("sqrt(x_1)", 1e-9), ("sqrt(x_1)", 1e-4), ("x_1*log(x_1)", 1e-9)],
)
def test_positive_inputs_near_zero(expected, nearest):
    x = uniform(150, 1, 0.05)
    x[0] = nearest
    y = torch.as_tensor(sympy.lambdify(sympy.Symbol("x_1"), sympy.sympify(expected), "numpy")(x.numpy()))
    found = find_formula((x, y), networks=1, **QUIET)
    assert is_finite(found)
    values = sympy.lambdify(sympy.Symbol("x_1"), found.formulas[0], "numpy")(x.numpy())
    assert torch.as_tensor(values).isfinite().all()
    if nearest > 1e-9:
        assert found.train_rmse < 1e-8 * y.std()


def test_a_value_next_to_a_pole_is_no_error():
    x = uniform(150, 2)
    x[0, 0] = 1e-9
    found = find_formula((x, torch.sqrt(x[:, :1]) + 2 * x[:, 1:]), seconds=2, networks=1, **QUIET)
    assert is_finite(found)


def test_curves_that_are_much_better_are_mentioned(quickstart):
    found = find_formula(quickstart, width=[2, 1], networks=1, **QUIET)
    better = replace(found, train_rmse=0.5, curves_rmse=0.5 / 251)
    assert "The curves are 251 times better than the formula: predict with `curves`" in str(better)
    assert "better than the formula" not in str(replace(found, train_rmse=0.5, curves_rmse=0.1))


def test_two_outputs():
    x = uniform(200, 2, 0.5, 2.0)
    y = torch.stack([x[:, 0] * x[:, 1], torch.exp(x[:, 0])], dim=1)
    found = find_formula((x, y), networks=2, **QUIET)
    assert [str(formula) for formula in found.formulas] == ["x_1*x_2", "exp(x_1)"]
    assert str(found).startswith("y_1 = x_1*x_2\ny_2 = exp(x_1)\nRMSE")
    assert len(found.alternatives) == 2 and found.train_rmse < 1e-12
    torch.testing.assert_close(found.model(x).detach(), y)


def test_alternatives_are_a_front_of_error_against_size():
    x = uniform(200, 2, 0.5, 2.0)
    y = torch.exp(x[:, :1]) + 0.05 * torch.sin(5 * x[:, 1:])
    found = find_formula((x, y), networks=2, **QUIET)
    (front,) = found.alternatives
    assert [a.size for a in front] == sorted({a.size for a in front})
    assert [a.train_rmse for a in front] == sorted((a.train_rmse for a in front), reverse=True)
    assert len(front) >= 3 and not front[0].formula.free_symbols
    assert front[-1].train_rmse < 1e-12 and front[-1].formula == found.formulas[0]
    for alternative in front:
        values = sympy.lambdify(sympy.symbols("x_1 x_2"), alternative.formula, "numpy")(*x.T.numpy())
        error = (torch.as_tensor(values).expand(200) - y[:, 0]).square().mean().sqrt().item()
        assert error == pytest.approx(alternative.train_rmse, abs=2e-3 * y.std().item())


TEXTBOOK = {
    "x_1**(3/2)/sqrt(x_2)": lambda x: x[:, :1] ** 1.5 / x[:, 1:2] ** 0.5,
    "x_1*x_2/x_3**2": lambda x: x[:, :1] * x[:, 1:2] / x[:, 2:] ** 2,
    "x_1*exp(-2*x_2)": lambda x: x[:, :1] * torch.exp(-2 * x[:, 1:2]),
}


@pytest.mark.parametrize("expected", TEXTBOOK)
def test_textbook_forms_in_one_percent_of_noise(expected):
    x = uniform(400, 3 if "x_3" in expected else 2, 0.5, 2.5, seed=4)
    y = TEXTBOOK[expected](x)
    found = find_formula((x, y + noise_of(y, 0.01)), networks=3, **QUIET)
    (formula,) = found.formulas
    numbers = formula.atoms(sympy.Float)  # a factor whose error does not contain an integer
    assert all(abs(float(number) - round(float(number))) < 0.02 for number in numbers)
    rounded = formula.xreplace({number: sympy.Integer(round(float(number))) for number in numbers})
    assert sympy.simplify(rounded - sympy.sympify(expected)) == 0
    assert found.train_rmse == pytest.approx(0.01 * y.std().item(), rel=0.1)


def test_constant_columns_and_targets():
    x = uniform(80, 2)
    found = find_formula((torch.full_like(x, 2.0), x[:, :1]), networks=1, **QUIET)
    assert not found.formulas[0].free_symbols and is_finite(found)
    assert float(found.formulas[0]) == pytest.approx(x[:, 0].mean().item(), rel=1e-3)
    found = find_formula((x, torch.full_like(x[:, :1], 3.0)), networks=1, **QUIET)
    assert found.formulas == [3] and found.train_rmse < 1e-12


def test_rows_and_columns_that_occur_twice():
    x = uniform(60, 2, 0.5, 2.0)
    y = x[:, :1] * x[:, 1:]
    found = find_formula((x.repeat(4, 1), y.repeat(4, 1)), networks=1, **QUIET)
    assert str(found.formulas[0]) == "x_1*x_2"
    found = find_formula((x[:1].repeat(40, 1), y[:1].repeat(40, 1)), networks=1, **QUIET)
    assert not found.formulas[0].free_symbols and found.train_rmse < 1e-12
    found = find_formula(
        (torch.cat([x, x[:, :1]], dim=1).repeat(3, 1), x[:, :1].exp().repeat(3, 1)), networks=1, **QUIET
    )
    assert str(found.formulas[0]) in ("exp(x_1)", "exp(x_3)")


@pytest.mark.parametrize("rows", [2, 5])
def test_fewer_rows_than_numbers(rows):
    x = uniform(rows, 2)
    found = find_formula((x, x[:, :1].exp()), networks=1, **QUIET)
    assert is_finite(found)


def test_libraries_without_a_line_and_their_functions():
    x = uniform(120, 2, 0.5, 2.0)
    found = find_formula((x, torch.sin(3 * x[:, :1])), library=["sin", "exp"], networks=1, **QUIET)
    assert str(found.formulas[0]) == "sin(3*x_1)"
    found = find_formula((x[:, :1] - 1.2, torch.exp(x[:, :1])), library=["x"], networks=1, **QUIET)
    assert is_finite(found) and not found.formulas[0].atoms(sympy.Function)


def test_bad_input():
    with pytest.raises(ConfigError, match=r"inputs with names of their own, got \['x', 'x'\]"):
        kan_from_formula(X, variables=["x", "x"])
    with pytest.raises(ConfigError, match=r"The variable 'y' is not among the inputs \['x'\]"):
        kan_from_formula(X + Y, variables=["x"])
    with pytest.raises(ConfigError, match=r"gamma\(x\) cannot be an edge. The functions are: sin, tan"):
        kan_from_formula(sympy.gamma(X))
    x = torch.rand(30, 2, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"The last layer of find_formula's networks has sums only, got \[0, 1\]"):
        find_formula((x, x[:, :1]), width=[2, [0, 1]], **QUIET)
    with pytest.raises(ShapeError, match="with the same number of rows"):
        find_formula((x, x[:7, 0]), **QUIET)
    for value in (math.inf, -math.inf, math.nan):
        y = x[:, :1].clone()
        y[3] = value
        with pytest.raises(DataError, match=rf"The train targets are not finite in row 3, column 0: {value}"):
            find_formula((x, y), **QUIET)
        with pytest.raises(DataError, match=r"inputs are not finite in row 3"):
            find_formula((y, x[:, :1]), **QUIET)
    with pytest.raises(DataError, match="There are no samples"):
        find_formula((x[:0], x[:0, :1]), **QUIET)
    with pytest.raises(ConfigError, match="No function is named 'foo'.*choose from: x, x"):
        find_formula((x, x[:, :1]), library=["x", "foo"], **QUIET)
    with pytest.raises(ConfigError, match="The library has no functions"):
        find_formula((x, x[:, :1]), library=[], **QUIET)


def test_a_library_may_lack_the_line():
    x = torch.rand(80, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = find_formula((x, torch.sin(3 * x[:, :1]) + x[:, 1:] ** 2), library=["x**2", "sin"], **QUIET)
    assert result.train_rmse < 1e-9
    model = KAN([2, 1])
    model.fit((x, torch.sin(3 * x[:, :1]) + x[:, 1:] ** 2), steps=20, progress=False)
    assert model.fit_symbolic(x, library=["x^2", "sin", "sgn"]).fits.names == ["sin", "x^2"]


def test_targets_too_large_for_their_differences():
    x = torch.rand(100, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = find_formula((x, 1e7 + x), networks=1, progress=False)
    assert found.train_rmse < 1e-3
    model = KAN([2, 1])
    model.sparsify((x.expand(-1, 2).clone(), torch.full((100, 1), 3.0, dtype=torch.float64)))


def test_a_power_law_whose_factor_overflows():
    year = torch.linspace(1950, 2020, 60, dtype=torch.float64).unsqueeze(1)
    found = find_formula((year, torch.exp(-0.4 * (year - 1950))), networks=1, seconds=5, progress=False)
    assert math.isfinite(found.train_rmse)


@pytest.mark.parametrize("unit", [1e-27, 1e30])
def test_monomials_in_any_unit(unit):
    x = 0.5 + torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = unit * (x[:, 0] ** 2 + 3 * x[:, 0] * x[:, 1])
    names = ["a", "b"]
    forms = list(sums_of_monomials(x, y, names, SCIENCE_LIBRARY))
    values = [sympy.lambdify(sympy.symbols(names), form, "numpy")(*x.T.numpy()) for form in forms]
    assert any(np.abs(value - y.numpy()).max() < 1e-6 * unit for value in values)


def test_a_jump_is_found():
    x = torch.linspace(-1, 2, 60, dtype=torch.float64)[:, None]
    found = find_formula((x, 2 * torch.sign(x - 0.3) + 1), library=["x", "sign"], networks=1, **QUIET)
    assert found.formulas[0].has(sympy.sign) and found.train_rmse < 1e-12
