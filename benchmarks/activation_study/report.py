"""The study's page and picture, made from its rows."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paired import Difference, format_p, mean_and_deviation, paired_difference

from activation_study.engine import Run
from activation_study.rows import Row, losses, rates_of
from activation_study.stages import CONTROLS
from activation_study.times import StepTime
from activation_study.variants import VARIANTS

HEADER = (
    "network",
    "pairs",
    "validation loss",
    "Δ to SwiGLU (sd)",
    "p",
    "p, Holm",
    "steps of SwiGLU for this loss",
    "learned",
)
NOT_SEEN = 0.008
"""Nats below which the plan expects to see nothing."""


@dataclass(frozen=True)
class Group:
    """Runs that are compared: all variants of one setting.

    Args:
        phase, size, corpus, length, optimizer: of all of them.
        lr: of all of them.
    """

    phase: str
    size: str
    corpus: str
    length: float
    optimizer: str
    lr: float

    @property
    def title(self) -> str:
        seeds = "confirming" if self.phase == "confirm" else "exploring"
        return (
            f"{self.length:g} tokens a parameter, {self.size}, {self.corpus}, {self.optimizer}, rate {self.lr:g}, "
            f"{seeds} seeds"
        )


@dataclass(frozen=True)
class Line:
    """One variant of a group."""

    variant: str
    losses: dict[int, float]
    difference: Difference
    holm: float
    speed: float
    learned: int


def write_report(rows: Sequence[Row], times: Iterable[StepTime], folder: Path) -> str:
    """Write `activations.md` and `activations.png`; the page."""
    groups = {group: _lines(rows, group) for group in _groups(rows)}
    parts = [
        "# What is a curve worth? Results",
        "",
        "The plan: `../activation_study/PLAN.md`. Negative is better than SwiGLU.",
        "",
    ]
    parts += ["## SwiGLU's rate", "", _rates(rows), ""]
    for group, lines in groups.items():
        if len(lines) > 1:
            parts += [f"## {group.title}", "", _table(lines), ""]
    parts += ["## Time of a step", "", _times(times), "", _machines(rows), ""]
    page = "\n".join(parts)
    notes = folder / "activations_notes.md"
    if notes.exists():
        page = page.replace("\n\n", f"\n\n{notes.read_text(encoding='utf-8').strip()}\n\n", 1)
    (folder / "activations.md").write_text(page, encoding="utf-8")
    _plot(groups, folder / "activations.png")
    return page


def _groups(rows: Iterable[Row]) -> list[Group]:
    names = [field.name for field in dataclasses.fields(Group)]
    collected = dict.fromkeys(Group(*(getattr(row.run, name) for name in names)) for row in rows)
    return sorted(collected, key=lambda group: (group.phase, group.optimizer, group.size, -group.length))


def _lines(rows: Sequence[Row], group: Group) -> list[Line]:
    """Best first; without SwiGLU in a group there is nothing to compare."""
    settings = dataclasses.asdict(group)
    baseline = losses(rows, Run(variant="swiglu", seed=0, **settings))
    if not baseline:
        return []
    lines = []
    for name in VARIANTS:
        like = Run(variant=name, seed=0, **settings)
        values = losses(rows, like)
        if values:
            mine = [row for row in rows if dataclasses.replace(row.run, seed=0, source="") == like]
            difference = paired_difference(values, baseline)
            lines.append(
                Line(
                    variant=name,
                    losses=values,
                    difference=difference,
                    holm=math.nan,
                    speed=_speed(rows, group, difference.mean),
                    learned=mine[0].learned,
                )
            )
    tested = sorted((line for line in lines if not math.isnan(line.difference.p)), key=lambda line: line.difference.p)
    worst, corrected = 0.0, {}
    for rank, line in enumerate(tested):
        worst = max(worst, min(1.0, line.difference.p * (len(tested) - rank)))
        corrected[line.variant] = worst
    lines = [dataclasses.replace(line, holm=corrected.get(line.variant, math.nan)) for line in lines]
    return sorted(lines, key=lambda line: line.difference.mean)


def _speed(rows: Sequence[Row], group: Group, difference: float) -> float:
    """With how many times the steps SwiGLU reaches a loss that differs by this from its own; NaN where its losses at
    other lengths, each at its best rate, do not say."""
    points = [
        (math.log(length), min(rates.values())) for length, rates in rates_of(rows, group.size, group.optimizer).items()
    ]
    here = next((loss for length, loss in points if length == math.log(group.length)), math.nan)
    target = here + difference
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if min(y0, y1) <= target <= max(y0, y1) and y0 != y1:
            return math.exp(x0 + (target - y0) / (y1 - y0) * (x1 - x0)) / group.length
    return math.nan


def _table(lines: Sequence[Line]) -> str:
    body = []
    for line in lines:
        mean, _ = mean_and_deviation(list(line.losses.values()))
        difference = line.difference
        is_baseline = line.variant == "swiglu"
        cells = (
            VARIANTS[line.variant].title,
            str(difference.pairs),
            f"{mean:.4f}",
            "0" if is_baseline else _shown(difference),
            "–" if is_baseline else format_p(difference.p),
            "–" if is_baseline else format_p(line.holm),
            "–" if is_baseline or math.isnan(line.speed) else f"× {line.speed:.2f}",
            str(line.learned),
        )
        body.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|", *body])


def _shown(difference: Difference) -> str:
    spread = f" ({difference.deviation:.4f})" if difference.pairs > 1 else ""
    return f"{difference.mean:+.4f}{spread}"


def _rates(rows: Sequence[Row]) -> str:
    lines = ["| optimizer, size, tokens a parameter | validation loss by rate |", "|---|---|"]
    for optimizer, size in sorted({(row.run.optimizer, row.run.size) for row in rows}):
        for length, rates in rates_of(rows, size, optimizer).items():
            losses_by_rate = ", ".join(f"{lr:g}: {loss:.4f}" for lr, loss in rates.items())
            lines.append(f"| {optimizer}, {size}, {length:g} | {losses_by_rate} |")
    return "\n".join(lines)


def _times(times: Iterable[StepTime]) -> str:
    lines = ["| network | processor | time of a step over SwiGLU's (quartiles of rounds) |", "|---|---|---|"]
    for row in sorted(times, key=lambda row: (row.processor, row.ratio)):
        ratio = f"{row.ratio:.2f} ({row.lower:.2f}–{row.upper:.2f})"
        lines.append(f"| {VARIANTS[row.variant].title} | {row.processor} | {ratio} |")
    return "\n".join(lines)


def _machines(rows: Iterable[Row]) -> str:
    collected = sorted({f"{row.processor}, torch {row.torch}, code {row.commit}, text {row.text}" for row in rows})
    return "Rows from: " + "; ".join(collected) + "."


def _plot(groups: dict[Group, list[Line]], path: Path) -> None:
    """Mean paired difference to SwiGLU against tokens a parameter, with its standard error, for 0.8M and AdamW; dotted
    lines with squares are controls."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points: dict[str, dict[float, tuple[float, float, int]]] = {}
    for group, lines in groups.items():
        if (group.size, group.corpus, group.optimizer) == ("0.8M", "python", "adamw"):
            for line in lines:
                pairs = line.difference.pairs
                error = line.difference.deviation / math.sqrt(pairs) if pairs > 1 else 0.0
                known = points.setdefault(line.variant, {}).get(group.length)
                if line.variant != "swiglu" and (known is None or pairs > known[2]):
                    points[line.variant][group.length] = (line.difference.mean, error, pairs)
    most = max(map(len, points.values()), default=0)  # with a line, where there are lines
    shown = {name: at for name, at in points.items() if len(at) >= min(most, 2) > 0}
    figure, axes = pyplot.subplots(figsize=(9, 5.5))
    axes.axhspan(-NOT_SEEN, NOT_SEEN, color="0.93", label=f"below {NOT_SEEN} nats")
    axes.axhline(0, color="black", linewidth=0.8)
    maps = {True: "Dark2", False: "tab10"}
    colours = {is_control: itertools.cycle(pyplot.colormaps[name].colors) for is_control, name in maps.items()}
    for name, at in sorted(shown.items(), key=lambda item: item[1][min(item[1])][0]):
        lengths, is_control = sorted(at), name in CONTROLS
        means, errors = [at[x][0] for x in lengths], [at[x][1] for x in lengths]
        axes.errorbar(
            lengths,
            means,
            yerr=errors,
            color=next(colours[is_control]),
            marker="s" if is_control else "o",
            linestyle=":" if is_control else "-",
            capsize=3,
            label=VARIANTS[name].title,
        )
    axes.set(
        xscale="log",
        xlabel="training tokens per parameter",
        ylabel="validation loss minus SwiGLU's, nats per character",
    )
    axes.set_xticks([1, 3, 10, 20], ["1", "3", "10", "20"])
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
