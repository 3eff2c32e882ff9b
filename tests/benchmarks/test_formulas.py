"""The benchmarks of formulas: equations are what the books print, and runs are judged, kept and repeated as said."""

import csv
import math

import by_hand
import formula_engines
import formulas
import numpy as np
import pytest
import sympy
import torch
from equations import EQUATIONS, FEYNMAN, TEXTBOOKS
from formula_engines import Budget, Result, expression_size, tidy
from formulas import Run

KNOWN = {  # values from tables and by hand
    "arrhenius": ((1e10, 6e4, 350.0), 1e10 * math.exp(-6e4 / (8.314 * 350)), 1e-12),
    "planck": ((0.5, 5800.0), 2.69e7, 0.01),  # the sun's peak
    "van der waals": ((1e-2, 300.0), 8.314 * 300 / (1e-2 - 4.267e-5) - 3640, 1e-6),
    "competitive inhibition": ((10.0, 1.0, 1.0, 0.0), 5.0, 1e-12),
    "hill": ((120.0, 2.7), 50.0, 1e-12),
    "nernst": ((310.15, 5.0, 140.0), -89.05, 1e-3),  # of potassium
    "goldman": ((5.0, 145.0, 140.0, 10.0), 26.73 * math.log(10.8 / 140.4), 1e-12),
    "antoine": ((100.0,), 760.0, 1e-3),
    "manning": ((2.0, 1.0, 1e-4, 0.02), 1.0, 1e-12),
    "stefan-boltzmann": ((1.0, 1000.0, 300.0), 56244.0, 1e-4),
    "tsiolkovsky": ((300.0, 1e4 * math.e, 1e4), 2941.995, 1e-6),
    "doppler": ((1.0, 0.6), 2.0, 1e-12),
    "impedance": ((50.0, 1e-2, 1e-6, 1 / (2 * math.pi * 1e-4)), 50.0, 1e-12),  # in resonance
    "morse": ((4.5, 1.9, 0.74, 0.74), 0.0, 1e-12),
    "butler-volmer": ((1.0, 0.5, 0.1), 2 * math.sinh(1.946), 1e-12),
    "langmuir": ((6.0, 0.5, 2.0), 3.0, 1e-12),
    "logistic growth": ((1000.0, 10.0, 0.5, 2 * math.log(99)), 500.0, 1e-12),
    "gaussian beam": ((0.0, 0.0, 1.0), 2 / math.pi, 1e-12),
    "compton": ((510.999, math.pi), 510.999 / 3, 1e-12),
    "cantilever": ((1000.0, 1.0, 1.0, 100.0), 1000 / (3 * 210e9 * 1e-6) * 1000, 1e-12),  # FL³/3EI at the tip
    "damped oscillation": ((10.0, 0.5, math.pi, 2.0), 10 * math.exp(-1), 1e-12),
    "swamee-jain": ((1e-4, 1e5), 0.0185, 0.01),  # Moody's chart
    "debye-hueckel": ((0.1, 0.6), 0.40, 0.02),  # Kielland's table: 0.405 of calcium
    "dew point": ((100.0, 25.0), 25.0, 1e-12),
    "wind chill": ((-10.0, 30.0), -20.0, 0.03),  # Environment Canada's table
    "barometric": ((5500.0,), 505.0, 2e-3),  # the standard atmosphere
    "diode": ((1e-9, 0.02585 * 2 * math.log(2), 2.0), 1e-9, 1e-9),
    "relativistic energy": ((510.999, 0.6), 510.999 / 4, 1e-12),
    "thin lens": ((50.0, 100.0), 100.0, 1e-12),
    "driven oscillator": ((6.0, 2.0, 3.0, 3.0, 0.5), 2.0, 1e-12),
    "great circle": ((0.0, 0.0, 0.5), 3185.5, 1e-12),
    "bateman": ((100.0, 1.0, 20.0, 0.5, 0.0), 0.0, 1e-12),
    "mean temperature difference": ((40.0 * math.e, 40.0), 40 * (math.e - 1), 1e-12),
    "bernoulli": ((1e5, 1000.0, 2.0, 0.0, 1.0, 0.0), 1e5 + 2000 + 9810, 1e-12),
    "fresnel": ((1.5, 0.0), 0.04, 1e-12),
    "thermistor": ((1e4,), 25.0, 1e-12),
}


def test_there_are_as_many_equations_as_promised():
    assert len(FEYNMAN) == 27 and len(TEXTBOOKS) >= 33
    assert len({equation.number for equation in EQUATIONS}) == len(EQUATIONS)
    assert {1, 2, 3, 4, 5, 6} == {len(equation.columns) for equation in EQUATIONS}


