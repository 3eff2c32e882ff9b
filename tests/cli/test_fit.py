"""A table goes in, a formula in its own units and a picture come out."""

import json
import math
import re
import sys

import numpy
import pandas
import pytest
import sympy
import torch
from typer.testing import CliRunner

from kansformer.cli import fit
from kansformer.cli.app import app
from kansformer.errors import CheckpointError
from kansformer.figure import figure_class
from kansformer.kan import find_formula
from kansformer.kan.linear_formulas import fitted_line, is_linear, linear_in
from kansformer.kan.rounding import evaluate


@pytest.fixture
def table(tmp_path):
    rng = numpy.random.default_rng(0)
    frame = pandas.DataFrame({"length": rng.uniform(0.2, 3, 300), "mass": rng.uniform(1, 5, 300)})
    frame["period"] = 2 * numpy.pi * numpy.sqrt(frame["length"] / 9.81)
    frame["name"] = "pendulum"
    frame["same"] = 1.5
    return frame, tmp_path / "pendulum.csv"


def run(*arguments):
    return CliRunner().invoke(app, ["fit", *map(str, arguments)])


def test_the_formula_of_a_pendulum(table):
    frame, path = table
    frame.drop(columns="name").to_csv(path, index=False)
    result = run(path, "--target", "period")
    assert result.exit_code == 0, result.output
    found = re.search(r"period = ([\d.]+)\*sqrt\(length\)", result.output)
    assert found and float(found[1]) == pytest.approx(2 * numpy.pi / 9.81**0.5, abs=1e-3)
    assert "On 240 rows: R² 1.000000, RMSE" in result.output and "On 60 other rows: R² 1.000000" in result.output
    assert "same: left out, 1.5 in every row." in result.output
    assert path.with_suffix(".png").stat().st_size > 5000


