"""The contest compares what it says: equal parameters, pairs of seeds, and time taken into account."""

import math
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def contest(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "contest"]:
        del sys.modules[name]


def test_every_network_has_as_many_parameters_within_one_percent():
    from contest.variants import FFN_PARAMETERS, VARIANTS, count_ffn, recipe_of

    for name, variant in VARIANTS.items():
        recipe = recipe_of(variant, text="none.txt", steps=10, seed=0)
        count = count_ffn(recipe.to_dict(), recipe.model.config["intermediate_size"])
        assert abs(count / FFN_PARAMETERS - 1) <= 0.01, name


def test_the_default_is_that_of_the_library():
    from contest.variants import DEFAULT, VARIANTS, recipe_of

    from kansformer import KANConfig

    recipe = recipe_of(VARIANTS[DEFAULT], text="none.txt", steps=10, seed=0)
    assert recipe.kan.config == KANConfig.from_scratch()


def test_differences_are_paired_by_seed():
    from paired import paired_difference

    found = paired_difference({1: 2.0, 2: 3.1, 3: 9.0}, {1: 1.0, 2: 2.0, 4: 0.0})
    assert found.pairs == 2 and found.mean == pytest.approx(1.05)
    # Two pairs, differences 1.0 and 1.1: t = 21 with one degree of freedom.
    assert found.p == pytest.approx(2 * (0.5 - math.atan(21.0) / math.pi), rel=1e-6)
    assert math.isnan(paired_difference({1: 2.0}, {1: 1.0}).p)
    assert paired_difference({}, {1: 1.0}).pairs == 0


def test_at_equal_time_the_faster_one_trains_longer():
    from contest.statistics import at_equal_time

    baseline = {1000: {1: 2.0}, 2000: {1: 1.8}}
    assert at_equal_time(baseline, 1000, 1.0)[1] == pytest.approx(2.0)
    assert at_equal_time(baseline, 1000, 2.0)[1] == pytest.approx(1.8)
    assert at_equal_time(baseline, 1000, math.sqrt(2))[1] == pytest.approx(1.9)


def test_rows_survive_the_file(tmp_path):
    from contest.runs import Row
    from dataclass_csv import append_row, read_rows

    row = Row("swiglu", 1200, 1000, 2e-3, 1.7, 344, 132096, 800000, 99.5, "abc torch 2")
    append_row(tmp_path / "rows.csv", row)
    append_row(tmp_path / "rows.csv", row)
    assert read_rows(tmp_path / "rows.csv", Row) == [row, row]
    assert read_rows(tmp_path / "none.csv", Row) == []
