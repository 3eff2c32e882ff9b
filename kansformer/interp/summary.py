"""The audit of a model: its figures, the tables of all slots, and a page.

The rows of edges are in files, which are read a part at a time.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kansformer.interp.edge_file import write_edges
from kansformer.interp.effects import HEADINGS, Faithfulness, json_number
from kansformer.interp.slot_summary import Covered, SlotSummary, coverages
from kansformer.interp.wording import (
    CONTROL,
    GLOSSARY,
    GOOD,
    PART_TEXTS,
    conclude,
    faithful_caption,
    loss_text,
    percent,
    place_name,
)
from kansformer.wording import MEASURES

if TYPE_CHECKING:
    import pandas


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
        >>> summary.write_parquet("edges.parquet").name
        'edges.parquet'
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

    def write_parquet(self, path: str | Path) -> Path:
        """Write the rows of `to_pandas` into a Parquet file, without ever holding all of them; returns its path.

        Numbers are rounded to what they mean: scores to 7 bits, a formula's numbers to 15 bits, R² to four decimals.
        """
        write_edges((part for slot in self.slots for part in slot.pandas_parts()), Path(path))
        return Path(path)

    def to_json(self) -> str:
        """The figures of the model and of every slot, without single edges."""
        values = {
            "conclusion": self.conclusion,
            "tokens": self.tokens,
            "part": self.slots[0].part,
            "loss": json_number(self.loss),
            "seconds": round(self.seconds, 1),
            "edges": self.num_edges,
            "trained": self.num_trained,
            **coverages(self),
            "replaced": [{"share": s, "edges": e, "loss": json_number(v)} for s, e, v in self.replaced],
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


def _percents(summary: Covered, measure: str) -> list[str]:
    """Coverage of the model and of the random control."""
    return [percent(summary.coverage(measure, control=control)) for control in (False, True)]


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of Markdown."""
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
