"""Activations of a small language model: what they were, what training made of them, and where their inputs lie."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scripts.pictures.embedded_curves import SITE, model_and_records, most_bent
from scripts.pictures.theme import SMALL, Theme

ROWS, COLUMNS, BINS = 2, 3, 24


def draw(theme: Theme) -> Figure:
    """Six channels of one layer: SiLU dashed, the learned curve, and the share of inputs behind them."""
    curves = most_bent(ROWS * COLUMNS)
    sample_NI = model_and_records()[1][SITE, "act"].sample
    figure = theme.figure(4.9)
    panels = figure.subplots(ROWS, COLUMNS).flat
    figure.subplots_adjust(left=0.09, right=0.985, top=0.94, bottom=0.2, wspace=0.22, hspace=0.42)
    for index, axes in enumerate(panels):
        x_S, y_S, channel = curves.x[index], curves.y[index], int(curves.inputs[index])
        behind = axes.twinx()
        behind.axis("off")
        ends = (float(x_S[0]), float(x_S[-1]))
        bars = behind.hist(sample_NI[:, channel].float(), BINS, ends, color=theme.faint)[2]
        axes.set_zorder(behind.get_zorder() + 1)
        (before,) = axes.plot(x_S, y_S - curves.learned[index], "--", color=theme.before, linewidth=1.8)
        (after,) = axes.plot(x_S, y_S, color=theme.curve, linewidth=2.6)
        axes.set_title(f"channel {channel}", fontsize=SMALL, pad=4)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.tick_params(length=2)
    figure.text(0.54, 0.095, "input of the activation", ha="center")
    figure.text(0.025, 0.58, "output", va="center", ha="center", rotation=90, rotation_mode="anchor")
    names = ["SiLU, as it was", "after training", "its inputs (relative number)"]
    figure.legend([before, after, bars[0]], names, loc="lower center", ncols=3, columnspacing=1.4, handlelength=1.8)
    return figure
