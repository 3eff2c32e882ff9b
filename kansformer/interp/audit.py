"""The audit of a model: every edge with its range, scores and formula, beside a random baseline."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kansformer.conversion.slots import CurveSlot, find_curve_slots
from kansformer.errors import ConfigError
from kansformer.files import atomic_file
from kansformer.interp.batches import BatchReader, mean_loss, replayable
from kansformer.interp.curves import edge_curves, sample_points
from kansformer.interp.edge_features import base_values, edge_bases
from kansformer.interp.edits import Function, replace_edges
from kansformer.interp.fidelity import Fidelity, RandomEdges, fidelity, recorded_points
from kansformer.interp.recording import EdgeRecords, RecordedSlot, record_edges
from kansformer.interp.scores import EdgeScores, edge_scores
from kansformer.interp.summary import PART_TEXTS, POINTS, ModelSummary, SlotSummary
from kansformer.progress import Progress
from kansformer.symbolic import LIBRARY, SymbolicFits, SymbolLibrary, fit_symbolic

# Edges that are sampled and fitted at once.
EDGE_CHUNK = 65_536
# More edges than this are not evaluated one by one inside the model.
MAX_REPLACED = 100_000


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
            are read several times and never held all at once. Anything but a sequence, such as a generator, is copied
            into a temporary folder.
        library: functions to choose from; None is all of `kansformer.symbolic.LIBRARY`.
        part: `edge` names whole edges; `learned` what was learned on top of their bases, which are known functions.
        slots: (site, slot) pairs to audit; None is all.
        replace: shares of the edges, the best-fitted first, that are computed by their formulas to see the loss.
        kept: a folder for the fits of every slot as they are made; a later call with the same model, inputs and library
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
    if not all(0 <= share <= 1 for share in replace):
        raise ConfigError(f"The shares to replace must be from 0 to 1, got {tuple(replace)}.")
    if part not in PART_TEXTS:
        raise ConfigError(f"Unknown part {part!r} of edges. Choose edge or learned.")
    chosen = _chosen_slots(model, slots)
    total = sum(slot.num_edges for slot in chosen.values())
    with replayable(batches) as again:
        reader = BatchReader(again, progress)
        with record_edges(model) as records:
            loss = mean_loss(model, reader.read("reading"))
        labelled = reader.labelled
        read_again = reader.read("scoring") if labelled else ()
        scores = edge_scores(model, read_again, attribution=labelled, slots=chosen, records=records)
        audit = _Audit(model, records, LIBRARY if library is None else library, part, kept, progress, total)
        summaries = tuple(audit.summarize(slot, scores[key]) for key, slot in chosen.items())
        losses = []
        if labelled and total <= MAX_REPLACED:
            losses = _losses_with_formulas(model, reader, summaries, replace)
    tokens = reader.tokens or max(records[key].tokens for key in chosen)
    seconds = time.perf_counter() - begin
    return ModelSummary(summaries, tokens, loss if labelled else None, tuple(losses), seconds)


@dataclass
class _Audit:
    """What naming the edges of a slot takes, and how many are named."""

    model: nn.Module
    records: EdgeRecords
    library: SymbolLibrary
    part: str
    cache: Path | None
    progress: Progress | None
    total: int
    done: int = 0

    def __post_init__(self) -> None:
        self.begin = time.perf_counter()

    def summarize(self, slot: CurveSlot, scores: EdgeScores) -> SlotSummary:
        """Name the edges of a slot and random ones, and judge the formulas."""
        recorded = self.records[slot.site, slot.name]
        fits = self._fit_slot(slot) if self.cache is None else self._cached_fits(slot, self.cache)
        points_IS = recorded_points(recorded, POINTS)
        judged = []
        for chunk in _input_chunks(slot):
            curves = edge_curves(self.model, slot.site, slot.name, inputs=chunk, at=points_IS[chunk])
            of_chunk = fits[chunk.start * slot.num_outputs : chunk.stop * slot.num_outputs]
            judged.append(fidelity(of_chunk, curves.x, curves.y, curves.learned, part=self.part))
        random = RandomEdges(slot)
        control = self._fit(*random.at(sample_points(slot, self.records, POINTS)))
        control_fidelity = fidelity(control, *random.at(points_IS), part=self.part)
        return SlotSummary(slot, recorded, scores, self.part, fits, Fidelity.cat(judged), control, control_fidelity)

    def _cached_fits(self, slot: CurveSlot, folder: Path) -> SymbolicFits:
        """The fits in a file of the folder, one per slot, so that an interrupted audit continues where it was."""
        import pandas

        file = folder / f"{_fingerprint(slot, self.records[slot.site, slot.name], self.library, self.part)}.parquet"
        if file.exists():
            self.done += slot.num_edges
            return SymbolicFits.from_dict(pandas.read_parquet(file).to_dict("list"), self.library)
        fits = self._fit_slot(slot)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as partial:
            pandas.DataFrame(fits.to_dict()).to_parquet(partial, index=False)
        return fits

    def _fit_slot(self, slot: CurveSlot) -> SymbolicFits:
        parts = []
        for chunk in _input_chunks(slot):
            curves = edge_curves(self.model, slot.site, slot.name, records=self.records, inputs=chunk, points=POINTS)
            parts.append(self._fit(curves.x, curves.y, curves.learned))
            self.done += len(curves)
            if self.progress is not None:
                rate = self.done / (time.perf_counter() - self.begin)
                self.progress(f"{slot.site}/{slot.name}", self.done, self.total, f"{rate:,.0f} edges/s")
        return SymbolicFits.cat(parts)

    def _fit(self, x_ES: Tensor, y_ES: Tensor, learned_ES: Tensor) -> SymbolicFits:
        return fit_symbolic(x_ES, y_ES if self.part == "edge" else learned_ES, library=self.library)


def _fingerprint(slot: CurveSlot, recorded: RecordedSlot, library: SymbolLibrary, part: str) -> str:
    """A checksum of the layer, its inputs' ranges, the functions and the part of the edges: all that fits depend on."""
    digest = hashlib.sha256(f"{slot.site}/{slot.name} {part} {slot.module.curves} {library.names}".encode())
    grid = torch.linspace(-3, 3, 61, device=slot.module.coefficients.device)
    for values in (base_values(slot.module, grid), *(symbol.function(grid) for symbol in library)):
        digest.update(values.detach().float().cpu().numpy().tobytes())  # what a name stands for
    for tensor in (*slot.module.parameters(), *slot.module.buffers(), recorded.lower, recorded.upper):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _losses_with_formulas(
    model: nn.Module, reader: BatchReader, summaries: Sequence[SlotSummary], shares: Sequence[float]
) -> list[tuple[float, int, float]]:
    """Share, number of edges, and the loss with that share of the edges computed by their formulas, the best first."""
    r2 = torch.cat([summary.fidelity.r2.where(summary.fidelity.varies, -1.0) for summary in summaries])
    order = r2.argsort(descending=True, stable=True)
    refs = [ref for summary in summaries for ref in summary.slot.edges()]
    fits_of = {(summary.slot.site, summary.slot.name): summary.fits for summary in summaries}

    def formulas(slot: CurveSlot, inputs: Tensor, outputs: Tensor) -> Function:
        fits = fits_of[slot.site, slot.name][slot.edge_numbers(inputs, outputs)]
        if summaries[0].part == "edge":
            return fits.evaluate
        return lambda x_EN: fits.evaluate(x_EN) + edge_bases(slot.module, x_EN.mT, inputs, outputs).mT

    losses = []
    for share in shares:
        best = order[: round(share * len(order))].tolist()
        with replace_edges(model, [refs[number] for number in best], formulas):
            losses.append((share, len(best), mean_loss(model, reader.read(f"{share:.0%} as formulas"))))
    return losses


def _chosen_slots(model: nn.Module, names: Collection[tuple[str, str]] | None) -> dict[tuple[str, str], CurveSlot]:
    slots = {(slot.site, slot.name): slot for slot in find_curve_slots(model)}
    for key in names or ():
        if key not in slots:
            raise ConfigError(f"{key!r} has no curves. Choose from {len(slots)}, such as {next(iter(slots))}.")
    return {key: slot for key, slot in slots.items() if names is None or key in names}


def _input_chunks(slot: CurveSlot) -> list[slice]:
    size, inputs = max(1, EDGE_CHUNK // slot.num_outputs), slot.module.in_features
    return [slice(start, min(start + size, inputs)) for start in range(0, inputs, size)]
