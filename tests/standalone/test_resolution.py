"""How finely columns are written; a formula of rounded numbers is found without a search for their rounding errors."""

import math

import pandas
import pytest
import torch

from kansformer.kan import create_dataset, find_formula
from kansformer.kan.formula_search import FormulaSearch
from kansformer.kan.resolution import decimal_error, float_error

UNIT = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STEP = 1 / math.sqrt(12)
COLUMNS = {
    "3 decimals": ((10 * UNIT).round(decimals=3), 1e-3 * STEP),
    "1 decimal": ((100 * UNIT).round(decimals=1), 0.1 * STEP),
    "2 decimals in float32": ((10 * UNIT).round(decimals=2).float().double(), 0.01 * STEP),
    "3 significant digits of values from 1 to 10": (
        torch.tensor([float(f"{value:.2e}") for value in (1 + 8.9 * UNIT).tolist()]),
        0.01 * STEP,
    ),
    "other units": ((10 * UNIT).round(decimals=3) * 1e-9, 1e-12 * STEP),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_rounded_numbers_are_seen(case):
    column, error = COLUMNS[case]
    assert decimal_error(column.double()) == pytest.approx(error, rel=1e-6)


EXACT = {
    "float64": UNIT,
    "whole numbers": (100 * UNIT).round(),
    "large whole numbers": 8_000_000 + (100 * UNIT).round(),
    "halves": (100 * UNIT).round() / 2,
    "multiples of 0.05": (100 * UNIT).round() * 0.05,
    "zeros": torch.zeros(5, dtype=torch.float64),
}


@pytest.mark.parametrize("case", EXACT)
def test_exact_numbers_are_not_taken_for_rounded_ones(case):
    assert decimal_error(EXACT[case]) == 0
    assert float_error(EXACT[case]) <= 1e-6 * float(EXACT[case].abs().max())


@pytest.mark.parametrize("change", [lambda y: y.float(), lambda y: y.round(decimals=1)], ids=["float32", "1 decimal"])
def test_no_network_follows_the_rounding_errors(change, monkeypatch):
    monkeypatch.setattr(FormulaSearch, "_network", lambda *_: pytest.fail("the formula is known already"))
    data = create_dataset(lambda x: x[:, :1] * x[:, 1:] ** 2 / 2, num_inputs=2, ranges=(1, 9), num_train=200)
    table = pandas.DataFrame(data.train_input.numpy(), columns=["m", "v"])
    result = find_formula((table, change(data.train_target)), progress=False)
    assert str(result.formulas[0]) == "m*v**2/2"


def test_exact_numbers_with_one_decimal_have_the_exact_formula():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 6, (2, 60), generator=generator).double()
    y = (0.7 * a**2 - 0.3 * a * b + 1.1).round(decimals=1)
    result = find_formula((torch.stack([a, b], dim=1), y), progress=False)
    assert result.train_rmse < 1e-10 and len(result.formulas[0].args) == 3
