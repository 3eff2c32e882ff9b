"""The results of an audit: figures and tables of a model's slots and edges."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kansformer.conversion.slots import CurveSlot
from kansformer.interp.fidelity import Fidelity
from kansformer.interp.recording import RecordedSlot
from kansformer.interp.scores import EdgeScores
from kansformer.symbolic import SymbolicFits

if TYPE_CHECKING:
    import pandas

# Points that every edge is sampled and judged at.
POINTS = 64
# An R² from here on counts as a good fit.
GOOD = 0.99
PART_TEXTS = {"edge": "whole edges", "learned": "what was learned on top of the base"}
# Of R².
MEASURES = {
    "r2": "on even points that the fit did not see",
    "r2_tokens": "at recorded inputs",
    "r2_learned": "at recorded inputs, of what was learned on top of the base",
}


@dataclass(frozen=True)
class SlotSummary:
    """One slot, all of its edges.

    Args:
        slot: the slot.
        recorded: its inputs.
        scores: of its edges.
        part: what the fits are of, the whole `edge` or what was `learned` on top of its base.
        fits: the function of every edge on the range of its input, inputs first, then outputs.
        fidelity: of these formulas at recorded inputs.
        control: fits of random curves of the same basis, size and ranges around the same bases.
        control_fidelity: of those.
    """

    slot: CurveSlot
    recorded: RecordedSlot
    scores: EdgeScores
    part: str
    fits: SymbolicFits
    fidelity: Fidelity
    control: SymbolicFits
    control_fidelity: Fidelity

    @property
    def layer(self) -> int | None:
        """The first number in the site's path."""
        number = re.search(r"\d+", self.slot.site)
        return int(number.group()) if number else None

    @property
    def stack(self) -> str:
        """The site's path before its layer: models with encoder and decoder have two."""
        return re.split(r"\.?\d+", self.slot.site)[0]

    def to_pandas(self) -> pandas.DataFrame:
        """One row per edge: names, scores, the range of the input, the share outside the domain, and the fit."""
        table = self.scores.to_pandas()
        per_input = {"lower": self.recorded.lower, "upper": self.recorded.upper, "outside": self.recorded.outside}
        width = len(table) // len(self.recorded.lower)
        for name, values in per_input.items():
            table[name] = values.repeat_interleave(width).numpy()
        table = table.join(self.fits.to_pandas().rename(columns={"name": "function"}))
        return table.assign(r2_tokens=self.fidelity.r2.numpy(), r2_learned=self.fidelity.r2_learned.numpy())

    def coverage(self, measure: str = "r2", *, control: bool = False) -> float:
        """Share of the edges that vary whose formula has 0.99 or more by one of `MEASURES`; NaN if none varies."""
        fits, fidelity = (self.control, self.control_fidelity) if control else (self.fits, self.fidelity)
        values = {"r2": fits.r2, "r2_tokens": fidelity.r2, "r2_learned": fidelity.r2_learned}[measure]
        values = values[fits.varies if measure == "r2" else fits.varies & fidelity.varies]
        return (values >= GOOD).double().mean().item() if len(values) else math.nan

    def aggregate(self) -> dict[str, object]:
        """JSON-ready figures of the slot."""
        return {
            "site": self.slot.site,
            "slot": self.slot.name,
            "layer": self.layer,
            "stack": self.stack,
            "edges": len(self.fits),
            "outside": round(float(self.recorded.outside.mean()), 6),
            **_coverages(self),
            "families": self.fits.families(),
            "control_families": self.control.families(),
        }


