"""The audit as one HTML file that works offline: figures, pictures and a table of edges to search.

The page is `report.html` with three insertions: plotly's script, the data as JSON, and the title. Colours of families
and the layout are in that file; this one makes the data.
"""

from __future__ import annotations

import importlib
import json
import math
from html import escape
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from kansformer.errors import ConfigError
from kansformer.files import atomic_write_text
from kansformer.interp import ModelSummary, SlotSummary
from kansformer.interp.curves import pair_curves
from kansformer.interp.edge_features import per_input
from kansformer.interp.summary import GOOD, MEASURES, PART_TEXTS, POINTS
from kansformer.symbolic import SymbolicFits

# Edges whose curves are in the page, the most important ones.
MAX_SHOWN = 2000
# Points of the cloud of all edges; of more edges a random sample is shown.
MAX_DOTS = 20_000
SEED = 0


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
    """
    try:
        plotly_script = importlib.import_module("plotly.offline").get_plotlyjs()
    except ImportError:
        raise ConfigError("The report needs plotly. Install it: pip install 'kansformer[report]'.") from None
    template = (files("kansformer.views") / "report.html").read_text(encoding="utf-8")
    data = json.dumps(report_data(summary), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    page = template.replace("{{title}}", escape(title)).replace("{{data}}", data).replace("{{plotly}}", plotly_script)
    path = Path(path)
    atomic_write_text(path, page)
    return path


def report_data(summary: ModelSummary) -> dict[str, object]:
    """The data of the page, JSON-ready."""
    score = "attribution" if summary.slots[0].scores.attribution is not None else "variance"
    names, slots = list(summary.slots[0].fits.library.names), summary.slots
    stacks = {slot.stack for slot in slots}
    where = [slot.slot.site if slot.layer is None else str(slot.layer) for slot in slots]
    where = [f"{s.stack}.{layer}" if len(stacks) > 1 else layer for s, layer in zip(slots, where, strict=True)]
    return {
        "tokens": summary.tokens,
        "seconds": round(summary.seconds),
        "loss": None if summary.loss is None else _number(summary.loss),
        "part": PART_TEXTS[slots[0].part],
        "good": GOOD,
        "coverage": [
            [text, _number(summary.coverage(measure)), _number(summary.coverage(measure, control=True))]
            for measure, text in MEASURES.items()
        ],
        "replaced": [[share, count, _number(loss)] for share, count, loss in summary.replaced],
        "functions": names,
        "score": score,
        "slots": [
            slot.aggregate() | {"where": place, "score": _number(slot.scores.columns()[score].sum())}
            for slot, place in zip(slots, where, strict=True)
        ],
        "dots": _dots(summary, score),
        "edges": _edges(summary, score),
    }


def _dots(summary: ModelSummary, score: str) -> dict[str, list]:
    """Score, 1 - R² at recorded inputs, function and slot of all edges, or of a sample of them."""
    values = torch.cat([slot.scores.columns()[score].flatten() for slot in summary.slots])
    r2 = torch.cat([slot.fidelity.r2 for slot in summary.slots])
    functions = torch.cat([slot.fits.symbols for slot in summary.slots])
    slots = torch.cat([torch.full((len(slot.fits),), i) for i, slot in enumerate(summary.slots)])
    if len(values) > MAX_DOTS:
        chosen = torch.randperm(len(values), generator=torch.Generator().manual_seed(SEED))[:MAX_DOTS]
        values, r2, functions, slots = (column[chosen] for column in (values, r2, functions, slots))
    return {
        "score": _short(values),
        "miss": _short((1 - r2).clamp(1e-12, 2)),
        "function": functions.tolist(),
        "slot": slots.tolist(),
    }


def _edges(summary: ModelSummary, score: str) -> list[dict[str, object]]:
    """The most important edges, each with its curve, its fit and the histogram of its inputs."""
    values = torch.cat([slot.scores.columns()[score].flatten() for slot in summary.slots])
    starts = torch.tensor([0, *(len(slot.fits) for slot in summary.slots)]).cumsum(0)
    order = values.argsort(descending=True)[:MAX_SHOWN]
    of_slot = torch.bucketize(order, starts[1:], right=True)
    rows: list[dict[str, object]] = [{}] * len(order)
    for index in of_slot.unique().tolist():
        positions = (of_slot == index).nonzero()[:, 0]
        of_index = _rows(summary.slots[index], order[positions] - starts[index], score)
        for position, row in zip(positions.tolist(), of_index, strict=True):
            rows[position] = row | {"slot": index}
    return rows


def _rows(slot: SlotSummary, edges: Tensor, score: str) -> list[dict[str, object]]:
    where, width = slot.slot, slot.slot.num_outputs
    inputs, outputs = edges // width, (edges % width if where.has_weights else edges)
    fits, values = slot.fits[edges], slot.scores.columns()[score].flatten()[edges]
    curves = pair_curves(where, inputs, outputs, records={(where.site, where.name): slot.recorded}, points=POINTS)
    base = curves.y - curves.learned
    fitted = fits.evaluate(curves.x) + (base if slot.part == "learned" else 0)
    domains = per_input(where.module, where.module.domain)[inputs]
    return [
        {
            "name": str(ref),
            "score": _number(values[e]),
            "function": int(fits.symbols[e]),
            "r2": _number(fits.r2[e]),
            "tokens": _number(slot.fidelity.r2[edge]),
            "learned": _number(slot.fidelity.r2_learned[edge]),
            "formula": ("base + " if slot.part == "learned" else "") + _formula(fits, e),
            "outside": _number(slot.recorded.outside[ref.input]),
            "from": _number(curves.x[e, 0]),
            "to": _number(curves.x[e, -1]),
            "y": _short(curves.y[e]),
            "base": _short(base[e]),
            "fit": _short(fitted[e]),
            "domain": _short(domains[e]),
            "histogram": slot.recorded.histogram[ref.input].tolist(),
        }
        for e, (edge, ref) in enumerate(zip(edges.tolist(), curves.refs, strict=True))
    ]


def _formula(fits: SymbolicFits, index: int) -> str:
    a, b, c, d = (f"{value:.3g}" for value in fits.params[index].tolist())
    name = fits.names[index]
    if name == "constant":
        return d
    inner = f"({a}·x + {b})".replace("+ -", "- ")
    written = {"x": inner, "exp": f"exp{inner}"}.get(name) or (
        name.replace("x", inner) if "x" in name else f"{name}{inner}"
    )
    return f"{c}·{written} + {d}".replace("+ -", "- ")


def _number(value: float | Tensor) -> float | None:
    return float(f"{float(value):.4g}") if math.isfinite(value) else None


def _short(values: Tensor) -> list[float | None]:
    return [_number(value) for value in values.tolist()]