@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda equation: equation.number)
def test_an_equation_is_finite_and_is_its_formula(equation):
    data = equation.dataset()
    for x, y in ((data.train_input, data.train_target), (data.test_input, data.test_target)):
        assert torch.isfinite(y).all()
        values = formulas.values_of(equation.expression, equation, x.numpy())
        assert np.abs(values - y[:, 0].numpy()).max() <= 1e-12 * y.std().item()
    for column, x in zip(equation.columns, data.train_input.T, strict=True):
        assert column.lower <= x.min() and x.max() <= column.upper * (1 + 1e-12)
        assert equation.expression.has(equation.symbols[equation.columns.index(column)])


@pytest.mark.parametrize("equation", TEXTBOOKS, ids=lambda equation: equation.number)
def test_an_equation_has_the_value_of_the_book(equation):
    x, expected, tolerance = KNOWN[equation.number]
    value = equation(torch.tensor([x], dtype=torch.float64)).item()
    assert value == pytest.approx(expected, rel=tolerance, abs=1e-9 if expected == 0 else 0.0)


def test_noise_is_on_the_training_targets_only_and_does_not_depend_on_the_inputs():
    equation = next(equation for equation in EQUATIONS if equation.number == "langmuir")
    clean, noisy = equation.dataset(), equation.dataset(0.1)
    assert torch.equal(clean.test_target, noisy.test_target) and torch.equal(clean.train_input, noisy.train_input)
    noise = (noisy.train_target - clean.train_target)[:, 0] / clean.train_target.std()
    assert noise.std().item() == pytest.approx(0.1, rel=0.1)
    table = torch.cat([clean.train_input.T.log(), noise[None]])
    assert torch.corrcoef(table)[-1, :-1].abs().max() < 0.1
    p = clean.train_input[:, 2]
    assert ((p < 1).double().mean() - 0.5).abs() < 0.05  # 0.01 to 100 in the logarithm


@pytest.mark.parametrize(
    ("text", "size"), [("1.00001*x**2.0", 3), ("2*pi*x", 3), ("exp(x)*exp(2*y)", 6), ("x - 1.0*y", 5), ("x/y", 5)]
)
def test_sizes_do_not_depend_on_how_numbers_are_written(text, size):
    assert expression_size(sympy.sympify(text)) == size


def test_numbers_are_rounded():
    assert str(tidy(sympy.sympify("1.0000001*x + pi*y**2.0000001"))) == "x + 3.142*y**2"


def judged(monkeypatch, noise, result):
    monkeypatch.setitem(formulas.ENGINES, "stub", lambda data, symbols, budget: result(symbols))
    return formulas.measure(Run("I.13.12", noise, "stub", Budget(1, 5.0, 0)))


def test_the_textbook_formula_is_exact_and_has_the_right_form(monkeypatch):
    def textbook(symbols):
        return Result(symbols[0] * (1 / symbols[1] - 1), 1.0)

    row = judged(monkeypatch, 0.0, textbook)
    assert row["exact"] == "True" and row["right_form"] == "" and row["finite"] == "True"
    assert row["size"] == row["textbook_size"]
    row = judged(monkeypatch, 0.01, textbook)
    assert row["right_form"] == "True" and row["exact"] == ""
    assert set(row) == set(formulas.COLUMNS)


def test_a_close_formula_that_is_long_or_off_does_not_have_the_right_form(monkeypatch):
    def long(symbols):
        a, b = symbols
        return Result(a * (1 / b - 1) + sum(1e-9 * sympy.sin(k * a) for k in range(2, 9)), 1.0)

    assert float(judged(monkeypatch, 0.01, long)["relative_rmse"]) < 1e-6
    assert judged(monkeypatch, 0.01, long)["right_form"] == "False"
    row = judged(monkeypatch, 0.01, lambda s: Result(s[0] * (1.01 / s[1] - 1), 1.0))
    assert row["right_form"] == "False"


def test_a_formula_that_is_not_finite_is_counted(monkeypatch):
    row = judged(monkeypatch, 0.0, lambda s: Result(sympy.log(s[0] - 0.5), 1.0))
    assert row["finite"] == "False" and row["exact"] == "False"
    assert judged(monkeypatch, 0.0, lambda s: Result(s[0], 1.0, math.nan))["finite"] == "False"
    assert judged(monkeypatch, 0.0, lambda s: Result(sympy.nan, 1.0))["finite"] == "False"


