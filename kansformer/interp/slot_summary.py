"""The audit of one slot: its inputs, its edges and what random edges give, in tables and figures.

Totals are held; the rows of edges are in files, which are read a part at a time.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from kansformer.conversion.slots import CurveSlot
from kansformer.interp.edge_table import EdgeTable
from kansformer.interp.effects import json_number
from kansformer.interp.fidelity import Fidelity
from kansformer.interp.recording import RecordedSlot
from kansformer.interp.scores import EdgeScores
from kansformer.interp.wording import GOOD, layer_of
from kansformer.symbolic import SymbolicFits
from kansformer.wording import MEASURES

if TYPE_CHECKING:
    import pandas

# Points that every edge is sampled and judged at.
POINTS = 64
SCORES = ("variance", "share", "learned_variance", "attribution", "learned_attribution")
FITS = ("a", "b", "c", "d", "r2", "r2_fit", "best_r2")


def edge_columns(
    scores: EdgeScores, fits: SymbolicFits, fidelity: Fidelity, *, trained: Tensor, alive: Tensor
) -> dict[str, Tensor]:
    """The rows of some edges for a table.

    Args:
        scores, fits, fidelity: of these edges.
        trained: whether the learned curve is not zero, (E,).
        alive: the share of 64 typical tokens at which it is alive, (E,).
    """
    columns = {name: values.flatten() for name, values in scores.columns().items()}
    columns |= {"symbol": fits.symbols} | {name: vars(fits)[name] for name in FITS}
    columns |= {"r2_tokens": fidelity.r2, "r2_learned": fidelity.r2_learned}
    return columns | {"varies": fidelity.varies, "bends": fidelity.bends, "trained": trained, "alive": alive}


def input_columns(recorded: RecordedSlot) -> dict[str, Tensor]:
    """The rows of a slot's inputs for a table: range, share outside the domain, and histogram."""
    columns = {"lower": recorded.lower, "upper": recorded.upper, "outside": recorded.outside}
    return columns | {"histogram": recorded.histogram}