def test_without_matplotlib_the_formula_is_printed_and_a_picture_that_is_asked_for_is_refused(table, monkeypatch):
    frame, path = table
    frame[["length", "period"]].to_csv(path, index=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    figure_class.cache_clear()
    result = run(path, "--target", "period")
    assert result.exit_code == 0, result.output
    assert "period = 2.006*sqrt(length)" in result.output
    assert "The network is not drawn. Pictures need matplotlib: pip install 'kansformer[plot]'." in result.output
    assert not path.with_suffix(".png").exists()
    refused = run(path, "--target", "period", "--figure", path.with_suffix(".svg"))
    assert refused.exit_code == 1 and "Pictures need matplotlib" in refused.output and "sqrt" not in refused.output


BAD = {
    "no table": (None, ["--target", "period"], "There is no table"),
    "no such column": (lambda f: f, ["--target", "speed"], "has no column 'speed'. Choose from: length, mass"),
    "text": (
        lambda f: f.assign(name=[f"no. {i}" for i in range(len(f))]),
        ["--target", "period"],
        "The column 'name' is text with 300 different values",
    ),
    "a gap": (
        lambda f: f.drop(columns="name").assign(mass=f["mass"].where(f.index != 6)),
        ["--target", "period"],
        "The column 'mass' has no value in row 8 (missing values in the table: 1)",
    ),
    "one row": (lambda f: f.drop(columns="name")[:1], ["--target", "period"], "has 1 row; a formula takes 20"),
    "constant target": (lambda f: f.drop(columns="name"), ["--target", "same"], "is 1.5 in every row"),
    "target as input": (lambda f: f, ["--target", "period", "--inputs", "period"], "other than the target 'period'"),
    "an input twice": (lambda f: f, ["--target", "period", "--inputs", "mass,mass"], "column 'mass' is there twice"),
    "no input varies": (lambda f: f, ["--target", "period", "--inputs", "same"], "No input varies: 'same'"),
    "a constant that was asked for": (
        lambda f: f,
        ["--target", "period", "--inputs", "mass,same"],
        "column 'same' has one value in every row",
    ),
    "excluded and used": (
        lambda f: f,
        ["--target", "period", "--exclude", "period"],
        "The column 'period' is to be used and is named by --exclude",
    ),
    "no folder for the output": (
        lambda f: f,
        ["--target", "period", "--output", "nowhere/x"],
        "no folder 'nowhere' for",
    ),
    "no folder": (lambda f: f, ["--target", "period", "--figure", "nowhere/x.png"], "no folder 'nowhere' for the"),
    "a folder as figure": (lambda f: f, ["--target", "period", "--figure", "/"], "'/' is a folder. Give the name of a"),
    "an unknown picture": (
        lambda f: f,
        ["--target", "period", "--figure", "x.foo"],
        "'x.foo' is not a picture that can be written. Choose one of: ",
    ),
    "unknown function": (
        lambda f: f.drop(columns="name"),
        ["--target", "period", "--functions", "sine"],
        "No function is named 'sine'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_a_sentence(case, table):
    make, arguments, message = BAD[case]
    frame, path = table
    if make is not None:
        make(frame).to_csv(path, index=False)
    result = run(path, *arguments)
    assert result.exit_code != 0 and message in re.sub(r"\s+", " ", result.output), result.output
    assert not path.with_suffix(".png").exists()


def test_no_file_replaces_the_table_or_another_one(tmp_path):
    path, link, output = tmp_path / "e.png", tmp_path / "link.json", tmp_path / "e.json"
    path.write_text("x,y\n1,2\n")
    link.symlink_to(path)
    for options, message in (
        (("--output", path), f"--output '{path}' is the table as well. Choose another file."),
        (("--output", link), f"--output '{link}' is the table as well."),
        (("--figure", tmp_path / "." / "e.png"), "is the table as well."),
        (("--figure", output, "--output", output), f"--output '{output}' is --figure as well."),
    ):
        result = run(path, "--target", "y", *options)
        assert result.exit_code == 1 and message in re.sub(r"\s+", " ", result.output), result.output
    assert path.read_text() == "x,y\n1,2\n" and not output.exists()


def test_a_picture_that_nobody_named_replaces_only_an_own_one(tmp_path, monkeypatch):
    x = numpy.linspace(0, 1, 40)
    path, picture = tmp_path / "line.csv", tmp_path / "line.png"
    pandas.DataFrame({"x": x, "y": 3 * x}).to_csv(path, index=False)
    arguments = (path, "--target", "y", "--networks", "1")
    picture.write_bytes(b"mine")
    message = f"The network is not drawn. '{picture}' is not a drawing of this command. --figure names another file."
    assert message in run(*arguments).output and picture.read_bytes() == b"mine"
    assert f"Drawn: {picture}" in run(*arguments, "--figure", picture).output
    assert f"Drawn: {picture}" in run(*arguments).output and picture.stat().st_size > 5000
    assert message in run(*arguments, "--output", picture).output and json.loads(picture.read_text())

    def refuse(file):
        raise CheckpointError(f"{str(file.parent)!r} cannot be written: Read-only file system.")

    picture.unlink()
    monkeypatch.setattr(fit, "check_file", refuse)
    result = run(*arguments)
    assert result.exit_code == 0 and "y = 3*x" in result.output and not picture.exists()
    assert "not drawn. " in result.output and "Read-only file system. --figure names another file." in result.output


def test_the_result_is_written_before_it_is_printed(tmp_path, monkeypatch):
    x = numpy.linspace(0, 1, 40)
    pandas.DataFrame({"α": x, "y": 3 * x}).to_csv(tmp_path / "line.csv", index=False)

    def fail(message):
        if message.startswith("y = "):
            raise UnicodeEncodeError("charmap", message, 0, 1, "no such character")

    monkeypatch.setattr("kansformer.cli.fit.typer.echo", fail)
    result = run(tmp_path / "line.csv", "--target", "y", "--networks", "1", "--output", tmp_path / "line.json")
    assert result.exit_code == 1 and json.loads((tmp_path / "line.json").read_text("utf-8"))["formula"] == "3*α"


def test_odd_columns_are_numbers(tmp_path):
    rng = numpy.random.default_rng(0)
    frame = pandas.DataFrame({"$_a_b_$": rng.uniform(0, 1, 40), "on": rng.uniform(size=40) < 0.5})
    frame["E"] = frame["$_a_b_$"] * 2 + frame["on"] * 1.0
    path = tmp_path / "odd.csv"
    frame.to_csv(path, index=False)
    result = run(path, "--target", "E", "--test-share", "0.01", "--networks", "1")
    assert result.exit_code == 0, result.output
    assert "E = " in result.output and "other rows" not in result.output  # 1 % of 40 rows is none


def test_an_indicator_is_linear_and_the_output_a_file(tmp_path):
    rng = numpy.random.default_rng(0)
    frame = pandas.DataFrame(
        {"area [m²]": rng.uniform(20, 200, 120), "color": rng.choice(["red", "green", "blue"], 120)}
    )
    frame["rent (€)"] = 3.5 * frame["area [m²]"] + 60 * (frame["color"] == "red") + 200
    path, output = tmp_path / "rents.csv", tmp_path / "rents.json"
    frame.to_csv(path, index=False, sep=";", decimal=",")
    result = run(path, "--target", "rent", "--output", output)
    assert result.exit_code == 0, result.output
    report = json.loads(output.read_text())
    terms = {"rent = 3.5*area + 60*[color = red] + 200", "rent = 60*[color = red] + 3.5*area + 200"}
    assert f"rent = {report['formula']}" in terms and f"rent = {report['formula']}\n" in result.output
    assert "This is linear in every input." in result.output and " €" in result.output
    assert report["train"]["rows"] == 96 and report["other"]["r2"] > 0.999999 and report["unit"] == "€"
    assert "color: 1 or 0 for 3 values" in report["notes"][2]


def test_a_straight_line_is_said_to_be_one(tmp_path):
    days = pandas.date_range("2021-01-01", periods=100)
    rng = numpy.random.default_rng(0)
    frame = pandas.DataFrame({"date": days, "level": 2.0 * numpy.arange(100) + 7 + 0.01 * rng.normal(size=100)})
    frame.to_csv(tmp_path / "level.csv", index=False)
    result = run(tmp_path / "level.csv", "--target", "level", "--networks", "1")
    assert re.search(r"level = 2(\.0+\d*)?\*date_days \+ [67]\.?\d*\nThis is a straight line.", result.output), (
        result.output
    )


def test_a_line_in_much_noise_is_printed_as_a_line(tmp_path):
    rng = numpy.random.default_rng(0)
    frame = pandas.DataFrame(rng.uniform(0, 3, (300, 3)), columns=["a", "b", "c"])
    frame["y"] = frame["a"] + 2 * frame["b"] + 3 * frame["c"] + 1 + 1.5 * rng.normal(size=300)
    frame.to_csv(tmp_path / "noise.csv", index=False)
    result = run(tmp_path / "noise.csv", "--target", "y", "--networks", "5", "--functions", "sin,exp")
    assert "This is linear in every input." in result.output, result.output
    assert re.search(r"y = [\d.]+\*a \+ [\d.]+\*b \+ [\d.]+\*c( [+-] [\d.]+)?\n", result.output), result.output


def test_the_time_is_limited(tmp_path):
    rng = numpy.random.default_rng(0)
    frame = pandas.DataFrame(rng.uniform(1, 3, (200, 3)), columns=["a", "b", "c"])
    frame["y"] = numpy.sin(frame["a"] * frame["b"]) / frame["c"] + rng.normal(size=200)
    frame.to_csv(tmp_path / "slow.csv", index=False)
    result = run(tmp_path / "slow.csv", "--target", "y", "--seconds", "0.2", "--output", tmp_path / "slow.json")
    assert result.exit_code == 0, result.output
    assert "The search ended early: 0.2 seconds were over." in result.output and "\ny = " in result.output
    report = json.loads((tmp_path / "slow.json").read_text())
    assert report["stopped"] == "0.2 seconds were over" and report["alternatives"][0].keys() == {
        "formula",
        "size",
        "rmse",
    }


def test_a_long_table_is_searched_on_a_part_and_judged_on_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "MAX_SEARCHED", 50)
    monkeypatch.setattr(fit, "CHUNK", 64)
    x = numpy.linspace(1, 3, 400)
    pandas.DataFrame({"x": x, "y": 3 * x - 1}).to_csv(tmp_path / "long.csv", index=False)
    result = run(tmp_path / "long.csv", "--target", "y")
    assert "A formula is searched on 50 rows, drawn at random, and judged on all others." in result.output
    assert "y = 3*x - 1" in result.output
    assert "On 50 rows: R² 1.000000" in result.output and "On 350 other rows: R² 1.000000" in result.output


def test_rows_without_a_value_are_counted_and_no_nan_is_printed():
    x = torch.tensor([[1.0], [2.0], [3.0], [-1.0]], dtype=torch.float64)
    errors = fit._judge(torch.sqrt, x, x)
    assert errors.rows == 3 and errors.undefined == 1 and math.isfinite(errors.rmse)
    assert errors.sentence("row", " m").endswith(" m (it has no value on 1 more).")
    assert fit._judge(torch.sqrt, x[3:], x[3:]).sentence("row", "").startswith("On 0 rows: R² unknown")


@pytest.mark.parametrize(("digits", "formula"), [(1, "3*x"), (4, "3.4*x")])
def test_the_errors_are_those_of_the_printed_formula(digits, formula, tmp_path):
    x = numpy.linspace(0, 1, 100)
    pandas.DataFrame({"x": x, "y": 3.4 * x}).to_csv(tmp_path / "line.csv", index=False)
    result = run(tmp_path / "line.csv", "--target", "y", "--digits", digits, "--output", tmp_path / "line.json")
    assert f"y = {formula}\n" in result.output and "Curves without names" not in result.output
    errors = json.loads((tmp_path / "line.json").read_text())["train"]
    assert errors["rmse"] == pytest.approx(0.22 if digits == 1 else 0, abs=0.02)
    assert errors["r2"] == pytest.approx(0.95 if digits == 1 else 1, abs=0.01)


@pytest.mark.parametrize(
    ("formula", "is_line"),
    [
        ("2*sin(3*b + 1) + x", True),  # 2·(sin 4 - sin 1)·b + 2·sin 1 + x
        ("exp(b)*x**2", True),
        ("log(b)*x", False),  # has no value at 0
        ("sqrt(b - 2) + x", False),
    ],
)
def test_functions_of_an_indicator_are_lines(formula, is_line):
    expression = sympy.sympify(formula)
    points = {"b": torch.tensor([0.0, 1, 1, 0], dtype=torch.float64), "x": torch.arange(4, dtype=torch.float64)}
    result = linear_in(expression.n(), ["b"], points)
    b = sympy.Symbol("b")
    if not is_line:
        assert result == expression.n()
    else:
        assert result.diff(b, 2) == 0 and b in result.free_symbols
        assert torch.allclose(evaluate(result, points), evaluate(expression, points))


def test_the_line_has_the_inputs_that_matter():
    generator = torch.Generator().manual_seed(0)
    level = torch.randint(3, (200,), generator=generator)
    x = torch.cat([torch.nn.functional.one_hot(level), torch.rand(200, 2, generator=generator)], dim=1).double()
    x[:, 4] = 7.0  # constant among the rows to search on
    noise = 0.1 * torch.randn(200, generator=generator, dtype=torch.float64)
    line = fitted_line(x, 60 * x[:, 1] + 2 * x[:, 3] + 5 + noise, ["blue", "red", "green", "area", "same"])
    assert {symbol.name for symbol in line.free_symbols} == {"red", "area"}
    assert float(line.subs({"red": 1, "area": 0})) == pytest.approx(65, abs=0.1)
    assert fitted_line(x, noise, ["blue", "red", "green", "area", "same"]) is None


@pytest.mark.parametrize(("bend", "is_line"), [(0.0, True), (0.01, True), (1.0, False)])
def test_a_line_is_found_unless_the_bend_is_seen(bend, is_line):
    x = torch.linspace(0, 1, 100, dtype=torch.float64).unsqueeze(-1)
    noise = 0.05 * torch.randn(100, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = find_formula((x, x + bend * x**2 + noise), networks=1, progress=False)
    assert is_linear(result.formulas[0]) == is_line


def test_what_is_linear():
    x, y = sympy.symbols("x y")
    assert is_linear(2 * x - y + 1) and not is_linear(x * y) and not is_linear(x**2) and not is_linear(sympy.Integer(3))
