"""The audit of a model: every edge with its range, scores and formula, beside a random baseline.

Memory does not grow with the number of edges. Slots are recorded and scored in groups that fit a budget, the edges of a
group are named a chunk at a time, and the rows of a chunk go to files (`edge_table`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kansformer.conversion.slots import CurveSlot, EdgeRef, choose_curve_slots
from kansformer.errors import ConfigError
from kansformer.files import atomic_file
from kansformer.interp.activity import ALIVE, edge_size
from kansformer.interp.batches import BatchReader, mean_loss, replayable
from kansformer.interp.controls import base_alone, random_curves
from kansformer.interp.curves import edge_curves, sample_points
from kansformer.interp.edge_features import base_values, edge_bases, edge_weights, num_terms
from kansformer.interp.edge_table import EdgeTable, TableFolder
from kansformer.interp.edits import Function, replace_edges
from kansformer.interp.effects import Faithfulness
from kansformer.interp.fidelity import RandomEdges, fidelity, recorded_points
from kansformer.interp.recording import EdgeRecords, RecordedSlot, record_slots
from kansformer.interp.recovery import faithfulness
from kansformer.interp.scores import EdgeScores, attribute, check_reached, score_inputs
from kansformer.interp.slot_summary import POINTS, SlotSummary, edge_columns, input_columns
from kansformer.interp.summary import ModelSummary
from kansformer.interp.wording import PART_TEXTS
from kansformer.progress import Progress
from kansformer.symbolic import LIBRARY, SymbolicFits, SymbolLibrary, fit_symbolic
from kansformer.symbolic.symbol import symbol_values

# Edges that are sampled and fitted at once.
EDGE_CHUNK = 65_536
# Bytes that the records of inputs and the sums of attributions of a group of slots may take.
BUDGET = 2**29
# Of these, those of an edge, and those of an input beside its terms: its sample, its histogram and its range.
EDGE_BYTES, INPUT_BYTES = 16, 4 * 1024 + 8 * 34 + 8
# More edges than this are not evaluated one by one inside the model.
MAX_REPLACED = 100_000
# Tokens, or the first batch if it has more, on which all edges as formulas are measured in every metric: 12 passes.
FAITHFUL_TOKENS = 2048

Key = tuple[str, str]


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
        kept: a folder for the fits as they are made, from which a later call with the same model, inputs and library
            takes them, and for the tables of the summary. None keeps no fits, and takes the system's temporary folder.
        progress: called as batches are read, slots fitted and shares replaced.

    Returns:
        The summary. Its tables are files in a temporary folder, which is removed with it.

    Raises:
        ConversionStateError: the model has no curves.
        ConfigError: a slot or a part does not exist, or a share is not within 0 and 1.
        DataError: no token reaches a slot, or an input of a curve is not finite.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import convert, summarize
        >>> model = convert(Sequential(Linear(4, 8), SiLU(), Linear(8, 4)))
        >>> summary = summarize(model, {"input": torch.randn(64, 4)})
        >>> summary.num_edges, len(summary.to_pandas())
        (8, 8)
        >>> print(summary.conclusion)
        No curve was trained: the learned part of all 8 edges is exactly zero ...
    """
    begin = time.perf_counter()
    if not all(0 <= share <= 1 for share in replace):
        raise ConfigError(f"The shares to replace must be from 0 to 1, got {tuple(replace)}.")
    if part not in PART_TEXTS:
        raise ConfigError(f"Unknown part {part!r} of edges. Choose edge or learned.")
    chosen = choose_curve_slots(model, slots)
    total = sum(slot.num_edges for slot in chosen.values())
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    with replayable(batches) as again:
        reader = BatchReader(again, progress)
        audit = _Audit(model, LIBRARY if library is None else library, part, kept, progress, total)
        try:
            for group in _groups(chosen):
                audit.add(group, reader)
            summaries = tuple(audit.summaries.values())
            losses, kept_by_formulas = [], None
            if reader.labelled and total <= MAX_REPLACED and replace:
                formulas = _Formulas(model, summaries)
                losses = formulas.losses(reader, replace)
                kept_by_formulas = formulas.faithfulness(reader, audit.tokens)
        except BaseException:
            audit.folder.remove()  # a traceback that somebody keeps would keep it
            raise
    tokens = reader.tokens or audit.tokens
    seconds = time.perf_counter() - begin
    loss = audit.loss if reader.labelled else None
    return ModelSummary(summaries, tokens, loss, tuple(losses), seconds, kept_by_formulas)


