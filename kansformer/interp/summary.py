"""The audit of a model: every edge with its range, scores and formula, beside a random control.

Shape letters: E edges, S sample points, I inputs, O outputs, F features.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kansformer.errors import ConfigError, DataError
from kansformer.interp.curves import edge_curves, sample_points
from kansformer.interp.edits import replace_edges
from kansformer.interp.functions import edge_features, edge_weights
from kansformer.interp.keeping import fingerprint, load_fits, save_fits
from kansformer.interp.places import EdgeRef, Place, find_places
from kansformer.interp.recording import EdgeRecords, RecordedSlot, record_edges
from kansformer.interp.scores import EdgeScores, edge_scores
from kansformer.nn.modes import evaluating
from kansformer.symbolic import LIBRARY, SymbolicFits, SymbolLibrary, fit_symbolic

if TYPE_CHECKING:
    import pandas

POINTS = 64
# Edges that are sampled and fitted at once.
EDGE_CHUNK = 65_536
CONTROL_CURVES, CONTROL_INPUTS, CONTROL_OUTPUTS = 2048, 64, 32
CONTROL_SEED = 0
# More than so many edges are not evaluated one by one inside the model.
MOST_REPLACED = 100_000
GOOD = 0.99

Progress = Callable[[str, int, int, str], None]
"""Called with what is going on, how much of it is done, how much there is, and the unit."""


@dataclass(frozen=True)
class SlotSummary:
    """One slot, all of its edges.

    Args:
        place: the slot.
        recorded: what went into it.
        scores: of its edges.
        fits: the function of every edge on the range of its input, inputs first, then outputs.
        control: fits of random curves of the same basis, size and ranges around the same bases.
    """

    place: Place
    recorded: RecordedSlot
    scores: EdgeScores
    fits: SymbolicFits
    control: SymbolicFits

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
        fits = self.fits.to_pandas().rename(columns={"name": "function"})
        return table.join(fits)

    def aggregate(self) -> dict[str, Any]:
        """JSON-ready figures of the slot."""
        outside = self.recorded.outside
        return {
            "site": self.place.site,
            "slot": self.place.slot,
            "layer": self.layer,
            "stack": self.stack,
            "edges": len(self.fits),
            "outside": round(float(outside.mean()), 6),
            "coverage": _rounded(self.fits.coverage(GOOD)),
            "control_coverage": _rounded(self.control.coverage(GOOD)),
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
            "loss": _rounded(self.loss),
            "seconds": round(self.seconds, 1),
            "edges": sum(len(slot.fits) for slot in self.slots),
            "coverage": _rounded(self.coverage()),
            "control_coverage": _rounded(self.coverage(control=True)),
            "replaced": [{"share": s, "edges": e, "loss": _rounded(v)} for s, e, v in self.replaced],
            "slots": [slot.aggregate() for slot in self.slots],
        }
        return json.dumps(values, indent=1, allow_nan=False)

    def coverage(self, *, control: bool = False) -> float:
        """Share of all edges that vary whose formula has R² ≥ 0.99 on unseen points."""
        fits = [slot.control if control else slot.fits for slot in self.slots]
        varying = [f[f.varies.nonzero()[:, 0]] for f in fits]
        # The control is a sample: a slot's share counts by the edges that the slot has.
        weights = [int(slot.fits.varies.sum()) for slot in self.slots]
        known = [(w, f.coverage(GOOD)) for w, f in zip(weights, varying, strict=True) if w and len(f)]
        return sum(w * share for w, share in known) / sum(w for w, _ in known) if known else float("nan")

    def to_markdown(self) -> str:
        """A page: the figures of the model, a row per slot, and the edges that matter most."""
        edges = sum(len(slot.fits) for slot in self.slots)
        lines = [
            "# What the curves are",
            "",
            f"{edges:,} edges in {len(self.slots)} slots, read on {self.tokens:,} tokens in {self.seconds:.0f} s. "
            f"**{self.coverage():.1%}** of them are a function of the library with R² ≥ {GOOD} on points that the fit "
            f"did not see; of random curves of the same kind, **{self.coverage(control=True):.1%}** are.",
            "",
        ]
        if self.replaced:
            lines += ["| best-fitted edges computed by their formulas | edges | loss |", "|---|---|---|"]
            lines += [f"| none | 0 | {self.loss or float('nan'):.4f} |"]
            lines += [f"| {share:.0%} | {count:,} | {loss:.4f} |" for share, count, loss in self.replaced] + [""]
        lines += ["| site | slot | edges | outside the domain | R² ≥ 0.99 | control | functions |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for slot in self.slots:
            figures = slot.aggregate()
            common = ", ".join(f"{name} {count:,}" for name, count in list(figures["families"].items())[:4])
            lines.append(
                f"| {slot.place.site} | {slot.place.slot} | {figures['edges']:,} | {figures['outside']:.2%} "
                f"| {_percent(figures['coverage'])} | {_percent(figures['control_coverage'])} | {common} |"
            )
        return "\n".join(lines) + "\n"


def summarize(
    model: nn.Module,
    batches: Mapping[str, Tensor] | Iterable[Mapping[str, Tensor]],
    *,
    library: SymbolLibrary | None = None,
    slots: Collection[tuple[str, str]] | None = None,
    replace: Sequence[float] = (0.1, 0.5, 1.0),
    kept: Path | None = None,
    progress: Progress | None = None,
) -> ModelSummary:
    """Audit every edge of a model: what goes into it, how much it matters, which function it is.

    Args:
        model: converted, or with KAN modules; left as it was.
        batches: what the model is called with, one batch or several; with labels the loss is a part of the audit.
        library: functions to choose from; None is all of `kansformer.symbolic.LIBRARY`.
        slots: (site, slot) pairs to audit; None is all.
        replace: shares of the edges, the best-fitted first, that are put in place of their formulas to see the loss.
        kept: a folder for the fits of every slot as they come; a later call with the same model, inputs and library
            takes them from there. None keeps nothing.
        progress: called as batches are read, slots fitted and shares replaced.

    Returns:
        The summary.

    Raises:
        ConversionStateError: the model has no curves.
        ConfigError: a slot does not exist, or a share is not within 0 and 1.
        DataError: no token reaches a slot, or an input of a curve is not finite.
    """
    begin = time.perf_counter()
    library = LIBRARY if library is None else library
    batches = [batches] if isinstance(batches, Mapping) else list(batches)
    if not all(0 <= share <= 1 for share in replace):
        raise ConfigError(f"The shares to replace must be from 0 to 1, got {tuple(replace)}.")
    places = _chosen_places(model, slots)
    labelled = bool(batches) and all("labels" in batch for batch in batches)
    with record_edges(model) as records:
        loss = _run(model, _told(batches, "reading", progress))
    for place in places:
        if not records[place.site, place.slot].tokens:
            raise DataError(f"No token of these batches reached {place.site}/{place.slot}.")
    keys = [(place.site, place.slot) for place in places]
    scores = edge_scores(model, _told(batches, "scoring", progress), attribution=labelled, slots=keys, records=records)
    total, done, summaries = sum(place.num_edges for place in places), 0, []
    for place in places:
        key = (place.site, place.slot)
        file = None if kept is None else kept / f"{fingerprint(place, records[key], library)}.parquet"
        fits = None if file is None else load_fits(file, library, place.num_edges)
        if fits is None:
            parts = []
            for chunk in _input_chunks(place):
                curves = edge_curves(model, *key, records=records, inputs=chunk, points=POINTS)
                parts.append(fit_symbolic(curves.x, curves.y, library=library))
                if progress is not None:
                    progress(f"{place.site}/{place.slot}", done + sum(map(len, parts)), total, "edges")
            fits = SymbolicFits.cat(parts)
            if file is not None:
                save_fits(fits, file)
        done += len(fits)
        control = fit_symbolic(*control_curves(place, records), library=library)
        summaries.append(SlotSummary(place, records[key], scores[key], fits, control))
    replaced = []
    if labelled and total <= MOST_REPLACED:
        replaced = _replaced_losses(model, batches, summaries, replace, progress)
    tokens = sum(batch["input_ids"].numel() for batch in batches if "input_ids" in batch)
    tokens = tokens or max(records[key].tokens for key in keys)
    return ModelSummary(
        tuple(summaries), tokens, loss if labelled else None, tuple(replaced), time.perf_counter() - begin
    )


@torch.no_grad()
def control_curves(place: Place, records: EdgeRecords | None) -> tuple[Tensor, Tensor]:
    """Random edges of a slot, x and y, (E, S) each, E at most 2,048.

    They have the base and the range of edges of the slot, drawn at random, and coefficients drawn with the mean square
    of those edges' own.
    """
    generator = torch.Generator().manual_seed(CONTROL_SEED)
    module = place.module
    most_inputs, most_outputs = (CONTROL_INPUTS, CONTROL_OUTPUTS) if place.has_weights else (CONTROL_CURVES, 1)
    inputs = torch.randperm(module.in_features, generator=generator)[:most_inputs]
    outputs = torch.randperm(place.num_outputs, generator=generator)[:most_outputs]
    x_IS = sample_points(place, records, POINTS)[inputs]
    device = module.coefficients.device
    features_ISF = edge_features(module, x_IS.mT.to(device), inputs.to(device)).transpose(0, 1).cpu()
    weights_IOF = edge_weights(module, inputs.to(device), outputs.to(device)).cpu().to(features_ISF)
    learned = weights_IOF[..., 1:]
    drawn = torch.randn(learned.shape, generator=generator, dtype=learned.dtype)
    drawn *= learned.square().mean(-1, keepdim=True).sqrt()
    y_IOS = torch.cat([weights_IOF[..., :1], drawn], dim=-1) @ features_ISF.mT
    return x_IS.repeat_interleave(len(outputs), dim=0), y_IOS.flatten(0, 1)


def _replaced_losses(
    model: nn.Module, batches: list, summaries: list[SlotSummary], shares: Sequence[float], progress: Progress | None
) -> list[tuple[float, int, float]]:
    refs = [(index, edge) for index, summary in enumerate(summaries) for edge in range(len(summary.fits))]
    order = torch.cat([summary.fits.r2 for summary in summaries]).argsort(descending=True, stable=True).tolist()
    losses = []
    for share in shares:
        count = round(share * len(refs))
        chosen: dict[tuple[str, str], list[int]] = {}
        for position in order[:count]:
            index, edge = refs[position]
            chosen.setdefault((summaries[index].place.site, summaries[index].place.slot), []).append(edge)
        with ExitStack() as stack:
            for summary in summaries:
                edges = torch.tensor(chosen.get((summary.place.site, summary.place.slot), []), dtype=torch.long)
                if len(edges):
                    stack.enter_context(_formulas_in_place(model, summary, edges))
            stage = f"{share:.0%} as formulas"
            losses.append((share, count, _run(model, _told(batches, stage, progress))))
    return losses


def _formulas_in_place(model: nn.Module, summary: SlotSummary, edges: Tensor) -> Any:
    place, width = summary.place, summary.place.num_outputs
    pairs = [(edge // width, edge % width if place.has_weights else edge) for edge in edges.tolist()]
    refs = [EdgeRef(place.site, place.slot, i, o) for i, o in pairs]
    return replace_edges(model, refs, lambda *_: summary.fits[edges].evaluate)


def _told(batches: list, stage: str, progress: Progress | None) -> Iterator[Mapping[str, Tensor]]:
    """The batches, with word of each that is done."""
    for count, batch in enumerate(batches, start=1):
        yield batch
        if progress is not None:
            progress(stage, count, len(batches), "batches")


def _run(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> float:
    """The mean loss per batch; NaN without labels."""
    losses = []
    with evaluating(model), torch.no_grad():
        for batch in batches:
            loss = getattr(model(**batch), "loss", None)
            losses.append(float("nan") if loss is None else float(loss))
    return sum(losses) / len(losses) if losses else float("nan")


def _chosen_places(model: nn.Module, slots: Collection[tuple[str, str]] | None) -> list[Place]:
    places = find_places(model)
    if slots is None:
        return places
    known = {(place.site, place.slot): place for place in places}
    for key in slots:
        if key not in known:
            raise ConfigError(f"{key!r} has no curves. Choose from {len(known)}, such as {next(iter(known))}.")
    return [place for key, place in known.items() if key in slots]


def _input_chunks(place: Place) -> list[range]:
    size, inputs = max(1, EDGE_CHUNK // place.num_outputs), place.module.in_features
    return [range(start, min(start + size, inputs)) for start in range(0, inputs, size)]


def _rounded(value: float | None) -> float | None:
    return round(value, 5) if value is not None and math.isfinite(value) else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
