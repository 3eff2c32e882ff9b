"""Time of blocks with a curve for every edge, relative to an MLP with as many parameters."""

from __future__ import annotations

from matplotlib.figure import Figure

from scripts.pictures.rows import read_rows
from scripts.pictures.theme import NORMAL, SMALL, Theme

SHAPES = {
    "S": "256 → 1024",
    "L": "768 → 3072",
    "narrow": "256 → 128",
    "S16": "256 → 1024, fine grid",
    "S-bf16": "256 → 1024, bfloat16",
}
LIBRARIES = ("kansformer", "flashkan", "inkan")
MEASURES = {"forward": "forward", "step": "training step"}
BAR = 0.26


def draw(theme: Theme) -> Figure:
    """A panel per measure, a group of bars per shape, and a line where the MLP is."""
    timed = [row for row in read_rows("bench_cpu_amd_epyc.csv") if row["allocator"] == "memory kept"]
    rows = {(row["shape"], row["variant"], row["measure"]): row for row in timed}
    first = next(iter(rows.values()))
    processor, cores = first["device"], first["threads"]
    figure = theme.figure(5.4)
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    figure.subplots_adjust(left=0.285, right=0.985, top=0.87, bottom=0.23, wspace=0.08)
    colours = (theme.curve, theme.accent, theme.fourth)
    for axes, (measure, title) in zip(panels, MEASURES.items(), strict=True):
        for number, (library, colour) in enumerate(zip(LIBRARIES, colours, strict=True)):
            ratios = [float(rows[shape, library, measure]["ratio"]) for shape in SHAPES]
            places = [place + (number - 1) * BAR for place in range(len(SHAPES))]
            axes.barh(places, ratios, height=BAR * 0.88, color=colour, label=library)
            for place, ratio in zip(places, ratios, strict=True):
                axes.text(1.98, place, f"{ratio:.2f}", ha="right", va="center_baseline", fontsize=SMALL)
        axes.axvline(1, color=theme.text, linewidth=1.4)
        axes.text(1, -0.62, "MLP", ha="center", fontsize=SMALL)
        axes.set(xlim=(0, 2), ylim=(len(SHAPES) - 0.5, -0.5), xticks=[0, 0.5, 1, 1.5])
        axes.set_title(title, fontsize=NORMAL, pad=20)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
    panels[0].set_yticks(range(len(SHAPES)), SHAPES.values(), fontsize=SMALL)
    figure.text(0.5, 0.135, "time ÷ time of the MLP with as many parameters", ha="center", fontsize=SMALL)
    words = f"{processor}, {cores} cores, freed memory kept by the allocator"
    figure.text(0.5, 0.012, words, ha="center", fontsize=SMALL, color=theme.muted)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=3, bbox_to_anchor=(0.5, 0.045))
    return figure
