"""From tables to formulas, and from formulas to networks."""

import pytest
import sympy
import torch

from kansformer.errors import ConfigError, DataError, ShapeError
from kansformer.kan import KAN, Dataset, Edge, SearchSettings, create_dataset, find_formula, kan_from_formula
from kansformer.kan.data import Scaling
from kansformer.kan.formula_search import shapes_for
from kansformer.kan.edge_symbols import name_one_by_one
from kansformer.kan.edges import cut_edges
from kansformer.kan.fitting import rmse
from kansformer.symbolic import ALL_SYMBOLS, LIBRARY, SCIENCE_LIBRARY

QUIET = {"progress": False}
X, Y, Z = sympy.symbols("x y z")


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
        shapes = shapes_for(inputs, 2)
        assert shapes[0].width == [inputs, 2] and all(shape.width[-1] == 2 for shape in shapes)
        for shape in shapes:
            straight = [formula[2].name for formula in shape.build(0, SearchSettings()).formulas[-1].edges()]
            assert straight == ["x"] * (2 * shape.width[-2][1] if shape.linear_products else 0)


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


def test_functions_of_formulas_are_known_by_name(tmp_path):
    assert {"arcsin", "arctanh", "cosh"} <= set(SCIENCE_LIBRARY.names) - set(LIBRARY.names)
    assert set(ALL_SYMBOLS.names) == {*SCIENCE_LIBRARY.names, *LIBRARY.names, "cos", "arccos", "sinh", "sigmoid"}
    model = kan_from_formula(sympy.asin(X / 2) + sympy.cosh(Y))
    again = KAN.load(model.save(tmp_path / "kan"))
    x = torch.rand(5, 2, dtype=torch.float64)
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    "formula",
    [
        sympy.exp(sympy.sin(sympy.pi * X) + Y**2),
        X * Y * Z + sympy.sqrt(X**2 + Y**2 + 1),
        sympy.cos(X) * sympy.exp(-Y) / (1 + Z**2),
        X**7 - 2,
        (X + 2) ** sympy.Rational(7, 3),
        X + sympy.sin(X) * X + X**2,
        sympy.log(X * Y + 2) / Z,
        sympy.atanh(X / 3) + abs(Y - 0.5),
        sympy.Integer(2),
        X**-5 + Y**2.0 + Z**33,
    ],
    ids=str,
)
def test_formulas_become_networks(formula):
    model = kan_from_formula(formula, variables=["x", "y", "z"])
    x = torch.rand(40, 3, dtype=torch.float64) + 0.1
    expected = sympy.lambdify((X, Y, Z), formula, "numpy")(*x.T.numpy())
    torch.testing.assert_close(model(x)[:, 0].detach(), torch.as_tensor(expected, dtype=torch.float64).expand(40))
    back = sympy.lambdify((X, Y, Z), model.formula(variables=["x", "y", "z"])[0], "numpy")(*x.T.numpy())
    torch.testing.assert_close(torch.as_tensor(back, dtype=torch.float64).expand(40), model(x)[:, 0].detach())


def test_several_outputs_keep_their_order_and_edges_become_curves():
    model = kan_from_formula([X * Y, X + Y, X**2])
    x = torch.rand(20, 2, dtype=torch.float64)
    expected = torch.stack([x.prod(1), x.sum(1), x[:, 0] ** 2], dim=1)
    torch.testing.assert_close(model(x).detach(), expected)
    edge = next(edge for edge in model.edges() if edge.layer == 0)
    model.unfix_symbol(edge)
    torch.testing.assert_close(model(x).detach(), expected, atol=1e-4, rtol=0)
    assert isinstance(edge, Edge) and model.curved(0).sum() == 1


def test_formulas_become_curves_where_their_inputs_are():
    model = kan_from_formula(sympy.exp(X**2) + sympy.sqrt(Y))
    x = torch.rand(50, 2, dtype=torch.float64) * torch.tensor([2.0, 5.0]) + 0.5
    outer = next(e for e in model.edges() if e.layer == 1 and model.formulas[1].symbols[e.input].name == "exp")
    model.unfix_symbol(outer, x)
    expected = torch.exp(x[:, :1] ** 2) + x[:, 1:].sqrt()
    assert (model(x).detach() - expected).abs().max() < 0.05 * expected.max()
    edge = next(edge for edge in kan_from_formula(sympy.sqrt(X)).edges())
    with pytest.raises(DataError, match="is not finite everywhere on its grid"):
        kan_from_formula(sympy.sqrt(X)).unfix_symbol(edge)


def test_variables_are_told_apart_by_name():
    model = kan_from_formula(sympy.Symbol("p", positive=True) ** 2)
    assert model(torch.tensor([[3.0]], dtype=torch.float64)).item() == 9
    for bad, match in [
        ("x", "must be a sympy expression"),
        (sympy.I * X, "not a real number"),
        (X * sympy.oo, "not a real"),
    ]:
        with pytest.raises(ConfigError, match=match):
            kan_from_formula(bad)


def test_constant_columns_do_no_harm():
    x = torch.rand(60, 2, dtype=torch.float64)
    x[:, 1] = 3.0
    found = find_formula((x, torch.exp(x[:, :1])), networks=3, **QUIET)
    assert found.train_rmse < 1e-9


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
    with pytest.raises(ShapeError, match="would be read as one sample"):
        find_formula((x, x[:, 0]), **QUIET)


def test_powers_with_any_exponent_are_edges(tmp_path):
    formula = sympy.cbrt(X * Y) + X ** sympy.Rational(5, 2) + sympy.sinh(Y) + sympy.acos(X / 9)
    model = kan_from_formula(formula)
    names = [symbol.name for formulas in model.formulas for symbol in formulas.symbols]
    assert {"x^(1/3)", "x^2.5", "sinh", "arccos"} < set(names) and "log" not in names
    again = KAN.load(model.save(tmp_path))
    x = 0.1 + torch.rand(9, 2, dtype=torch.float64)
    expected = sympy.lambdify([X, Y], formula, "numpy")(*x.T.numpy())
    torch.testing.assert_close(again.predict(x)[:, 0], torch.as_tensor(expected))


def test_a_library_may_lack_the_line():
    x = torch.rand(80, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = find_formula((x, torch.sin(3 * x[:, :1]) + x[:, 1:] ** 2), library=["x**2", "sin"], **QUIET)
    assert result.train_rmse < 1e-9
    model = KAN([2, 1])
    model.fit((x, torch.sin(3 * x[:, :1]) + x[:, 1:] ** 2), steps=20, progress=False)
    assert model.fit_symbolic(x, library=["x^2", "sin", "sgn"]).fits.names == ["sin", "x^2"]
