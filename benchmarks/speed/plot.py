"""One picture of a suite: time in units of the baseline, a bar per variant, a group per shape."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from kansformer.errors import DataError
from speed.allocator import KEPT
from speed.table import Row

OURS, PLAIN, PLAIN_TEXT, PEER = "#d1495b", "#9aa5b1", "#5f6b78", "#30638e"
MEASURES = {"forward": "forward", "step": "forward and backward"}
LEFT_OUT = ("MLP, same shape", "kansformer (-2, 2)")
"""Rows of the table that would only crowd the picture: far fewer parameters, and nearly the same bar."""

MAX_RATIO = 2.5
"""Bars end here, with their number in them: a peer that is fifty times slower must not hide the others."""


def plot_rows(rows: Sequence[Row], path: Path) -> None:
    """Draw the time ratios of rows into a PNG: those with memory kept where there are such.

    Raises:
        DataError: there is nothing to draw, or matplotlib is missing.
    """
    drawn = [row for row in rows if row.measure in MEASURES and row.ratio is not None]
    drawn = [row for row in drawn if row.variant not in (row.baseline, *LEFT_OUT)]
    if any(row.allocator == KEPT for row in drawn):
        drawn = [row for row in drawn if row.allocator == KEPT]
    if not drawn:
        raise DataError("There are no forward or step times to draw: the model suite has a table only.")
    require_matplotlib()
    from matplotlib.figure import Figure

    lines = _lines(drawn)
    by_key = {(row.shape, row.variant, row.measure): row for row in drawn}
    end = min(MAX_RATIO, max(1.3, 1.12 * max(row.ratio_upper or 0 for row in drawn)))

    figure = Figure(figsize=(9.5, 0.8 + 0.23 * len(lines)), dpi=100, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (measure, title) in zip(panels, MEASURES.items(), strict=True):
        for place, (shape, variant) in enumerate(lines):
            if (row := by_key.get((shape, variant, measure))) is not None:
                _draw_bar(panel, place, row, end)
        panel.axvline(1, color="black", linewidth=1.2, zorder=3)
        panel.set_xlim(0, end)
        panel.set_ylim(len(lines) - 0.4, -0.6)
        panel.set_title(title, fontsize=10, loc="left", fontweight="bold")
        panel.set_xlabel("time / time of the baseline: shorter is faster", fontsize=8.5)
        panel.tick_params(axis="both", labelsize=8.5, length=0)
        panel.grid(axis="x", color="#e4e7eb", linewidth=0.8)
        panel.set_axisbelow(True)
        for spine in panel.spines.values():
            spine.set_visible(False)
    panels[0].set_yticks(range(len(lines)), [variant for _, variant in lines])
    for label, (shape, variant) in zip(panels[0].get_yticklabels(), lines, strict=True):
        heading = not shape
        label.set_color("black" if heading else _colour(variant, text=True))
        label.set_fontweight("bold" if heading or variant.startswith("kansformer") else "normal")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _lines(drawn: Sequence[Row]) -> list[tuple[str, str]]:
    """Shape and variant of every line from the top; a heading has no shape, and an empty line neither."""
    lines: list[tuple[str, str]] = []
    for shape in dict.fromkeys(row.shape for row in drawn):
        own = [row for row in drawn if row.shape == shape]
        lines += [("", "")] if lines else []
        lines.append(("", f"{shape} ({own[0].baseline} = 1)"))
        lines += [(shape, variant) for variant in dict.fromkeys(row.variant for row in own)]
    return lines


def require_matplotlib() -> None:
    """Check that a picture can be drawn, before an hour is spent on its numbers.

    Raises:
        DataError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise DataError("A plot needs matplotlib, which is not installed: pip install 'kansformer[bench]'.")


def _draw_bar(panel, place: int, row: Row, end: float) -> None:
    quartiles = row.quartiles
    assert quartiles is not None
    panel.barh(place, min(quartiles.median, end), height=0.74, color=_colour(row.variant), zorder=2)
    text = f"{quartiles.median:.2f}" if quartiles.median < 10 else f"{quartiles.median:.0f}"
    if quartiles.upper > 0.93 * end:
        panel.text(0.985 * end, place, f"{text} →", va="center", ha="right", fontsize=7.5, color="white", zorder=5)
        return
    whisker = [[quartiles.median - quartiles.lower], [quartiles.upper - quartiles.median]]
    panel.errorbar(quartiles.median, place, xerr=whisker, color="black", linewidth=0.9, capsize=2, zorder=4)
    ground = dict(facecolor="white", edgecolor="none", pad=0.6)  # over the line at 1
    panel.text(quartiles.upper + 0.02 * end, place, text, va="center", fontsize=7.5, zorder=5, bbox=ground)


def _colour(variant: str, text: bool = False) -> str:
    if variant.startswith("kansformer"):
        return OURS
    if variant.startswith(("MLP", "SwiGLU", "reference")):
        return PLAIN_TEXT if text else PLAIN
    return PEER