@dataclass(frozen=True)
class SlotSummary:
    """One slot, all of its edges.

    Args:
        slot: the slot.
        inputs: a table with a row for each input: lower, upper, outside (the domain, a share) and histogram.
        edges: a table with a row for each edge, inputs first, then outputs: scores, fits and fidelity.
        part: what the fits are of, the whole `edge` or what was `learned` on top of its base.
        control: fits of random curves of the same basis, size and ranges around the same bases.
        control_fidelity: of those.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import convert, summarize
        >>> model = convert(Sequential(Linear(4, 8), SiLU(), Linear(8, 4)))
        >>> slot = summarize(model, {"input": torch.randn(64, 4)}).slots[0]
        >>> slot.slot.name, len(slot.to_pandas()), slot.fits.r2.min().item() > 0.99
        ('act', 8, True)
    """

    slot: CurveSlot
    inputs: EdgeTable
    edges: EdgeTable
    part: str
    control: SymbolicFits
    control_fidelity: Fidelity

    @property
    def layer(self) -> int | None:
        """The first number in the site's path."""
        return layer_of(self.slot.site)

    @property
    def stack(self) -> str:
        """The site's path before its layer: models with encoder and decoder have two."""
        return re.split(r"\.?\d+", self.slot.site)[0]

    @property
    def fits(self) -> SymbolicFits:
        """The function of every edge on the range of its input, read from the table."""
        return self.fits_of(self.edges.columns(["symbol", *FITS]))

    @property
    def fidelity(self) -> Fidelity:
        """Of the formulas at recorded inputs, read from the table."""
        columns = self.edges.columns(["r2_tokens", "r2_learned", "varies", "bends"])
        return Fidelity(*columns.values())

    @property
    def scores(self) -> EdgeScores:
        """Of the edges, read from the table."""
        columns = self.edges.columns(self.score_names)
        shape = (len(self.inputs), self.slot.num_outputs)
        return EdgeScores(self.slot, **{name: values.reshape(shape) for name, values in columns.items()})

    @property
    def score_names(self) -> list[str]:
        """The scores that edges have: attributions only if the batches had labels."""
        return [name for name in SCORES if name in self.totals.scores]

    @cached_property
    def totals(self) -> SlotTotals:
        """Counts and sums over all edges."""
        totals = SlotTotals()
        for columns in self.edges.parts():
            totals.add(columns, self.fits_of(columns))
        return totals

    def fits_of(self, columns: dict[str, Tensor]) -> SymbolicFits:
        """The fits in rows of the table of edges."""
        return SymbolicFits(self.control.library, columns["symbol"], *(columns[name] for name in FITS))

    def to_pandas(self) -> pandas.DataFrame:
        """One row per edge: names, scores, the range of the input, the share outside the domain, and the fit."""
        import pandas

        return pandas.concat(list(self.pandas_parts()), ignore_index=True)

    def pandas_parts(self) -> Iterator[pandas.DataFrame]:
        """The rows of `to_pandas`, of some edges at a time."""
        import pandas

        start = 0
        inputs = self.inputs.columns(["lower", "upper", "outside"])
        for columns in self.edges.parts():
            numbers = torch.arange(start, start := start + len(columns["symbol"]))
            sources, targets = self.ends(numbers)
            of_edges = {"input": sources, "output": targets} | {name: columns[name] for name in self.score_names}
            of_edges |= {name: values[sources] for name, values in inputs.items()}
            table = pandas.DataFrame({name: values.numpy() for name, values in of_edges.items()})
            table.insert(0, "site", self.slot.site)
            table.insert(1, "slot", self.slot.name)
            table = table.join(self.fits_of(columns).to_pandas().rename(columns={"name": "function"}))
            for name in ("r2_tokens", "r2_learned", "trained", "alive"):
                table[name] = columns[name].numpy()
            yield table

    def ends(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Input and output of edges, by their numbers in the table."""
        width = self.slot.num_outputs
        return edges // width, (edges % width if self.slot.has_weights else edges)

    def coverage(self, measure: str = "r2", *, control: bool = False) -> float:
        """Share of the edges that vary whose formula has 0.99 or more by one of `MEASURES`; NaN if none varies.

        By `r2_learned` it is a share of the edges whose learned curve varies: what was never trained does not count.
        """
        good, counted = self.counts(measure, control=control)
        return good / counted if counted else math.nan

    def counts(self, measure: str, *, control: bool = False) -> tuple[int, int]:
        """The numbers of edges behind `coverage`: with 0.99 or more, and all that count."""
        if not control:
            return self.totals.good[measure], self.totals.counted[measure]
        fits, fidelity = self.control, self.control_fidelity
        columns = {"r2_tokens": fidelity.r2, "r2_learned": fidelity.r2_learned, "r2": fits.r2}
        return _counts(measure, columns | {"varies": fidelity.varies, "bends": fidelity.bends}, fits)

    def aggregate(self) -> dict[str, object]:
        """JSON-ready figures of the slot."""
        return {
            "site": self.slot.site,
            "slot": self.slot.name,
            "layer": self.layer,
            "stack": self.stack,
            "edges": len(self.edges),
            "trained": self.totals.trained,
            "l0": self.totals.l0,
            "share_alive": self.totals.ever_alive / len(self.edges),
            "outside": self.outside,
            **coverages(self),
            "families": dict(self.totals.families.most_common()),
            "control_families": self.control.families(),
        }

    @cached_property
    def outside(self) -> float:
        """Share of all inputs that lie outside their curve's domain."""
        return float(self.inputs.columns(["outside"])["outside"].double().mean())


class SlotTotals:
    """Counts and sums over edges.

    Attributes:
        trained: edges whose learned curve is not zero.
        l0: mean number of curves alive at a token.
        ever_alive: number of curves alive at one or more of 64 typical inputs of theirs.
        good, counted: by measure, edges with a good formula and edges that count.
        families: number of edges by function.
        scores: sums by score.
    """

    def __init__(self) -> None:
        self.trained = self.ever_alive = 0
        self.l0 = 0.0
        self.good, self.counted = dict.fromkeys(MEASURES, 0), dict.fromkeys(MEASURES, 0)
        self.families: Counter[str] = Counter()
        self.scores: dict[str, float] = {}

    def add(self, columns: dict[str, Tensor], fits: SymbolicFits) -> None:
        """Count rows of the table of edges."""
        self.trained += int(columns["trained"].sum())
        self.l0 += float(columns["alive"].double().sum())
        self.ever_alive += int(columns["alive"].count_nonzero())
        self.families.update(fits.families())
        for measure in MEASURES:
            good, counted = _counts(measure, columns, fits)
            self.good[measure] += good
            self.counted[measure] += counted
        for name in SCORES:
            if name in columns:
                self.scores[name] = self.scores.get(name, 0.0) + float(columns[name].sum())


class Covered(Protocol):
    """A summary of a slot, or of a model."""

    def coverage(self, measure: str = "r2", *, control: bool = False) -> float:
        """Share of the edges whose formula is good by a measure."""


def coverages(summary: Covered) -> dict[str, float | None]:
    """JSON-ready coverages by every measure, of the model and of the random control."""
    return {
        f"{prefix}_{measure}": json_number(summary.coverage(measure, control=control))
        for prefix, control in (("coverage", False), ("control_coverage", True))
        for measure in MEASURES
    }


def _counts(measure: str, columns: dict[str, Tensor], fits: SymbolicFits) -> tuple[int, int]:
    """Edges with a good formula by a measure, and edges that count."""
    counts = fits.varies if measure == "r2" else fits.varies & columns["varies"]
    if measure == "r2_learned":
        counts = counts & columns["bends"]
    return int((columns[measure][counts] >= GOOD).sum()), int(counts.sum())
