"""How faithful a model is to itself when layers are replaced, in the metrics of work on sparse autoencoders.

A batch runs through the model as it is, with the edit, and with the same layers' outputs at zero and at their mean over
all tokens. The share of the loss that the edit keeps is

    ce_loss_score = (CE_ablated - CE_replaced) / (CE_ablated - CE_original)

and `kl_div_score` the same of KL(original ‖ ·), which is 0 for the original: 1 is the model itself, 0 no better than
without the layers, and a score can leave that range. CE is a mean over labels, KL over tokens that are not padding.
FVU = Σ(ŷ - y)² / Σ(y - ȳ)² is of each layer's output on the inputs that the original model gives it: in a run of its
own every layer's output is put back to the original's after it was compared. L0 is explained in `activity.py`.

Shape letters: N tokens, V vocabulary, O outputs of a layer.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ContextDecorator, contextmanager
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from kansformer.conversion.slots import find_curve_slots
from kansformer.errors import ConfigError, DataError, SlotError
from kansformer.interp.activity import ALIVE, Activity, edge_size
from kansformer.interp.batches import Batch, BatchReader, replayable
from kansformer.interp.effects import OWN_ROWS, Effect, Faithfulness
from kansformer.interp.layers import Layer, find_layers, intervene
from kansformer.interp.recording import record_slots
from kansformer.nn.curves import curved_modules
from kansformer.nn.eval_mode import eval_mode
from kansformer.nn.transaction import undone_afterwards
from kansformer.progress import Progress

T = TypeVar("T")

# Logits that are compared at once.
CHUNK = 2**23
# The label that transformers' losses leave out.
IGNORED = -100


class Undoable(Protocol):
    """What `prune` and `edit_curve` return."""

    def undo(self) -> object:
        """Put the model back."""


Edit = AbstractContextManager | Callable[[], AbstractContextManager | Undoable]


@torch.no_grad()
def faithfulness(
    model: nn.Module,
    edit: Edit,
    batches: Mapping[str, Tensor] | Iterable[Mapping[str, Tensor]],
    *,
    controls: Mapping[str, Edit] | None = None,
    layers: Collection[str] | None = None,
    alive: float = ALIVE,
    progress: Progress | None = None,
) -> Faithfulness:
    """Measure what an edit of a model's layers keeps of its loss, its predictions and the layers' outputs.

        faithfulness(model, replace_by_symbol(model, curves, fits), batches)
        faithfulness(model, lambda: prune(model, scores, sparsity=0.5), batches)

    Memory does not grow with the number of batches. A batch runs 5 times, and twice more for each control.

    Args:
        model: converted, or with KAN modules; in evaluation mode while it is measured, and left as it was.
        edit: a context in which the model is another one, as `ablate`, `replace_by_symbol` and `edit_edge` make it, or
            a function that changes the model and returns such a context or something with `undo()`, as `prune` and
            `edit_curve` do. It is entered anew for each batch.
        batches: what the model is called with, one batch or several; with labels for the loss. They are read twice, as
            in `summarize`.
        controls: other edits to compare with, by name: those of `kansformer.interp.controls`, or any.
        layers: paths of the feed-forward networks that the edit stands for, which the ablations remove. None is those
            whose output it changes on the first batch, or all with curves if it changes none. In a model that `convert`
            did not make, and with adapters around its layers, each module with curves is a layer.
        alive: share of the root mean square of its slot's edges from which a learned curve counts as alive at a token;
            0 counts every curve that is not zero.
        progress: called after every batch.

    Returns:
        The metrics of the edit, the ablations and the controls. Without labels there is no loss, without logits no KL.

    Raises:
        SlotError: there is no layer of that path.
        ConfigError: `alive` is negative, two results would have one name, or an edit cannot be undone.
        DataError: there are no batches, or no token reaches a layer.
    """
    if not alive >= 0:
        raise ConfigError(f"alive must be 0 or more, got {alive!r}.")
    edits = {"replaced": edit, **(controls or {})}
    if taken := {*OWN_ROWS, "zero", "mean"} & set(controls or ()):
        raise ConfigError(f"A control cannot be named {min(taken)!r}, which is another row of the result.")
    candidates = find_layers(model)
    for path in layers or ():
        if path not in candidates:
            shown = ", ".join(list(candidates)[:4])
            raise SlotError(f"No layer is at {path!r}. Choose from {len(candidates)}, such as: {shown}.")
    study = _Study(model, candidates, edits)
    with replayable(batches) as again, eval_mode(model):
        reader = BatchReader(again, progress)
        first = study.read_originals(reader)
        study.choose(study.changed_layers(first) if layers is None else layers, alive)
        for batch in reader.read("replacing layers"):
            study.measure(batch)
    return study.result(reader.tokens)


class _Study:
    """The sums over batches of one call of `faithfulness`."""

    def __init__(self, model: nn.Module, candidates: dict[str, Layer], edits: Mapping[str, Edit]) -> None:
        self.model, self.candidates, self.edits = model, candidates, edits
        self.slots = find_curve_slots(model) if any(True for _ in curved_modules(model)) else []
        self.means: dict[str, Tensor] = {}
        self.sizes: dict[str, float] = {}  # of edges, by path of the slot
        self.layers: dict[str, Layer] = {}  # those that are measured
        self.sums: dict[str, _Sums] = {}
        self.spread: dict[str, float] = defaultdict(float)

    def read_originals(self, reader: BatchReader) -> Batch:
        """Read the mean output of every layer and the size of the edges of every slot; returns the first batch."""
        first: Batch | None = None
        totals: dict[str, Tensor] = {}
        counts: dict[str, int] = defaultdict(int)
        with record_slots(self.slots, bins=1, sample=1) as records:
            for batch in reader.read("layers' means"):
                first = batch if first is None else first
                for path, y_NO in _Run(self.model, batch, self.candidates).rows_of_outputs():
                    total_O = _wide(y_NO).sum(dim=0)
                    totals[path] = totals[path] + total_O if path in totals else total_O
                    counts[path] += len(y_NO)
        if first is None or not any(counts.values()):
            raise DataError("There are no batches, or no token of theirs reaches a layer.")
        self.means = {path: total_O / counts[path] for path, total_O in totals.items() if counts[path]}
        self.sizes = {recorded.slot.path: edge_size(recorded) for recorded in records.values() if recorded.tokens}
        return first

    def changed_layers(self, batch: Batch) -> list[str]:
        """The layers whose output the edit changes on a batch; if it changes none, all with curves that are reached."""
        original = _Run(self.model, batch, self.candidates)
        changed = []

        def compare(path: str, edited: Tensor, y: Tensor) -> None:
            if not torch.equal(edited, y):
                changed.append(path)

        within(self.edits["replaced"], lambda: self._run_restored(batch, original, compare))
        curved = {slot.path for slot in self.slots}
        return changed or [
            path for path in original.outputs if not curved.isdisjoint(self.candidates[path].curve_paths)
        ]

    def choose(self, paths: Collection[str], alive: float) -> None:
        """Begin to measure these layers."""
        if unreached := [path for path in paths if path not in self.means]:
            raise DataError(f"No token of these batches reached {len(unreached)} layers, such as {unreached[0]}.")
        self.layers = {path: layer for path, layer in self.candidates.items() if path in paths}
        curve_paths = {path for layer in self.layers.values() for path in layer.curve_paths}
        slots = [slot for slot in self.slots if slot.path in curve_paths and slot.path in self.sizes]
        for name in ("original", *self.edits):
            self.sums[name] = _Sums([Activity(self.model, slot, alive * self.sizes[slot.path]) for slot in slots])
        self.sums |= {"zero": _Sums([]), "mean": _Sums([])}

    def measure(self, batch: Batch) -> None:
        """Run a batch in every way, and add up."""
        with _watching(self.sums["original"].activities):
            original = _Run(self.model, batch, self.candidates)
        self.sums["original"].add_run(original, original)
        for path, y_NO in original.rows_of_outputs():
            if path in self.layers:
                self.spread[path] += float((_wide(y_NO) - self.means[path]).square().sum())
        for name, edit in self.edits.items():
            within(edit, partial(self._measure_edited, batch, original, self.sums[name]))
        ablations: dict[str, Callable[[str, Tensor], Tensor]] = {
            "zero": lambda path, y: torch.zeros_like(y),
            "mean": lambda path, y: self.means[path].to(y.dtype).to(y.device).expand_as(y),
        }
        for name, ablation in ablations.items():
            with intervene(self.layers, ablation):
                self.sums[name].add_run(_Run(self.model, batch), original)
            for path in self.layers:
                for y in original.outputs.get(path, ()):
                    self.sums[name].add_residual(path, ablation(path, y), y, original.mask)

    def _measure_edited(self, batch: Batch, original: _Run, sums: _Sums) -> None:
        def compare(path: str, edited: Tensor, y: Tensor) -> None:
            if path in self.layers:
                sums.add_residual(path, edited, y, original.mask)

        with _watching(sums.activities):
            self._run_restored(batch, original, compare)
        sums.add_run(_Run(self.model, batch), original)

    def _run_restored(self, batch: Batch, original: _Run, compare: Callable[[str, Tensor, Tensor], None]) -> None:
        """Run the edited model, and put every layer's output back to the original's after it was compared."""
        left = {path: deque(several) for path, several in original.outputs.items()}

        def restore(path: str, edited: Tensor) -> Tensor:
            y = left[path].popleft()
            compare(path, edited, y)
            return y

        with intervene(self.candidates, restore):
            self.model(**batch)

    def result(self, tokens: int) -> Faithfulness:
        """The means of the sums."""
        curves = {activity.slot.path: activity.slot.num_edges for activity in self.sums["original"].activities}
        effects = {name: sums.effect(self.spread) for name, sums in self.sums.items()}
        original, replaced, zero, mean = (effects.pop(name) for name in ("original", "replaced", "zero", "mean"))
        tokens = self.sums["original"].tokens or tokens
        return Faithfulness(tuple(self.layers), tokens, curves, original, replaced, zero, mean, effects)


class _Run:
    """One run of a model on a batch: its logits and loss, and the outputs of layers, which may run several times."""

    def __init__(self, model: nn.Module, batch: Batch, layers: Mapping[str, Layer] | None = None) -> None:
        self.mask, self.num_labels = _mask(model, batch), _num_labels(model, batch)
        self.outputs: dict[str, list[Tensor]] = {}
        with intervene(layers or {}, self._keep):
            result = model(**batch)
        self.logits: Tensor | None = getattr(result, "logits", None)
        self.loss: Tensor | None = getattr(result, "loss", None)

    def _keep(self, path: str, y: Tensor) -> None:
        self.outputs.setdefault(path, []).append(y)

    def rows_of_outputs(self) -> Iterator[tuple[str, Tensor]]:
        """Paths and outputs of the layers, (N, O), without padding."""
        for path, several in self.outputs.items():
            for y in several:
                yield path, _rows(y, self.mask)


class _Sums:
    """Sums over batches of one way to run the model."""

    def __init__(self, activities: list[Activity]) -> None:
        self.activities = activities
        self.loss, self.labels = 0.0, 0
        self.divergence, self.tokens = 0.0, 0
        self.residual: dict[str, float] = defaultdict(float)

    def add_run(self, run: _Run, original: _Run) -> None:
        """Add the loss, and the divergence from the original."""
        if run.loss is not None and run.num_labels:
            self.loss += float(run.loss) * run.num_labels
            self.labels += run.num_labels
        if run.logits is not None and original.logits is not None:
            logits_NV = _rows(run.logits, run.mask)
            self.divergence += 0.0 if run is original else _divergence(_rows(original.logits, run.mask), logits_NV)
            self.tokens += len(logits_NV)

    def add_residual(self, path: str, edited: Tensor, y: Tensor, mask: Tensor | None) -> None:
        """Add the squared difference between a layer's output and the original's."""
        self.residual[path] += float((_wide(_rows(edited, mask)) - _wide(_rows(y, mask))).square().sum())

    def effect(self, spread: Mapping[str, float]) -> Effect:
        """The means."""
        return Effect(
            ce_loss=self.loss / self.labels if self.labels else None,
            kl_div=self.divergence / self.tokens if self.tokens else None,
            fvu={path: self.residual[path] / total if total else math.nan for path, total in spread.items()},
            l0={activity.slot.path: activity.l0 for activity in self.activities},
            alive={activity.slot.path: activity.num_alive for activity in self.activities},
        )


def within(edit: Edit, run: Callable[[], T]) -> T:
    """Call a function while a model is edited.

    Raises:
        ConfigError: the edit returned neither a context nor something with `undo()`.
    """
    if isinstance(edit, ContextDecorator):  # made by `contextmanager`, and as a decorator it can be entered again
        return edit(run)()
    change = edit if isinstance(edit, AbstractContextManager) else edit()
    if isinstance(change, AbstractContextManager):
        with change:
            return run()
    if not callable(getattr(change, "undo", None)):
        raise ConfigError(
            f"An edit must be a context, or a function that returns one or something with undo(), got {change!r}. What "
            "the function did to the model is not undone."
        )
    try:
        return run()
    finally:
        change.undo()


@contextmanager
def _watching(activities: list[Activity]) -> Iterator[None]:
    with undone_afterwards() as undo:
        for activity in activities:
            undo.callback(activity.slot.called.register_forward_pre_hook(activity.hook).remove)
        yield


def _divergence(original_NV: Tensor, logits_NV: Tensor) -> float:
    """Σ_n KL(original ‖ other) in nats.

    With d = log p - log q it is Σ p·(d + e^-d - 1), since Σ q = Σ p: no term is negative, and where the two hardly
    differ rounding of the logarithms does not matter as it does in Σ p·d.
    """
    total = 0.0
    size = max(1, CHUNK // original_NV.shape[-1])
    for p_NV, q_NV in zip(original_NV.split(size), logits_NV.split(size), strict=True):
        log_p_NV, log_q_NV = (part.float().log_softmax(-1) for part in (p_NV, q_NV))
        d_NV = log_p_NV - log_q_NV
        total += float(_wide((log_p_NV.exp() * (d_NV + torch.expm1(-d_NV))).sum(-1)).sum())
    return total


def _wide(values: Tensor) -> Tensor:
    """In float64, which Apple's GPUs do not have."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def _rows(values: Tensor, mask: Tensor | None) -> Tensor:
    """Values of tokens that are not padding, (..., O) to (N, O); of all where the axes are not those of the mask."""
    if mask is not None and mask.shape == values.shape[:-1]:
        return values[mask.to(values.device) != 0]
    return values.reshape(-1, values.shape[-1])


def _mask(model: nn.Module, batch: Batch) -> Tensor | None:
    """The mask of padding; None where there is none, or it is that of an encoder's inputs."""
    config = getattr(model, "config", None)
    return None if getattr(config, "is_encoder_decoder", False) else batch.get("attention_mask")


def _num_labels(model: nn.Module, batch: Batch) -> int:
    """Labels that the loss of a batch is the mean over: a causal model does not predict the first token."""
    labels = batch.get("labels")
    if labels is None:
        return 0
    # transformers' name of the loss; where it has none, its loss is the causal one.
    predicted = labels[..., 1:] if getattr(model, "loss_type", "") in (None, "ForCausalLM") else labels
    return int((predicted != IGNORED).sum())