def test_rows_are_kept_and_only_repeated_when_asked_for(monkeypatch, tmp_path, capsys):
    runs = []

    def stub(run):
        runs.append(run)
        shown = {"exact": "True", "right_form": "", "relative_rmse": "0", "shown_rmse": "0", "size": "7"}
        return formulas.head_of(run) | shown | {"seconds": "7.5", "finite": "True", "found": "x_1"}

    def command(*more):
        runs.clear()
        argv = ["formulas.py", "--only", "I.13.12", "doppler", "--noises", "0", "--out", str(tmp_path / "rows.csv")]
        monkeypatch.setattr("sys.argv", [*argv, *more])
        formulas.main()
        return [(run.number, run.engine, run.budget.seconds) for run in runs]

    monkeypatch.setattr(formulas, "in_a_process", stub)
    with pytest.raises(SystemExit, match="The time for pyoperon is that of kansformer, which has no row yet"):
        command("--engines", "pyoperon")
    assert command("--engines", "kansformer") == [(n, "kansformer", math.inf) for n in ("I.13.12", "doppler")]
    assert [run[1:] for run in command()] == [("pyoperon", 7.5), ("gplearn", 7.5)] * 2
    assert command() == []
    assert command("--fresh", "--engines", "gplearn", "--seconds", "3") == [
        (n, "gplearn", 3.0) for n in ("I.13.12", "doppler")
    ]
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 6
    capsys.readouterr()
    command("--summary")
    lines = capsys.readouterr().out.splitlines()
    assert "noise 0, kansformer, Feynman: exact of 1 1" in lines and "noise 0, pyoperon, new: exact of 1 1" in lines


def test_a_run_without_a_result_is_a_row_that_says_so():
    row = formulas.in_a_process(Run("I.13.12", 0.01, "none", Budget(1, 5.0, 0)))
    assert row["found"] == "KeyError: 'none'" and row["right_form"] == "False" and row["relative_rmse"] == "inf"


def test_the_peers_best_offer_has_fitted_constants_and_the_fewest_terms():
    equation = next(equation for equation in EQUATIONS if equation.number == "I.13.12")
    a, b = equation.symbols
    table = formula_engines._Scaled.of(equation.dataset(0.01), equation.symbols)
    offers = [a * b * sympy.Float(0.5), sympy.Float(1.7) * a / b - sympy.Float(1.3) * a + sympy.Float(0.01)]
    offers.append(offers[-1] + sympy.Float(0.001) * sympy.sin(a * sympy.Float(2.5)))
    expression = table.best(offers)
    assert expression_size(expression) == 9  # c·a/b - d·a
    error = formulas.values_of(expression, equation, equation.dataset().test_input.numpy())
    assert np.abs(error - equation.dataset().test_target.numpy()[:, 0]).max() < 1e-3


@pytest.mark.parametrize("engine", ["pyoperon", "gplearn"])
@pytest.mark.filterwarnings("default")
def test_a_peer_offers_a_finite_formula(engine):
    pytest.importorskip(engine, reason=f"{engine} is in the extra `bench`")
    equation = next(equation for equation in EQUATIONS if equation.number == "II.38.3")
    result = formula_engines.ENGINES[engine](equation.dataset(), equation.symbols, Budget(1, 0.5, 0))
    assert np.isfinite(formulas.values_of(result.expression, equation, equation.dataset().test_input.numpy())).all()


def test_the_page_is_what_is_measured_by_hand():
    row = by_hand.measure("docs", by_hand.documented, by_hand.QUICKSTART, 0)
    assert row.finite and row.test_rmse < 0.1, row.outcome
    assert "x_1" in row.outcome and "x_2" in row.outcome


def test_an_error_by_hand_is_a_miss():
    def flow(data, seed):
        raise ValueError("No edge\nis left.")

    row = by_hand.measure("flow", flow, by_hand.QUICKSTART, 0)
    assert not row.exact and row.outcome == "ValueError: No edge is left." and row.test_rmse == math.inf


@pytest.mark.parametrize(
    ("formula", "printed", "finite"),
    [
        ("exp(x_1)", "", True),
        ("log(x_1)", "", False),
        ("nan", "", False),
        ("exp(x_1)", "RMSE nan", False),
        ("exp(x_1)", "information", True),
    ],
)
def test_formulas_by_hand_are_checked_for_nan(formula, printed, finite):
    data = by_hand.create_dataset(lambda x: x[:, [0]], 2, num_train=20, num_test=20)
    outcome = by_hand.Outcome(sympy.sympify(formula), 0.0, printed)
    assert by_hand.is_finite(outcome, data) is finite
