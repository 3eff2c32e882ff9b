"""The picture."""

import pytest
from speed.plot import plot_rows
from speed.table import Row

from kansformer.errors import DataError


def rows(shape, **ratios):
    return [
        Row(suite="cpu", shape=shape, variant=name, measure=measure, ratio=ratio, ratio_lower=0.9 * ratio,
            ratio_upper=1.1 * ratio, baseline="MLP")
        for name, ratio in ratios.items()
        for measure in ("forward", "step")
    ]  # fmt: skip


def test_it_is_a_small_png_of_every_row(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure", reason="needs the extra `bench`")
    kept = []
    save = figure.Figure.savefig
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *a, **k: (kept.append(self), save(self, *a, **k)))
    path = tmp_path / "new" / "plot.png"
    plot_rows(rows("S", MLP=1.0, kansformer=0.5, pykan=40.0) + rows("L", MLP=1.0, kansformer=0.99), path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 150_000
    panels = kept[0].axes
    labels = [label.get_text() for label in panels[0].get_yticklabels()]
    assert labels == ["S (MLP = 1)", "kansformer", "pykan", "", "L (MLP = 1)", "kansformer"]
    assert [text.get_text() for text in panels[1].texts] == ["0.50", "40 →", "0.99"]
    assert max(bar.get_width() for bar in panels[0].patches) == 2.5


def test_nothing_to_draw_and_nothing_to_draw_with(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="There are no forward or step times to draw"):
        plot_rows(rows("S", MLP=1.0), tmp_path / "plot.png")
    monkeypatch.setattr("speed.plot.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"A plot needs matplotlib, .* pip install 'kansformer\[bench\]'"):
        plot_rows(rows("S", ours=1.0), tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())
