"""The audit of a model: every edge with its range, scores and formula, beside a random control."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kansformer.conversion.slots import CurveSlot, EdgeRef, find_curve_slots
from kansformer.errors import ConfigError, DataError
from kansformer.interp.baseline import RandomEdges
from kansformer.interp.batches import BatchReader, replayable
from kansformer.interp.curves import edge_curves, sample_points
from kansformer.interp.edge_features import edge_bases
from kansformer.interp.edits import replace_edges
from kansformer.interp.fidelity import Fidelity, fidelity, recorded_points
from kansformer.interp.fit_cache import fingerprint, load_fits, save_fits
from kansformer.interp.recording import RecordedSlot, record_edges
from kansformer.interp.scores import EdgeScores, edge_scores
from kansformer.nn.eval_mode import eval_mode
from kansformer.progress import Progress
from kansformer.symbolic import LIBRARY, SymbolicFits, SymbolLibrary, fit_symbolic

if TYPE_CHECKING:
    import pandas

POINTS = 64
# Edges that are sampled and fitted at once.
EDGE_CHUNK = 65_536
# More than so many edges are not evaluated one by one inside the model.
MOST_REPLACED = 100_000
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
        place: the slot.
        recorded: what went into it.
        scores: of its edges.
        part: what the fits are of, the whole `edge` or what was `learned` on top of its base.
        fits: the function of every edge on the range of its input, inputs first, then outputs.
        fidelity: how true they are at recorded inputs.
        control: fits of random curves of the same basis, size and ranges around the same bases.
        control_fidelity: how true those are.
    """

    place: CurveSlot
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
        found = re.search(r"\d+", self.place.site)
        return int(found.group()) if found else None

    @property
    def stack(self) -> str:
        """The site's path before its layer: models with encoder and decoder have two."""
        return re.split(r"\.?\d+", self.place.site)[0]

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

    def aggregate(self) -> dict[str, Any]:
        """JSON-ready figures of the slot."""
        outside = self.recorded.outside
        return {
            "site": self.place.site,
            "slot": self.place.name,
            "layer": self.layer,
            "stack": self.stack,
            "edges": len(self.fits),
            "outside": round(float(outside.mean()), 6),
            **{f"coverage_{measure}": _rounded(self.coverage(measure)) for measure in MEASURES},
            **{f"control_coverage_{measure}": _rounded(self.coverage(measure, control=True)) for measure in MEASURES},
            "families": self.fits.families(),
            "control_families": self.control.families(),
        }


