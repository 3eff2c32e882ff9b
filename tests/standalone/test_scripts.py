"""The scripts of `scripts/kan` run as their headers say, and reach the figures that they state."""

import re
import runpy
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

mpl.use("Agg")
FOLDER = Path(__file__).resolve().parents[2] / "scripts" / "kan"
# Together they take longer than the other tests of stand-alone networks.
SLOW = {"quickstart", "grid_extension", "poisson", "gravitation", "pendulum", "symmetry"}

# The last figure that matches, and its bounds.
FIGURES = [
    ("quickstart", (), r"test RMSE (\S+)$", 0, 1e-12),
    ("multiplication", (), r"\[2, \[0, 1\], 1\]: .* test RMSE (\S+)$", 0, 1e-12),
    ("grid_extension", (), r"slope from grid 5 to 50: (\S+)$", -5, -3.5),
    ("five_peaks", (), r"RMSE on the whole line: (\S+)$", 0, 1e-5),
    ("moons", (), r"formula: accuracy (\S+)$", 0.95, 1),
    ("poisson", ("--seed", "3"), r"grid 20: mean squared error (\S+)$", 0, 1e-8),
    ("velocities", (), r"formula: test RMSE (\S+)$", 0, 1e-12),
    ("gravitation", (), r"relative test error (\S+)$", 0, 1e-10),
    ("pendulum", ("--seed", "3"), r"formula: error of the rates (\S+)$", 0, 1e-12),
    ("symmetry", (), r"product of inputs 0 and 1, error (\S+)$", 0, 0.05),
    ("editing", ("--out", "pictures", "--pictures", "3"), r"test RMSE (\S+)$", 0, 1e-12),
]


def test_every_script_is_tested_and_listed():
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    assert names == sorted(name for name, *_ in FIGURES)
    table = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    for name in names:
        header = (FOLDER / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
        assert (f"    python scripts/kan/{name}.py" in header and "Prints" in header) or "prints" in header
        assert f"`kan/{name}.py`" in table


@pytest.mark.parametrize(
    ("name", "arguments", "figure", "lower", "upper"),
    [pytest.param(*row, id=row[0], marks=[pytest.mark.slow] * (row[0] in SLOW)) for row in FIGURES],
)
def test_figures(name, arguments, figure, lower, upper, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    output = capsys.readouterr().out
    values = re.findall(figure, output, flags=re.MULTILINE)
    assert values and lower <= float(values[-1]) <= upper, output
    if name == "editing":
        assert len(list((tmp_path / "pictures").glob("*.png"))) == 3
