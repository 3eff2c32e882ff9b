"""The program of the documentation's pictures draws one for both themes: small files of text, the same each time."""

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs the extra plot: pip install 'kansformer[plot]'")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def draw(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from scripts.pictures.__main__ import main

    return main


def test_a_picture_is_drawn_for_both_themes_and_the_same_each_time(draw, tmp_path):
    for folder in ("one", "two"):
        draw(["bspline", "--out", str(tmp_path / folder)])
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["bspline-dark.svg", "bspline-light.svg"]
    for name in files:
        text = (tmp_path / "one" / name).read_text(encoding="utf-8")
        assert text == (tmp_path / "two" / name).read_text(encoding="utf-8")
        assert ">B-splines of order 3, with a coefficient for each</text>" in text and "sans-serif" in text
        assert "DejaVu" not in text and len(text) < 150_000


@pytest.mark.skipif(not (ROOT / "benchmarks" / "results").exists(), reason="a source distribution has no results")
def test_the_picture_of_speed_shows_the_rows_of_the_processor_that_it_names(draw, tmp_path):
    draw(["speed", "--out", str(tmp_path)])
    text = (tmp_path / "speed-light.svg").read_text(encoding="utf-8")
    assert ">AMD EPYC, 2 cores, freed memory kept by the allocator</text>" in text
    assert ">0.59</text>" in text and ">1.44</text>" in text  # kansformer at S, inkan at narrow


def test_a_name_that_is_not_a_picture_is_refused_with_the_choices(draw, tmp_path, capsys):
    with pytest.raises(SystemExit):
        draw(["bspline", "nonsense", "--out", str(tmp_path)])
    assert "unknown picture 'nonsense'; choose from: swap, curves, bspline" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
