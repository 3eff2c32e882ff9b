"""The table and the picture of the contest, made from its rows."""

import csv
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from paired import mean_and_deviation, paired_difference

from contest.runs import Row
from contest.statistics import at_equal_time, losses_of
from contest.variants import DEFAULT, VARIANTS

LENGTHS = (1200, 2400)
HEADER = (
    "network", "width", "seeds", "validation loss", "Δ to SwiGLU", "Δ to GELU MLP", "time of a step", "Δ at equal time"
)  # fmt: skip


def table(rows: Sequence[Row], ratios: dict[str, tuple], steps: int) -> str:
    """A Markdown table of one length of training, best first.

    Args:
        rows: all runs.
        ratios: quartiles of the time of a step, relative to SwiGLU.
        steps: length of training.
    """
    swiglu, gelu = losses_of(rows, "swiglu", steps), losses_of(rows, "gelu", steps)
    both = {length: losses_of(rows, "swiglu", length) for length in LENGTHS}
    lines = []
    for name, variant in VARIANTS.items():
        losses = losses_of(rows, name, steps)
        if not losses:
            continue
        mean, deviation = mean_and_deviation(list(losses.values()))
        ratio = ratios.get(name)
        equal_time = "–"
        if ratio is not None and all(both.values()) and name != "swiglu":
            equal_time = str(paired_difference(losses, at_equal_time(both, steps, ratio[1])))
        width = next(row.width for row in rows if row.variant == name)
        cells = [
            f"{variant.title} (lr {variant.lr:g})",
            str(width),
            str(len(losses)),
            f"{mean:.4f}" + ("" if math.isnan(deviation) else f" ± {deviation:.4f}"),
            "0" if name == "swiglu" else str(paired_difference(losses, swiglu)),
            "0" if name == "gelu" else str(paired_difference(losses, gelu)),
            "–" if ratio is None else f"{ratio[1]:.2f} ({ratio[0]:.2f}–{ratio[2]:.2f})",
            equal_time,
        ]
        lines.append((mean, f"| {' | '.join(cells)} |"))
    body = [line for _, line in sorted(lines)]
    return "\n".join([f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|", *body])


def code_versions(rows: Sequence[Row]) -> str:
    """Which commits and versions of torch the rows are from, and how many of each."""
    counts = Counter(row.versions for row in rows)
    return "Rows by commit and torch: " + ", ".join(f"{version}: {count}" for version, count in counts.items()) + "."


def tuning_table(rows: Sequence[Row]) -> str:
    """Every learning rate that was tried, as a Markdown table."""
    tried = sorted({(row.variant, row.steps, row.lr) for row in rows})
    lines = ["| network | steps | learning rate | seeds | validation loss |", "|---|---|---|---|---|"]
    for name, steps, lr in tried:
        if len({other[2] for other in tried if other[:2] == (name, steps)}) > 1:
            losses = losses_of(rows, name, steps, lr)
            mean, _ = mean_and_deviation(list(losses.values()))
            lines.append(f"| {VARIANTS[name].title} | {steps} | {lr:g} | {len(losses)} | {mean:.4f} |")
    return "\n".join(lines)


def plot(rows: Sequence[Row], curves: Path, path: Path) -> None:
    """Loss curves of the default, the baselines and the per-edge network, and the differences of all to SwiGLU.

    Args:
        rows: all runs.
        curves: CSV of variant, steps, seed, lr, step, loss.
        path: of the PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 7), width_ratios=(1.3, 1))
    seen = _mean_curves(curves)
    shown = ("gelu", "edges-chebyshev", "swiglu", DEFAULT)
    for name, colour in zip(shown, ("0.6", "tab:green", "black", "tab:red"), strict=True):
        points = seen.get((name, LENGTHS[0]))
        if points:
            title = _wrapped(VARIANTS[name].title)
            left.plot([s for s, _ in points], [v for _, v in points], color=colour, label=title)
    left.set(xlabel="step", ylabel="training loss, nats per character", ylim=(1.4, 2.6))
    left.set_title("Training, every block of text read once", fontsize=10)
    left.legend(fontsize=8)

    swiglu = losses_of(rows, "swiglu", LENGTHS[0])
    bars = []
    for name, variant in VARIANTS.items():
        difference = paired_difference(losses_of(rows, name, LENGTHS[0]), swiglu)
        if name != "swiglu" and difference.pairs:
            error = difference.deviation / math.sqrt(difference.pairs) if difference.pairs > 1 else 0.0
            bars.append((difference.mean, error, _wrapped(variant.title)))
    bars.sort(reverse=True)
    colours = ["tab:red" if mean < 0 else "0.7" for mean, _, _ in bars]
    right.barh([t for _, _, t in bars], [m for m, _, _ in bars], xerr=[e for _, e, _ in bars], color=colours)
    right.axvline(0, color="black", linewidth=0.8)
    right.set_xlabel("nats")
    right.set_title("Validation loss minus SwiGLU's, and its standard error", fontsize=10)
    right.tick_params(axis="y", labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _wrapped(title: str) -> str:
    return textwrap.fill(title, width=46)


def _mean_curves(path: Path) -> dict[tuple[str, int], list[tuple[int, float]]]:
    """Losses by variant and length, the mean over seeds at every step that was logged."""
    collected: dict[tuple[str, int], dict[int, list[float]]] = {}
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                if float(line["lr"]) != VARIANTS[line["variant"]].lr:
                    continue
                by_step = collected.setdefault((line["variant"], int(line["steps"])), {})
                by_step.setdefault(int(line["step"]), []).append(float(line["loss"]))
    return {
        key: [(step, sum(values) / len(values)) for step, values in sorted(by_step.items())]
        for key, by_step in collected.items()
    }