@dataclass
class _Audit:
    """What naming the edges of slots takes, and how many are named."""

    model: nn.Module
    library: SymbolLibrary
    part: str
    cache: Path | None
    progress: Progress | None
    total: int
    done: int = 0
    tokens: int = 0
    loss: float | None = None

    def __post_init__(self) -> None:
        self.begin = time.perf_counter()
        self.folder = TableFolder(self.cache)
        self.summaries: dict[Key, SlotSummary] = {}
        self.fingerprints: dict[Key, str] = {}
        self.sizes: dict[Key, float] = {}

    def add(self, group: Mapping[Key, tuple[CurveSlot, slice]], reader: BatchReader) -> None:
        """Audit the edges from some inputs of a few slots."""
        slots = [slot for slot, _ in group.values()]
        inputs = {key: chosen for key, (_, chosen) in group.items()}
        scored: dict[Key, Tensor] = {}
        with record_slots(slots) as records:
            batches = reader.read("reading")
            if reader.labelled:
                scored, loss = attribute(self.model, batches, records, inputs)
            else:
                loss = mean_loss(self.model, batches)
        self.loss = loss if self.loss is None else self.loss
        check_reached(records)
        for key, (slot, chosen) in group.items():
            recorded = records[key]
            self.tokens = max(self.tokens, recorded.tokens)
            if key not in self.summaries:
                self.summaries[key] = self._begin(slot, records)
            node_variance_O = recorded.node_variances()
            for chunk in _input_chunks(slot, chosen):
                of_chunk = slice(chunk.start - chosen.start, chunk.stop - chosen.start)
                attributions = scored[key][:, of_chunk] if key in scored else None
                scores = score_inputs(recorded, chunk, node_variance_O, attributions)
                self._add_edges(slot, records, chunk, scores)

    def _begin(self, slot: CurveSlot, records: EdgeRecords) -> SlotSummary:
        """The summary of a slot without its edges: its inputs, and random edges as a control."""
        recorded = records[slot.site, slot.name]
        random = RandomEdges(slot)
        control = self._fit(*random.at(sample_points(slot, records, POINTS)))
        control_fidelity = fidelity(control, *random.at(recorded_points(recorded, POINTS)), part=self.part)
        if self.cache is not None:
            self.fingerprints[slot.site, slot.name] = _fingerprint(slot, recorded, self.library, self.part)
        self.sizes[slot.site, slot.name] = edge_size(recorded)
        inputs = EdgeTable(self.folder)
        inputs.append(input_columns(recorded))
        return SlotSummary(slot, inputs, EdgeTable(self.folder), self.part, control, control_fidelity)

    def _add_edges(self, slot: CurveSlot, records: EdgeRecords, inputs: slice, scores: EdgeScores) -> None:
        """Name the edges from some inputs of a slot, judge the formulas, and write the rows."""
        fits = self._fit_inputs(slot, records, inputs)
        points_IS = recorded_points(records[slot.site, slot.name], POINTS, inputs)
        curves = edge_curves(self.model, slot.site, slot.name, inputs=inputs, at=points_IS)
        judged = fidelity(fits, curves.x, curves.y, curves.learned, part=self.part)
        trained = edge_weights(slot, inputs)[..., 1:].ne(0).any(-1).flatten().cpu()
        alive = (curves.learned.abs() > ALIVE * self.sizes[slot.site, slot.name]).float().mean(dim=1)
        columns = edge_columns(scores, fits, judged, trained=trained, alive=alive)
        self.summaries[slot.site, slot.name].edges.append(columns)

    def _fit_inputs(self, slot: CurveSlot, records: EdgeRecords, inputs: slice) -> SymbolicFits:
        """The fits of the edges from some inputs, from a file of the cache where there is one."""
        file = None
        if self.cache is not None:
            file = self.cache / f"{self.fingerprints[slot.site, slot.name]}-{inputs.start}-{inputs.stop}.parquet"
        if file is not None and file.exists():
            fits = _read_fits(file, self.library)
            self.done += len(fits)
            return fits
        curves = edge_curves(self.model, slot.site, slot.name, records=records, inputs=inputs, points=POINTS)
        fits = self._fit(curves.x, curves.y, curves.learned)
        if file is not None:
            _write_fits(file, fits)
        self.done += len(curves)
        if self.progress is not None:
            rate = self.done / (time.perf_counter() - self.begin)
            self.progress(f"{slot.site}/{slot.name}", self.done, self.total, f"{rate:,.0f} edges/s")
        return fits

    def _fit(self, x_ES: Tensor, y_ES: Tensor, learned_ES: Tensor) -> SymbolicFits:
        return fit_symbolic(x_ES, y_ES if self.part == "edge" else learned_ES, library=self.library)


def _read_fits(file: Path, library: SymbolLibrary) -> SymbolicFits:
    import pandas

    return SymbolicFits.from_dict(pandas.read_parquet(file).to_dict("list"), library)


def _write_fits(file: Path, fits: SymbolicFits) -> None:
    import pandas

    with atomic_file(file) as partial:
        pandas.DataFrame(fits.to_dict()).to_parquet(partial, index=False)


