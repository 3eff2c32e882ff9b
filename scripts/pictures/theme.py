"""Colours and sizes that all pictures share.

A picture is 7 inches wide, which a page shows at about 700 pixels and a phone at about half of that: text of 12 points
is then 17 and 9 pixels high. Text stays text in the file; it is laid out with DejaVu Sans, which comes with matplotlib
and is wider than the fonts that readers have, so that nothing overlaps there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 7.0  # inches
SMALL, NORMAL, LARGE = 11.5, 13.0, 15.0  # points


@dataclass(frozen=True)
class Theme:
    """Colours for one kind of page, as #rrggbb.

    Args:
        name: `light` or `dark`, the end of the file's name.
        text, muted, faint: of words, of what is less important, and of lines that only guide the eye.
        panel: of boxes; a little off the page's background.
        before: what was there before training, always dashed.
        curve, accent, third, fourth: of what is shown; `curve` is for what was learned.
    """

    name: str
    text: str
    muted: str
    faint: str
    panel: str
    before: str
    curve: str
    accent: str
    third: str
    fourth: str

    def figure(self, height: float) -> Figure:
        """An empty figure of the common width; `height` in inches."""
        return Figure(figsize=(WIDTH, height))


LIGHT = Theme(
    name="light",
    text="#1f2328",
    muted="#59636e",
    faint="#d1d9e0",
    panel="#f3f5f8",
    before="#818b98",
    curve="#0969da",
    accent="#bc4c00",
    third="#1a7f37",
    fourth="#8250df",
)
DARK = Theme(
    name="dark",
    text="#f0f6fc",
    muted="#a3acb8",
    faint="#3d444d",
    panel="#252a33",
    before="#8b949e",
    curve="#58a6ff",
    accent="#f0883e",
    third="#3fb950",
    fourth="#bc8cff",
)
THEMES = (LIGHT, DARK)


@contextmanager
def drawing_in(theme: Theme) -> Iterator[None]:
    """matplotlib's settings for a theme, and for files that are the same to the byte each time."""
    settings = {
        "font.family": "DejaVu Sans",
        "font.size": NORMAL,
        "text.color": theme.text,
        "axes.facecolor": "none",
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.text,
        "axes.labelsize": NORMAL,
        "axes.titlesize": NORMAL,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "figure.facecolor": "none",
        "grid.color": theme.faint,
        "grid.linewidth": 0.8,
        "legend.fontsize": SMALL,
        "legend.frameon": False,
        "lines.linewidth": 2.0,
        "lines.solid_capstyle": "round",
        "savefig.facecolor": "none",
        "svg.fonttype": "none",
        "svg.hashsalt": "kansformer",
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.text,
        "ytick.labelcolor": theme.text,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
    }
    with matplotlib.rc_context(settings):
        yield


def empty_canvas(figure: Figure) -> Axes:
    """Axes over the whole figure whose unit is an inch, without an outline: for diagrams."""
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, figure.get_figwidth()), ylim=(0, figure.get_figheight()))
    axes.axis("off")
    return axes


def small_curve(axes: Axes, theme: Theme, left: float, bottom: float, width: float, height: float) -> Axes:
    """A box for a small curve on a canvas; place and size in inches."""
    box = axes.inset_axes((left, bottom, width, height), transform=axes.transData)
    box.set(xticks=[], yticks=[])
    box.spines[:].set_visible(False)
    box.patch.set(facecolor=theme.panel, edgecolor=theme.faint, linewidth=1.0)
    return box
