"""The verdict of the soak: what rises from the middle to the last third grows, noise does not."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "soak.py"
MEASURES = ("resident_mb", "open_files", "threads", "temporary_files", "tensors", "objects")


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(str(FILE.parent))
    for name in ("HF_HOME", "HF_HUB_OFFLINE", "TMPDIR"):  # which it sets for its process
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("tempfile.tempdir", None)
    spec = importlib.util.spec_from_file_location("soak", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    module.FOLDER.cleanup()


@pytest.mark.parametrize(
    ("name", "values", "verdict"),
    [
        ("open_files", [9 + i for i in range(12)], "grows"),
        ("open_files", [9, 12] + [10] * 10, "does not grow"),
        ("resident_mb", [500 + (i % 3) for i in range(12)], "does not grow"),
        ("resident_mb", [500 + 3 * i for i in range(12)], "grows"),
        ("temporary_files", [0] * 6 + [0, 1, 2, 3, 4, 5], "grows"),
        ("tensors", [5] * 8, "too few rounds"),
        ("tensors", [5], "too few rounds"),
    ],
)
def test_growth(soak, name, values, verdict):
    rows = [dict.fromkeys(MEASURES, "1") | {name: str(value)} for value in values]
    table = {cells[0]: cells[-1] for cells in soak.judge(rows)}
    assert table.pop(name) == verdict and len(set(table.values()) - {"does not grow", "too few rounds"}) == 0