def _groups(slots: Mapping[Key, CurveSlot]) -> list[dict[Key, tuple[CurveSlot, slice]]]:
    """Slots, or ranges of their inputs, in groups whose records and sums fit the budget."""
    groups: list[dict[Key, tuple[CurveSlot, slice]]] = [{}]
    room = BUDGET
    for key, slot in slots.items():
        terms = num_terms(slot.module)
        records = slot.module.in_features * (INPUT_BYTES + 8 * terms * (terms + 1))
        of_input = slot.num_outputs * EDGE_BYTES
        start, inputs = 0, slot.module.in_features
        while start < inputs:
            if groups[-1] and room < records + of_input * min(inputs - start, _chunk_inputs(slot)):
                groups.append({})
                room = BUDGET
            room -= records
            stop = min(inputs, start + max(_chunk_inputs(slot), room // of_input))
            groups[-1][key] = slot, slice(start, stop)
            room -= (stop - start) * of_input
            start = stop
    return groups


def _fingerprint(slot: CurveSlot, recorded: RecordedSlot, library: SymbolLibrary, part: str) -> str:
    """A checksum of the layer, its inputs' ranges, the functions and the part of the edges: all that fits depend on."""
    digest = hashlib.sha256(f"{slot.site}/{slot.name} {part} {slot.module.curves} {library.names}".encode())
    grid = torch.linspace(-3, 3, 61, device=slot.module.coefficients.device)
    base_S1 = base_values(slot.module, grid.unsqueeze(-1), slice(1))
    for values in (base_S1, *(symbol_values(symbol, grid) for symbol in library)):
        digest.update(values.detach().float().cpu().numpy().tobytes())  # what a name stands for
    for symbol in library:
        settings = symbol.complexity, symbol.domain, symbol.branches, symbol.fit_scale, symbol.fit_shift
        digest.update(f"{settings} {symbol.candidates().tolist()}".encode())
    for tensor in (*slot.module.parameters(), *slot.module.buffers(), recorded.lower, recorded.upper):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class _Formulas:
    """The formulas of all edges of an audit, in the place of the edges."""

    def __init__(self, model: nn.Module, summaries: Sequence[SlotSummary]) -> None:
        self.model, self.part = model, summaries[0].part
        judged = [summary.fidelity for summary in summaries]
        r2 = torch.cat([fidelity.r2.where(fidelity.varies, -1.0) for fidelity in judged])
        refs = [ref for summary in summaries for ref in summary.slot.edges()]
        self.best_first = [refs[number] for number in r2.argsort(descending=True, stable=True).tolist()]
        self.fits = {(summary.slot.site, summary.slot.name): summary.fits for summary in summaries}

    def replace(self, edges: list[EdgeRef]) -> AbstractContextManager[nn.Module]:
        """The model with these edges computed by their formulas."""
        return replace_edges(self.model, edges, self._make_function)

    def _make_function(self, slot: CurveSlot, inputs: Tensor, outputs: Tensor) -> Function:
        fits = self.fits[slot.site, slot.name][slot.edge_numbers(inputs, outputs)]
        if self.part == "edge":
            return fits.evaluate
        return lambda x_EN: fits.evaluate(x_EN) + edge_bases(slot, x_EN.mT, inputs, outputs).mT

    def losses(self, reader: BatchReader, shares: Sequence[float]) -> list[tuple[float, int, float]]:
        """Share, number of edges, and the loss with that share of the edges as formulas, the best-fitted first."""
        losses = []
        for share in shares:
            best = self.best_first[: round(share * len(self.best_first))]
            with self.replace(best):
                losses.append((share, len(best), mean_loss(self.model, reader.read(f"{share:.0%} as formulas"))))
        return losses

    def faithfulness(self, reader: BatchReader, total_tokens: int) -> Faithfulness:
        """Of all edges as formulas, on the first batches, of `total_tokens` in all."""
        first, tokens = [], 0
        for batch in reader.batches:
            first.append(batch)
            tokens += batch["input_ids"].numel() if "input_ids" in batch else max(1, total_tokens // reader.count)
            if tokens >= FAITHFUL_TOKENS:
                break
        edges = self.best_first
        controls = {"base alone": base_alone(self.model, edges), "random curves": random_curves(self.model, edges)}
        return faithfulness(self.model, self.replace(edges), first, controls=controls, progress=reader.progress)


def _chunk_inputs(slot: CurveSlot) -> int:
    return max(1, EDGE_CHUNK // slot.num_outputs)


def _input_chunks(slot: CurveSlot, inputs: slice) -> list[slice]:
    size = _chunk_inputs(slot)
    return [slice(start, min(start + size, inputs.stop)) for start in range(inputs.start, inputs.stop, size)]
