"""How faithful a model is to itself when layers are replaced, in the metrics of work on sparse autoencoders.

A batch runs through the model as it is, with the edit, and with the same layers' outputs at zero and at their mean over
all tokens. The share of the loss that the edit keeps is

    ce_loss_score = (CE_ablated - CE_replaced) / (CE_ablated - CE_original)

and `kl_div_score` the same of KL(original ‖ ·), which is 0 for the original: 1 is the model itself, 0 no better than
without the layers, and a score can leave that range. CE is a mean over labels, KL over the logits of tokens other than
padding. FVU = Σ(ŷ - y)² / Σ(y - ȳ)² is of each layer's output on the inputs that the original model gives it: in a run
of its own every layer's output is put back to the original's after it was compared. L0 is explained in `activity.py`.

Shape letters: N tokens, O outputs of a layer.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ContextDecorator, contextmanager, suppress
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from kansformer.conversion.slots import find_curve_slots
from kansformer.errors import ConfigError, DataError, SlotError
from kansformer.interp.activity import ALIVE, Activity, edge_size
from kansformer.interp.batches import Batch, BatchReader, Padding, replayable
from kansformer.interp.effects import OWN_ROWS, Faithfulness
from kansformer.interp.layers import Layer, find_layers, intervene
from kansformer.interp.recording import record_slots
from kansformer.interp.runs import Run, RunSums, wide
from kansformer.nn.curves import curved_modules
from kansformer.nn.eval_mode import ForwardEnded, eval_mode
from kansformer.nn.hooks import run_eagerly
from kansformer.nn.transaction import undone_afterwards
from kansformer.progress import Progress

T = TypeVar("T")


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
        SlotError: a path of `layers` does not exist.
        ConfigError: `alive` is negative, two results would have one name, or an edit cannot be undone.
        DataError: the batches are empty, no token reaches a layer, or with the edit a layer runs on other tokens.

    Examples:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from kansformer import convert
        >>> from kansformer.interp import EdgeRef, ablate, faithfulness
        >>> sizes = dict(vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
        >>> model, tokens = convert(LlamaForCausalLM(LlamaConfig(**sizes))), torch.randint(50, (2, 16))
        >>> edit = ablate(model, [EdgeRef("model.layers.0.mlp", "act", input=3, output=3)])
        >>> result = faithfulness(model, edit, {"input_ids": tokens, "labels": tokens})
        >>> result.layers, 0 < result.replaced.kl_div < result.zero.kl_div
        (('model.layers.0.mlp',), True)
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
    with replayable(batches) as again, run_eagerly(), eval_mode(model):
        reader = BatchReader(again, progress)
        batch, original = study.read_originals(reader)
        study.choose(study.changed_layers(batch, original) if layers is None else layers, alive)
        for batch in reader.read("replacing layers"):
            study.measure(batch)
    return study.result()


class _Study:
    """The sums over batches of one call of `faithfulness`."""

    def __init__(self, model: nn.Module, candidates: dict[str, Layer], edits: Mapping[str, Edit]) -> None:
        self.model, self.candidates, self.edits = model, candidates, edits
        self.slots = find_curve_slots(model) if any(True for _ in curved_modules(model)) else []
        self.means: dict[str, Tensor] = {}
        self.sizes: dict[str, float] = {}  # of edges, by path of the slot
        self.layers: dict[str, Layer] = {}  # those that are measured
        self.sums: dict[str, RunSums] = {}
        self.spread: dict[str, float] = defaultdict(float)
        self.tokens = 0

    def read_originals(self, reader: BatchReader) -> tuple[Batch, Run]:
        """Read every layer's mean output and every slot's size of edges; returns the first batch and its run."""
        first: tuple[Batch, Run] | None = None
        totals: dict[str, Tensor] = {}
        counts: dict[str, int] = defaultdict(int)
        with record_slots(self.slots, bins=1, sample=1) as records:
            for batch in reader.read("layers' means"):
                run = Run(self.model, batch, self.candidates)
                first = first or (batch, run)
                self.tokens += run.num_tokens()
                for path, y_NO in run.rows_of_outputs():
                    total_O = wide(y_NO).sum(dim=0)
                    totals[path] = totals[path] + total_O if path in totals else total_O
                    counts[path] += len(y_NO)
        if first is None or not any(counts.values()):
            raise DataError("There are no batches, or no token of theirs reaches a layer.")
        self.means = {path: total_O / counts[path] for path, total_O in totals.items() if counts[path]}
        self.sizes = {recorded.slot.path: edge_size(recorded) for recorded in records.values() if recorded.tokens}
        return first

    def changed_layers(self, batch: Batch, original: Run) -> list[str]:
        """The layers whose output the edit changes on a batch; if it changes none, all with curves that are reached."""
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
            self.sums[name] = RunSums([Activity(self.model, slot, alive * self.sizes[slot.path]) for slot in slots])
        self.sums |= {"zero": RunSums([]), "mean": RunSums([])}

    def measure(self, batch: Batch) -> None:
        """Run a batch in every way, and add up."""
        with _watching(self.sums["original"].activities, Padding(self.model, batch)):
            original = Run(self.model, batch, self.candidates)
        self.sums["original"].add_run(original, original)
        for path, y_NO in original.rows_of_outputs():
            if path in self.layers:
                self.spread[path] += float((wide(y_NO) - self.means[path]).square().sum())
        for name, edit in self.edits.items():
            within(edit, partial(self._measure_edited, batch, original, self.sums[name]))
        ablations: dict[str, Callable[[str, Tensor], Tensor]] = {
            "zero": lambda path, y: torch.zeros_like(y),
            "mean": lambda path, y: self.means[path].to(y.dtype).to(y.device).expand_as(y).clone(),
        }
        for name, ablation in ablations.items():
            with intervene(self.layers, ablation):
                self.sums[name].add_run(Run(self.model, batch), original)
            for path in self.layers:
                for y in original.outputs.get(path, ()):
                    self.sums[name].add_residual(path, ablation(path, y), y, original.mask(path))

    def _measure_edited(self, batch: Batch, original: Run, sums: RunSums) -> None:
        def compare(path: str, edited: Tensor, y: Tensor) -> None:
            if path in self.layers:
                sums.add_residual(path, edited, y, original.mask(path))

        with _watching(sums.activities, original.padding):
            self._run_restored(batch, original, compare)
        sums.add_run(Run(self.model, batch), original)

    def _run_restored(self, batch: Batch, original: Run, compare: Callable[[str, Tensor, Tensor], None]) -> None:
        """Run the edited model, and put every layer's output back to the original's after it was compared; what comes
        after the last layer is not run."""
        left = {path: deque(several) for path, several in original.outputs.items()}

        def restore(path: str, edited: Tensor) -> Tensor:
            y = left[path].popleft() if left.get(path) else None
            if y is None or y.shape != edited.shape:
                raise DataError(
                    f"With the edit the layer at {path!r} runs on other tokens, or has another width, than without, so "
                    "its outputs cannot be compared."
                )
            compare(path, edited, y)
            if not any(left.values()):
                raise ForwardEnded
            return y.clone()  # what follows may work in place

        with intervene(self.candidates, restore), suppress(ForwardEnded):
            self.model(**batch)

    def result(self) -> Faithfulness:
        """The means of the sums."""
        curves = {activity.slot.path: activity.slot.num_edges for activity in self.sums["original"].activities}
        effects = {name: sums.effect(self.spread) for name, sums in self.sums.items()}
        original, replaced, zero, mean = (effects.pop(name) for name in ("original", "replaced", "zero", "mean"))
        return Faithfulness(tuple(self.layers), self.tokens, curves, original, replaced, zero, mean, effects)


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
def _watching(activities: list[Activity], padding: Padding) -> Iterator[None]:
    with undone_afterwards() as undo:
        for activity in activities:
            activity.mask = padding.mask(activity.slot.called)
            undo.callback(activity.slot.called.register_forward_pre_hook(activity.hook, with_kwargs=True).remove)
        yield