@dataclass(frozen=True)
class ModelSummary:
    """The audit of a model.

    Args:
        slots: every slot with curves.
        tokens: that were read.
        loss: the model's on them, or None without labels.
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
            **{f"coverage_{measure}": _rounded(self.coverage(measure)) for measure in MEASURES},
            **{f"control_coverage_{measure}": _rounded(self.coverage(measure, control=True)) for measure in MEASURES},
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
            f"| edges whose formula has R² ≥ {GOOD} | model | random curves of the same kind |",
            "|---|---|---|",
        ]
        for measure, text in MEASURES.items():
            shares = [self.coverage(measure), self.coverage(measure, control=True)]
            lines.append(f"| {text} | {' | '.join(map(_percent, shares))} |")
        lines.append("")
        if self.replaced:
            lines += ["| best-fitted edges computed by their formulas | edges | loss |", "|---|---|---|"]
            lines += [f"| none | 0 | {self.loss or float('nan'):.4f} |"]
            lines += [f"| {share:.0%} | {count:,} | {loss:.4f} |" for share, count, loss in self.replaced] + [""]
        lines += ["| site | slot | edges | outside the domain | R² at tokens | control | of what was learned | control"]
        lines[-1] += " | functions |"
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        for slot in self.slots:
            names = ", ".join(f"{name} {count:,}" for name, count in list(slot.fits.families().items())[:4])
            shares = [slot.coverage(m, control=control) for m in list(MEASURES)[1:] for control in (False, True)]
            lines.append(
                f"| {slot.place.site} | {slot.place.name} | {len(slot.fits):,} | {slot.recorded.outside.mean():.2%} "
                f"| {' | '.join(map(_percent, shares))} | {names} |"
            )
        return "\n".join(lines) + "\n"


def summarize(
    model: nn.Module,
    batches: Mapping[str, Tensor] | Iterable[Mapping[str, Tensor]],
    *,
    library: SymbolLibrary | None = None,
    part: str = "edge",
    slots: Collection[tuple[str, str]] | None = None,
    replace: Sequence[float] = (0.1, 0.5, 1.0),
    kept: Path | None = None,
    progress: Progress | None = None,
) -> ModelSummary:
    """Audit every edge of a model: what goes into it, how much it matters, which function it is.

    Args:
        model: converted, or with KAN modules; left as it was.
        batches: what the model is called with, one batch or several; with labels the loss is a part of the audit. They
            are read several times and never held all at once. What is no sequence, such as a generator, is copied into
            a temporary folder.
        library: functions to choose from; None is all of `kansformer.symbolic.LIBRARY`.
        part: `edge` names whole edges; `learned` what was learned on top of their bases, which are known functions.
        slots: (site, slot) pairs to audit; None is all.
        replace: shares of the edges, the best-fitted first, that are put in place of their formulas to see the loss.
        kept: a folder for the fits of every slot as they come; a later call with the same model, inputs and library
            takes them from there. None keeps nothing.
        progress: called as batches are read, slots fitted and shares replaced.

    Returns:
        The summary.

    Raises:
        ConversionStateError: the model has no curves.
        ConfigError: a slot or a part does not exist, or a share is not within 0 and 1.
        DataError: no token reaches a slot, or an input of a curve is not finite.
    """
    begin = time.perf_counter()
    library = LIBRARY if library is None else library
    if not all(0 <= share <= 1 for share in replace):
        raise ConfigError(f"The shares to replace must be from 0 to 1, got {tuple(replace)}.")
    if part not in PART_TEXTS:
        raise ConfigError(f"Unknown part {part!r} of edges. Choose edge or learned.")
    places = _chosen_places(model, slots)
    with replayable(batches) as found:
        reader = BatchReader(found, progress)
        with record_edges(model) as records:
            loss = _run(model, reader.read("reading"))
        for place in places:
            if not records[place.site, place.name].tokens:
                raise DataError(f"No token of these batches reached {place.site}/{place.name}.")
        keys = [(place.site, place.name) for place in places]
        labelled = reader.labelled
        read_again = reader.read("scoring") if labelled else ()
        scores = edge_scores(model, read_again, attribution=labelled, slots=keys, records=records)
        fitting = time.perf_counter()
        total, done, summaries = sum(place.num_edges for place in places), 0, []
        for place in places:
            key = (place.site, place.name)
            file = None if kept is None else kept / f"{fingerprint(place, records[key], library, part)}.parquet"
            fits = None if file is None else load_fits(file, library, place.num_edges)
            if fits is None:
                parts = []
                for chunk in _input_chunks(place):
                    curves = edge_curves(model, *key, records=records, inputs=chunk, points=POINTS)
                    parts.append(
                        fit_symbolic(curves.x, curves.y if part == "edge" else curves.learned, library=library)
                    )
                    if progress is not None:
                        count = done + sum(map(len, parts))
                        rate = count / (time.perf_counter() - fitting)
                        progress(f"{place.site}/{place.name}", count, total, f"{rate:,.0f} edges/s")
                fits = SymbolicFits.cat(parts)
                if file is not None:
                    save_fits(fits, file)
            done += len(fits)
            points = recorded_points(records[key], POINTS)
            random = RandomEdges(place)
            x, y, learned = random.at(sample_points(place, records, POINTS))
            control = fit_symbolic(x, y if part == "edge" else learned, library=library)
            summaries.append(
                SlotSummary(
                    place,
                    records[key],
                    scores[key],
                    part,
                    fits,
                    _faith(model, place, fits, points, part),
                    control,
                    fidelity(control, *random.at(points), part=part),
                )
            )
        replaced = []
        if labelled and total <= MOST_REPLACED:
            replaced = _replaced_losses(model, reader, summaries, replace)
        tokens = reader.tokens or max(records[key].tokens for key in keys)
        return ModelSummary(
            tuple(summaries), tokens, loss if labelled else None, tuple(replaced), time.perf_counter() - begin
        )


def _faith(model: nn.Module, place: CurveSlot, fits: SymbolicFits, points_IS: Tensor, part: str) -> Fidelity:
    found, width = [], place.num_outputs
    for chunk in _input_chunks(place):
        curves = edge_curves(model, place.site, place.name, inputs=chunk, at=points_IS[chunk.start : chunk.stop])
        chosen = fits[chunk.start * width : chunk.stop * width]
        found.append(fidelity(chosen, curves.x, curves.y, curves.learned, part=part))
    return Fidelity.cat(found)


def _replaced_losses(
    model: nn.Module, reader: BatchReader, summaries: list[SlotSummary], shares: Sequence[float]
) -> list[tuple[float, int, float]]:
    refs = [(index, edge) for index, summary in enumerate(summaries) for edge in range(len(summary.fits))]
    trust = torch.cat([summary.fidelity.r2.where(summary.fidelity.varies, -1.0) for summary in summaries])
    order = trust.argsort(descending=True, stable=True).tolist()
    losses = []
    for share in shares:
        count = round(share * len(refs))
        chosen: dict[tuple[str, str], list[int]] = {}
        for position in order[:count]:
            index, edge = refs[position]
            chosen.setdefault((summaries[index].place.site, summaries[index].place.name), []).append(edge)
        with ExitStack() as stack:
            for summary in summaries:
                edges = torch.tensor(chosen.get((summary.place.site, summary.place.name), []), dtype=torch.long)
                if len(edges):
                    stack.enter_context(_formulas_in_place(model, summary, edges))
            losses.append((share, count, _run(model, reader.read(f"{share:.0%} as formulas"))))
    return losses


def _formulas_in_place(model: nn.Module, summary: SlotSummary, edges: Tensor) -> Any:
    place, width = summary.place, summary.place.num_outputs
    pairs = [(edge // width, edge % width if place.has_weights else edge) for edge in edges.tolist()]
    refs = [EdgeRef(place.site, place.name, i, o) for i, o in pairs]

    def formulas(place: CurveSlot, inputs: Tensor, outputs: Tensor) -> Callable[[Tensor], Tensor]:
        fits = summary.fits[edges]
        if summary.part == "edge":
            return fits.evaluate
        return lambda x_EN: fits.evaluate(x_EN) + edge_bases(place.module, x_EN.mT, inputs, outputs).mT

    return replace_edges(model, refs, formulas)


def _run(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> float:
    """The mean loss per batch; NaN without labels."""
    total, count = 0.0, 0
    with eval_mode(model), torch.no_grad():
        for batch in batches:
            loss = getattr(model(**batch), "loss", None)
            total, count = total + (math.nan if loss is None else float(loss)), count + 1
    return total / count if count else math.nan


def _chosen_places(model: nn.Module, slots: Collection[tuple[str, str]] | None) -> list[CurveSlot]:
    places = find_curve_slots(model)
    if slots is None:
        return places
    known = {(place.site, place.name): place for place in places}
    for key in slots:
        if key not in known:
            raise ConfigError(f"{key!r} has no curves. Choose from {len(known)}, such as {next(iter(known))}.")
    return [place for key, place in known.items() if key in slots]


def _input_chunks(place: CurveSlot) -> list[range]:
    size, inputs = max(1, EDGE_CHUNK // place.num_outputs), place.module.in_features
    return [range(start, min(start + size, inputs)) for start in range(0, inputs, size)]


def _rounded(value: float | None) -> float | None:
    return round(value, 5) if value is not None and math.isfinite(value) else None


def _percent(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "–"
