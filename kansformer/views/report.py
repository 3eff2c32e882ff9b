"""The audit as one HTML file that works offline: figures, pictures and a table of edges to search.

The page is `report.html` with five insertions: the title, the conclusion, the glossary, the data as JSON, and plotly's
script, which is compressed and would be most of the page else. Colours of families and the layout are in that file;
this one makes the data. Its size has a bound, whatever the number of edges.
"""

from __future__ import annotations

import base64
import gzip
import importlib
import importlib.util
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from kansformer.errors import ConfigError
from kansformer.files import atomic_write_text
from kansformer.interp import ModelSummary, SlotSummary
from kansformer.interp.curves import pair_curves, spread_points
from kansformer.interp.edge_features import per_input
from kansformer.interp.effects import HEADINGS
from kansformer.interp.slot_summary import POINTS
from kansformer.interp.wording import GLOSSARY, GOOD, PART_TEXTS, faithful_caption, loss_text
from kansformer.symbolic import SymbolicFits

# Edges whose curves are in the page, the most important ones.
MAX_SHOWN = 1000
# Points of the cloud of all edges; of more edges a random sample is shown.
MAX_DOTS = 10_000
# Heights of a curve in the page: a picture has fewer pixels.
HEIGHTS = 999
SEED = 0
# What a score measures, and its unit.
SCORE_AXES = {
    "attribution": "attribution: change of the mean loss without the edge (nats)",
    "variance": "variance of the edge over the tokens (squared units of the slot's output)",
}


def write_report(summary: ModelSummary, path: str | Path, *, title: str = "What the curves are") -> Path:
    """Write the report.

    Args:
        summary: of `summarize`; its model must still be as it was audited.
        path: of the file; what stands there is replaced when the page is complete.
        title: of the page.

    Returns:
        The path.

    Raises:
        ConfigError: plotly is not installed.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import convert, summarize
        >>> from kansformer.views import write_report
        >>> model = convert(Sequential(Linear(4, 8), SiLU(), Linear(8, 4)))
        >>> summary = summarize(model, {"input": torch.randn(64, 4)})
        >>> write_report(summary, "report.html", title="A small model").name
        'report.html'
    """
    check_plotly()
    plotly_script = importlib.import_module("plotly.offline").get_plotlyjs()
    template = (files("kansformer.views") / "report.html").read_text(encoding="utf-8")
    data = json.dumps(report_data(summary), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    packed_script = base64.b64encode(gzip.compress(plotly_script.encode(), mtime=0)).decode()
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in GLOSSARY.items())
    parts = {"title": escape(title), "conclusion": escape(summary.conclusion), "glossary": terms}
    parts |= {"data": data, "plotly": packed_script}
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)
    path = Path(path)
    atomic_write_text(path, page)
    return path


def check_plotly() -> None:
    """Check that a report can be written, before the work that it is to show.

    Raises:
        ConfigError: plotly is not installed.
    """
    if importlib.util.find_spec("plotly") is None:
        raise ConfigError("The report needs plotly. Install it: pip install 'kansformer[report]'.")


def report_data(summary: ModelSummary) -> dict[str, object]:
    """The data of the page, JSON-ready; figures that the other files have too are text, made by the same code."""
    slots = summary.slots
    score = "attribution" if "attribution" in slots[0].score_names else "variance"
    where = _places_of_layers(slots)
    return {
        "tokens": summary.tokens,
        "seconds": round(summary.seconds),
        "loss": None if summary.loss is None else loss_text(summary.loss),
        "part": PART_TEXTS[slots[0].part],
        "good": GOOD,
        "coverage": summary.coverage_table(),
        "replaced": summary.loss_table(),
        "faithfulness": _faithfulness(summary),
        "edges_of_model": summary.num_edges,
        "trained": summary.num_trained,
        "functions": list(slots[0].control.library.names),
        "score": score,
        "score_axis": SCORE_AXES[score],
        "slots": [
            slot.aggregate()
            | {"where": layer, "place": place, "weights": slot.slot.has_weights}
            | {"score": _number(slot.totals.scores[score])}
            for slot, layer, place in zip(slots, where, summary.place_names(), strict=True)
        ],
        "dots": _dots(summary, score),
        "edges": _edges(summary, score),
    }


def _places_of_layers(slots: Sequence[SlotSummary]) -> list[str]:
    """What the page calls the layer of each slot: the number, with the stack where there are several, and with the
    network where a layer has several, such as experts."""
    stacks = {slot.stack for slot in slots}
    where = [slot.slot.site if slot.layer is None else str(slot.layer) for slot in slots]
    where = [f"{s.stack}.{layer}" if len(stacks) > 1 else layer for s, layer in zip(slots, where, strict=True)]
    repeated = Counter((slot.slot.name, layer) for slot, layer in zip(slots, where, strict=True))
    networks = [slot.slot.site.removeprefix(f"{slot.stack}.{slot.layer}.") for slot in slots]
    return [
        f"{layer} {network}" if repeated[slot.slot.name, layer] > 1 else layer
        for slot, layer, network in zip(slots, where, networks, strict=True)
    ]


def _faithfulness(summary: ModelSummary) -> dict[str, object] | None:
    """The table of the standard metrics, and its caption."""
    result = summary.faithfulness
    return None if result is None else {"caption": faithful_caption(result), "rows": [list(HEADINGS), *result.table()]}