@dataclass(frozen=True)
class ModelSummary:
    """The audit of a model.

    Args:
        slots: every slot with curves.
        tokens: number of tokens that were read.
        loss: of the model on them, or None without labels.
        replaced: loss when the best-fitted share of all edges is computed by its formulas: share, edges, loss; empty
            where there are too many edges, or no labels.
        seconds: of the whole audit.
    """

    slots: tuple[SlotSummary, ...]
    tokens: int
    loss: float | None
    replaced: tuple[tuple[float, int, float], ...]
    seconds: float

    def to_pandas(self) -> pandas.DataFrame:
        """All edges of all slots, one row each."""
        import pandas

        return pandas.concat([slot.to_pandas() for slot in self.slots], ignore_index=True)

    def to_json(self) -> str:
        """The figures of the model and of every slot, without single edges."""
        values = {
            "tokens": self.tokens,
            "part": self.slots[0].part,
            "loss": _rounded(self.loss),
            "seconds": round(self.seconds, 1),
            "edges": sum(len(slot.fits) for slot in self.slots),
            **_coverages(self),
            "replaced": [{"share": s, "edges": e, "loss": _rounded(v)} for s, e, v in self.replaced],
            "slots": [slot.aggregate() for slot in self.slots],
        }
        return json.dumps(values, indent=1, allow_nan=False)

    def coverage(self, measure: str = "r2", *, control: bool = False) -> float:
        """Share of all edges that vary whose formula has 0.99 or more by one of `MEASURES`.

        The control is a sample: a slot's share counts by the edges that the slot has.
        """
        counted = [(int(slot.fits.varies.sum()), slot.coverage(measure, control=control)) for slot in self.slots]
        known = [(edges, share) for edges, share in counted if edges and not math.isnan(share)]
        return sum(edges * share for edges, share in known) / sum(edges for edges, _ in known) if known else math.nan

    def to_markdown(self) -> str:
        """A page: the figures of the model, and a row per slot."""
        edges = sum(len(slot.fits) for slot in self.slots)
        lines = [
            "# What the curves are",
            "",
            f"{edges:,} edges in {len(self.slots)} slots, read on {self.tokens:,} tokens in {self.seconds:.0f} s. "
            f"The formulas are of {PART_TEXTS[self.slots[0].part]}.",
            "",
        ]
        rows = [[text, *_percents(self, measure)] for measure, text in MEASURES.items()]
        lines += _table([f"edges whose formula has R² ≥ {GOOD}", "model", "random curves of the same kind"], rows)
        if self.replaced:
            rows = [[f"{share:.0%}", f"{count:,}", f"{loss:.4f}"] for share, count, loss in self.replaced]
            rows.insert(0, ["none", "0", f"{self.loss or math.nan:.4f}"])
            lines += ["", *_table(["best-fitted edges computed by their formulas", "edges", "loss"], rows)]
        rows = []
        for summary in self.slots:
            names = ", ".join(f"{name} {count:,}" for name, count in list(summary.fits.families().items())[:4])
            outside = f"{summary.recorded.outside.mean():.2%}"
            shares = [*_percents(summary, "r2_tokens"), *_percents(summary, "r2_learned")]
            rows.append([summary.slot.site, summary.slot.name, f"{len(summary.fits):,}", outside, *shares, names])
        columns = ["site", "slot", "edges", "outside the domain"]
        columns += ["R² at tokens", "control", "of what was learned", "control", "functions"]
        return "\n".join([*lines, "", *_table(columns, rows)]) + "\n"


def _coverages(summary: SlotSummary | ModelSummary) -> dict[str, float | None]:
    return {
        f"{prefix}_{measure}": _rounded(summary.coverage(measure, control=control))
        for prefix, control in (("coverage", False), ("control_coverage", True))
        for measure in MEASURES
    }


def _rounded(value: float | None) -> float | None:
    return round(value, 5) if value is not None and math.isfinite(value) else None


def _percents(summary: SlotSummary | ModelSummary, measure: str) -> list[str]:
    """Coverage of the model and of the random control."""
    shares = [summary.coverage(measure, control=control) for control in (False, True)]
    return [f"{share:.1%}" if math.isfinite(share) else "–" for share in shares]


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of Markdown."""
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
