"""The results of an audit: figures and tables of a model's slots and edges.

A summary holds totals and the places of its tables; the rows of edges are in files, which are read a part at a time.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.conversion.slots import CurveSlot
from kansformer.interp.edge_file import write_edges
from kansformer.interp.edge_table import EdgeTable
from kansformer.interp.effects import HEADINGS, Faithfulness
from kansformer.interp.fidelity import Fidelity
from kansformer.interp.recording import RecordedSlot
from kansformer.interp.scores import EdgeScores
from kansformer.interp.wording import (
    CONTROL,
    GLOSSARY,
    GOOD,
    MEASURES,
    PART_TEXTS,
    conclude,
    faithful_caption,
    layer_of,
    loss_text,
    percent,
    place_name,
)
from kansformer.symbolic import SymbolicFits

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
        alive: the share of tokens at which it is alive, (E,).
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
            **_coverages(self),
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
        ever_alive: number of curves alive at one token or more.
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
        faithfulness: of all edges computed by their formulas, on the first tokens, beside their bases alone and random
            curves; None where `replaced` is empty.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import convert, summarize
        >>> model = convert(Sequential(Linear(4, 8), SiLU(), Linear(8, 4)))
        >>> summary = summarize(model, {"input": torch.randn(64, 4)})
        >>> summary.tokens, summary.coverage(), summary.place_names()
        (64, 1.0, ['activation'])
        >>> summary.write_parquet("edges.parquet")
    """

    slots: tuple[SlotSummary, ...]
    tokens: int
    loss: float | None
    replaced: tuple[tuple[float, int, float], ...]
    seconds: float
    faithfulness: Faithfulness | None = None

    def __str__(self) -> str:
        return self.to_markdown()

    @property
    def num_edges(self) -> int:
        """Edges of all slots."""
        return sum(len(slot.edges) for slot in self.slots)

    @property
    def num_trained(self) -> int:
        """Edges whose learned curve is not zero."""
        return sum(slot.totals.trained for slot in self.slots)

    @property
    def conclusion(self) -> str:
        """What the audit says, in one sentence."""
        return conclude(
            edges=self.num_edges,
            trained=self.num_trained,
            model=self.counts("r2_learned"),
            control=(self.coverage("r2_learned", control=True), self.counts("r2_learned", control=True)[1]),
            loss=self.loss,
            loss_with_formulas=self.replaced[-1][2] if self.replaced and self.replaced[-1][0] == 1 else None,
        )

    def place_names(self) -> list[str]:
        """A name for each slot, such as "layer 0's activation"."""
        names = [place_name(slot.slot) for slot in self.slots]
        repeated = Counter(names)
        sites = [slot.slot.site for slot in self.slots]
        return [f"{name} in {site}" if repeated[name] > 1 else name for name, site in zip(names, sites, strict=True)]

    def to_pandas(self) -> pandas.DataFrame:
        """All edges of all slots, one row each."""
        import pandas

        return pandas.concat([slot.to_pandas() for slot in self.slots], ignore_index=True)

    def write_parquet(self, path: str | Path) -> None:
        """Write the rows of `to_pandas` into a Parquet file, without ever holding all of them.

        Numbers are rounded to what they mean: scores to 7 bits, a formula's numbers to 15 bits, R² to four decimals.
        """
        write_edges((part for slot in self.slots for part in slot.pandas_parts()), Path(path))

    def to_json(self) -> str:
        """The figures of the model and of every slot, without single edges."""
        values = {
            "conclusion": self.conclusion,
            "tokens": self.tokens,
            "part": self.slots[0].part,
            "loss": _finite(self.loss),
            "seconds": round(self.seconds, 1),
            "edges": self.num_edges,
            "trained": self.num_trained,
            **_coverages(self),
            "replaced": [{"share": s, "edges": e, "loss": _finite(v)} for s, e, v in self.replaced],
            "faithfulness": None if self.faithfulness is None else self.faithfulness.to_dict(),
            "slots": [slot.aggregate() for slot in self.slots],
        }
        return json.dumps(values, indent=1, allow_nan=False)

    def coverage(self, measure: str = "r2", *, control: bool = False) -> float:
        """Share of all edges that vary whose formula has 0.99 or more by one of `MEASURES`.

        The control is a sample: a slot's share counts by the edges that the slot has. By `r2_learned` only edges whose
        learned curve varies count.
        """
        counted = [(slot.counts(measure)[1], slot.coverage(measure, control=control)) for slot in self.slots]
        known = [(edges, share) for edges, share in counted if edges and not math.isnan(share)]
        return sum(edges * share for edges, share in known) / sum(edges for edges, _ in known) if known else math.nan

    def counts(self, measure: str, *, control: bool = False) -> tuple[int, int]:
        """Edges of all slots with 0.99 or more by a measure, and all that count."""
        counts = [slot.counts(measure, control=control) for slot in self.slots]
        return sum(good for good, _ in counts), sum(counted for _, counted in counts)

    def coverage_table(self) -> list[list[str]]:
        """Rows of text: a measure, the share of the model's edges and that of the random control."""
        return [[text, *_percents(self, measure)] for measure, text in MEASURES.items()]

    def loss_table(self) -> list[list[str]]:
        """Rows of text: a share of the edges computed by formulas, their number, the loss; empty without losses."""
        rows = [[f"{share:.0%}", f"{count:,}", loss_text(loss)] for share, count, loss in self.replaced]
        return [["none", "0", loss_text(self.loss)], *rows] if rows else []

    def to_markdown(self) -> str:
        """A page: the figures of the model, and a row per slot."""
        trained, edges = self.num_trained, self.num_edges
        lines = [
            "# What the curves are",
            "",
            self.conclusion,
            "",
            f"{edges:,} edges in {len(self.slots)} slots, {trained:,} of them trained, read on {self.tokens:,} tokens "
            f"in {self.seconds:.0f} s. The formulas are of {PART_TEXTS[self.slots[0].part]}.",
            "",
        ]
        lines += _table([f"edges whose formula has R² ≥ {GOOD}", "model", CONTROL], self.coverage_table())
        if self.replaced:
            columns = ["best-fitted edges computed by their formulas", "edges", "loss, nats"]
            lines += ["", *_table(columns, self.loss_table())]
        if self.faithfulness is not None:
            lines += ["", faithful_caption(self.faithfulness), "", *_table([*HEADINGS], self.faithfulness.table())]
        rows = []
        for summary, place in zip(self.slots, self.place_names(), strict=True):
            names = ", ".join(f"{name} {count:,}" for name, count in summary.totals.families.most_common(4))
            shares = [*_percents(summary, "r2_tokens"), *_percents(summary, "r2_learned")]
            numbers = [f"{len(summary.edges):,}", f"{summary.totals.trained:,}", f"{summary.totals.l0:,.1f}"]
            numbers.append(f"{summary.outside:.2%}")
            rows.append([place, *numbers, *shares, names])
        columns = ["slot", "edges", "trained", "L0", "outside the domain"]
        columns += ["R² at tokens", "control", "of what was learned", "control", "functions"]
        terms = [f"- **{term}**: {meaning}" for term, meaning in GLOSSARY.items()]
        return "\n".join([*lines, "", *_table(columns, rows), "", "## Terms", "", *terms]) + "\n"


def _counts(measure: str, columns: dict[str, Tensor], fits: SymbolicFits) -> tuple[int, int]:
    """Edges with a good formula by a measure, and edges that count."""
    counts = fits.varies if measure == "r2" else fits.varies & columns["varies"]
    if measure == "r2_learned":
        counts = counts & columns["bends"]
    return int((columns[measure][counts] >= GOOD).sum()), int(counts.sum())


def _coverages(summary: SlotSummary | ModelSummary) -> dict[str, float | None]:
    return {
        f"{prefix}_{measure}": _finite(summary.coverage(measure, control=control))
        for prefix, control in (("coverage", False), ("control_coverage", True))
        for measure in MEASURES
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _percents(summary: SlotSummary | ModelSummary, measure: str) -> list[str]:
    """Coverage of the model and of the random control."""
    return [percent(summary.coverage(measure, control=control)) for control in (False, True)]


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of Markdown."""
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