def _dots(summary: ModelSummary, score: str) -> dict[str, list]:
    """Score, 1 - R² at recorded inputs, function and slot of all edges, or of a sample of them."""
    count = summary.num_edges
    numbers = torch.arange(min(count, MAX_DOTS))
    if count > MAX_DOTS:
        numbers = torch.randint(
            count, (MAX_DOTS,), generator=torch.Generator().manual_seed(SEED), device="cpu"
        ).unique()
    dots: dict[str, list] = {"score": [], "miss": [], "function": [], "slot": []}
    start = 0
    for index, slot in enumerate(summary.slots):
        for columns in slot.edges.parts([score, "r2_tokens", "symbol"]):
            stop = start + len(columns[score])
            rows = numbers[(numbers >= start) & (numbers < stop)] - start
            dots["score"] += _short(columns[score][rows])
            dots["miss"] += _short((1 - columns["r2_tokens"][rows]).clamp(1e-12, 2))
            dots["function"] += columns["symbol"][rows].tolist()
            dots["slot"] += [index] * len(rows)
            start = stop
    return dots


def _edges(summary: ModelSummary, score: str) -> list[dict[str, object]]:
    """The most important edges, each with its curve, its fit and the histogram of its inputs."""
    best = torch.zeros(0, dtype=torch.float64)
    of_slot, edges = torch.zeros(2, 0, dtype=torch.long)
    for index, slot in enumerate(summary.slots):
        start = 0
        for columns in slot.edges.parts([score]):
            stop = start + len(columns[score])
            best = torch.cat([best, columns[score].double()])
            of_slot = torch.cat([of_slot, torch.full((stop - start,), index)])
            edges = torch.cat([edges, torch.arange(start, stop)])
            order = best.argsort(descending=True, stable=True)[:MAX_SHOWN]
            best, of_slot, edges = best[order], of_slot[order], edges[order]
            start = stop
    rows: list[dict[str, object]] = [{}] * len(best)
    for index in of_slot.unique().tolist():
        positions = (of_slot == index).nonzero()[:, 0]
        of_index = _rows(summary.slots[index], edges[positions], score)
        for position, row in zip(positions.tolist(), of_index, strict=True):
            rows[position] = row | {"slot": index}
    return rows


def _rows(slot: SlotSummary, edges: Tensor, score: str) -> list[dict[str, object]]:
    where = slot.slot
    inputs, outputs = slot.ends(edges)
    columns, of_inputs = slot.edges.rows(edges), slot.inputs.rows(inputs)
    fits = slot.fits_of(columns)
    points = spread_points(where, of_inputs["lower"], of_inputs["upper"], POINTS, inputs)
    curves = pair_curves(where, inputs, outputs, at=points)
    base = curves.y - curves.learned
    fitted = fits.evaluate(curves.x) + (base if slot.part == "learned" else 0)
    domains = per_input(where.module, where.module.domain)[inputs]
    return [
        {
            "input": int(inputs[e]),
            "output": int(outputs[e]),
            "score": _number(columns[score][e]),
            "function": int(fits.symbols[e]),
            "r2": _number(fits.r2[e]),
            "tokens": _number(columns["r2_tokens"][e]),
            "learned": _number(columns["r2_learned"][e]) if columns["bends"][e] else None,
            "trained": bool(columns["trained"][e]),
            "formula": ("base + " if slot.part == "learned" else "") + _formula(fits, e),
            "outside": _number(of_inputs["outside"][e]),
            "from": _number(curves.x[e, 0]),
            "to": _number(curves.x[e, -1]),
            **_heights({"y": curves.y[e], "base": base[e], "fit": fitted[e]}),
            "domain": _short(domains[e]),
            "histogram": of_inputs["histogram"][e].tolist(),
        }
        for e in range(len(edges))
    ]


def _heights(curves: dict[str, Tensor]) -> dict[str, object]:
    """Curves of one picture as whole numbers from 0, the lowest value of all, to `HEIGHTS`, the highest."""
    values = torch.cat(list(curves.values())).double()
    values = values[values.isfinite()]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    scale = HEIGHTS / (high - low) if high > low else 0.0
    rounded = {
        name: [round((value - low) * scale) if math.isfinite(value) else None for value in curve.tolist()]
        for name, curve in curves.items()
    }
    return {"low": _number(low), "high": _number(high), **rounded}


def _formula(fits: SymbolicFits, index: int) -> str:
    a, b, c, d = (f"{value:.3g}" for value in fits.params[index].tolist())
    name = fits.names[index]
    if name == "constant":
        return d
    inner = f"({a}·x + {b})".replace("+ -", "- ")
    if name == "x*cos":
        written = f"{inner}·cos{inner}"
    else:
        written, count = re.subn(r"\bx\b", lambda _: inner, name)
        written = written if count else f"{name}{inner}"
    return f"{c}·{written} + {d}".replace("+ -", "- ")


def _number(value: float | Tensor) -> float | None:
    return float(f"{float(value):.4g}") if math.isfinite(value) else None


def _short(values: Tensor) -> list[float | None]:
    return [_number(value) for value in values.tolist()]
