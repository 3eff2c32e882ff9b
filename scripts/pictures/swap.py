"""What the library does: a feed-forward block before the swap, after it, and after training."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from scripts.pictures.embedded_curves import learned_activations
from scripts.pictures.theme import LARGE, NORMAL, SMALL, Theme, empty_canvas, small_curve

CHANNELS = (49, 352, 387)
STAGES = (
    ("pretrained", "one SiLU for all"),
    ("converted", "a curve per channel"),
    ("trained", "the curves are bent"),
)
HEIGHT = 4.5
# Inches, from the left and from the bottom.
COLUMN, SPACE, LEFT = 1.66, 0.9, 0.11
LOGITS, SECOND, ACTIVATION, FIRST, INPUT = 0.5, 1.0, 1.67, 3.18, 3.78
LINEAR_HEIGHT, CELL_HEIGHT = 0.42, 1.25
CELL, GAP = 0.5, 0.08


def draw(theme: Theme) -> Figure:
    """Three columns from the input above to the logits below; the curves are those of a real model."""
    figure = theme.figure(HEIGHT)
    canvas = empty_canvas(figure)
    for index, (title, words) in enumerate(STAGES):
        left = LEFT + index * (COLUMN + SPACE)
        middle, cells = left + COLUMN / 2, [left + cell * (CELL + GAP) for cell in range(len(CHANNELS))]
        canvas.text(middle, HEIGHT - 0.3, title, ha="center", fontsize=LARGE, fontweight="bold")
        canvas.text(middle, HEIGHT - 0.54, words, ha="center", fontsize=SMALL, color=theme.muted)
        for bottom in (FIRST, SECOND):
            _draw_linear(canvas, theme, left, bottom)
        _draw_activations(canvas, theme, index, left, cells)
        lanes = [middle] if index == 0 else [cell + CELL / 2 for cell in cells]
        for x in lanes:
            _draw_arrow(canvas, theme, (x, FIRST), (x, ACTIVATION + CELL_HEIGHT))
            _draw_arrow(canvas, theme, (x, ACTIVATION), (x, SECOND + LINEAR_HEIGHT))
        _draw_arrow(canvas, theme, (middle, INPUT + 0.08), (middle, FIRST + LINEAR_HEIGHT))
        _draw_arrow(canvas, theme, (middle, SECOND), (middle, LOGITS + 0.2))
        canvas.text(middle, LOGITS, "logits" if index < 2 else "new logits", ha="center", fontsize=NORMAL)
    for index, verb in enumerate(("convert", "train")):
        start = LEFT + (index + 1) * COLUMN + index * SPACE
        y = ACTIVATION + CELL_HEIGHT / 2
        canvas.text(start + SPACE / 2, y + 0.12, verb, ha="center", color=theme.accent, fontweight="bold")
        _draw_arrow(canvas, theme, (start + 0.08, y), (start + SPACE - 0.08, y), theme.accent, 2.4)
    between = LEFT + COLUMN + SPACE / 2
    canvas.text(between, LOGITS - 0.02, "=", ha="center", color=theme.third, fontsize=20, fontweight="bold")
    canvas.text(between, LOGITS - 0.36, "identical, bit for bit", ha="center", color=theme.third, fontweight="bold")
    return figure


def _draw_linear(canvas: Axes, theme: Theme, left: float, bottom: float) -> None:
    style = "round,pad=0,rounding_size=0.08"
    box = FancyBboxPatch((left, bottom), COLUMN, LINEAR_HEIGHT, style, fc=theme.panel, ec=theme.muted, lw=1.2)
    canvas.add_patch(box)
    canvas.text(left + COLUMN / 2, bottom + LINEAR_HEIGHT / 2, "linear", ha="center", va="center_baseline")


def _draw_activations(canvas: Axes, theme: Theme, index: int, left: float, cells: list[float]) -> None:
    x_S, y_ES, silu_S = learned_activations(CHANNELS)
    if index == 0:
        box = small_curve(canvas, theme, left, ACTIVATION, COLUMN, CELL_HEIGHT)
        box.plot(x_S, silu_S, color=theme.before, linewidth=2.6)
        box.set(ylim=(-1.5, 5.0))
        box.text(0.08, 0.76, "SiLU", color=theme.muted, transform=box.transAxes)
        return
    for edge, cell in enumerate(cells):
        box = small_curve(canvas, theme, cell, ACTIVATION, CELL, CELL_HEIGHT)
        if index == 2:
            box.plot(x_S, silu_S, "--", color=theme.before, linewidth=1.6)
        box.plot(x_S, silu_S if index == 1 else y_ES[edge], color=theme.curve, linewidth=2.6)
        box.set(ylim=(-1.5, 5.0))


def _draw_arrow(
    canvas: Axes,
    theme: Theme,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str | None = None,
    linewidth: float = 1.4,
) -> None:
    style = {"arrowstyle": "-|>", "color": colour or theme.muted, "linewidth": linewidth, "shrinkA": 1, "shrinkB": 1}
    canvas.annotate("", end, start, arrowprops=style)
