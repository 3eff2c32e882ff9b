"""The table of fits: formulas, functions, rows and the way through JSON say the same."""

import json

import numpy
import pytest
import torch

from kansformer.errors import ConfigError, ShapeError
from kansformer.symbolic import LIBRARY, Symbol, SymbolicFits, fit_symbolic

U = torch.linspace(-1, 1, 32, dtype=torch.float64)


@pytest.fixture(scope="module")
def fits():
    y = torch.stack([torch.sin(4 * U) + 2, torch.sqrt(U + 1.1), 0 * U + 0.5])
    return fit_symbolic((3 * U).expand(3, -1), y)


def test_formula_and_functions_agree(fits):
    import sympy

    x = torch.tensor([-2.5, 0.1, 2.0], dtype=torch.float64)
    for index in range(3):
        values = fits.function(index)(x)
        formula = fits.formula(index)
        assert values.tolist() == pytest.approx(
            [float(formula.subs(sympy.Symbol("x", real=True), v)) for v in x.tolist()]
        )
        numpy.testing.assert_array_equal(fits.numpy_function(index)(x.numpy()), values.numpy())
    whole = numpy.array([-2, 0, 2])
    numpy.testing.assert_allclose(fits.numpy_function(0)(whole), fits.numpy_function(0)(whole.astype(float)))
    assert "sin" in fits.latex(0) and fits.latex(2) == "0.5"


def test_outside_the_domain_there_is_no_value(fits):
    assert fits.function(1)(torch.tensor([-4.0, 3.0])).isnan().tolist() == [True, False]


def test_rows(fits):
    table = fits.to_pandas()
    assert table["name"].tolist() == ["sin", "sqrt", "constant"]
    assert table["complexity"].tolist() == [2, 2, 0]
    assert fits.families() == {"sin": 1, "sqrt": 1, "constant": 1}
    assert fits.coverage() == 1.0
    assert str(fits) == "3 curves: sin 1, sqrt 1, constant 1. R² ≥ 0.99 on unseen points: 100.0%."
    assert fits[1:].names == ["sqrt", "constant"]
    with pytest.raises(ShapeError, match="There are 3 fits, so x must be"):
        fits.evaluate(U)


def test_round_trip_through_json(fits):
    values = json.loads(json.dumps(fits.to_dict()))
    again = SymbolicFits.from_dict(values)
    assert again.names == fits.names and torch.equal(again.params, fits.params) and torch.equal(again.r2, fits.r2)
    with pytest.raises(ConfigError, match="No function is named 'cosh'"):
        SymbolicFits.from_dict({**values, "name": ["cosh"] * 3})
    own = LIBRARY.with_symbol(Symbol(name="cosh", function=torch.cosh, sympy=lambda z: z, complexity=3))
    assert SymbolicFits.from_dict({**values, "name": ["cosh"] * 3}, own).names == ["cosh"] * 3
    with pytest.raises(ConfigError, match=r"'x\^2.5' is not in the library"):
        SymbolicFits.from_dict({**values, "name": ["x^2.5"] * 3})
    with pytest.raises(ConfigError, match="A table of fits has the columns"):
        SymbolicFits.from_dict({"name": []})
