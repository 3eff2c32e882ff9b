"""A table goes in, a formula in its own units and a picture come out."""

import re

import numpy
import pandas
import pytest
from typer.testing import CliRunner

from kansformer.cli.app import app


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
    assert "R² 1.000000 (on 60 other rows 1.000000)" in result.output
    assert path.with_suffix(".png").stat().st_size > 5000


BAD = {
    "no table": (None, ["--target", "period"], "There is no table"),
    "no such column": (lambda f: f, ["--target", "speed"], "has no column 'speed'. Choose from: length, mass"),
    "text": (lambda f: f, ["--target", "period"], "The column 'name' is not numeric. Leave it out"),
    "a gap": (
        lambda f: f.drop(columns="name").assign(mass=f["mass"].where(f.index != 6)),
        ["--target", "period"],
        "The column 'mass' has no value in row 7",
    ),
    "one row": (lambda f: f.drop(columns="name")[:1], ["--target", "period"], "has 1 rows; a formula takes 20"),
    "constant target": (lambda f: f.drop(columns="name"), ["--target", "same"], "is 1.5 in every row"),
    "target as input": (lambda f: f, ["--target", "period", "--inputs", "period"], "other than the target 'period'"),
    "an input twice": (lambda f: f, ["--target", "period", "--inputs", "mass,mass"], "column 'mass' is there twice"),
    "no input varies": (lambda f: f, ["--target", "period", "--inputs", "same"], "No input varies: 'same'"),
    "a constant that was asked for": (
        lambda f: f,
        ["--target", "period", "--inputs", "mass,same"],
        "column 'same' has one value in every row",
    ),
    "no folder": (lambda f: f, ["--target", "period", "--figure", "nowhere/x.png"], "no folder 'nowhere' for the"),
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


def test_odd_columns_are_numbers(tmp_path):
    rng = numpy.random.default_rng(0)
    frame = pandas.DataFrame({"$_a_b_$": rng.uniform(0, 1, 40), "on": rng.uniform(size=40) < 0.5})
    frame["E"] = frame["$_a_b_$"] * 2 + frame["on"] * 1.0
    path = tmp_path / "odd.csv"
    frame.to_csv(path, index=False)
    result = run(path, "--target", "E", "--test-share", "0.01", "--networks", "1")
    assert result.exit_code == 0, result.output
    assert "E = " in result.output and "other rows" not in result.output  # 1 % of 40 rows is none
