"""Batches that are read several times and never held all at once, and the model's loss on them."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kansformer.nn.eval_mode import eval_mode
from kansformer.progress import Progress

Batch = Mapping[str, Any]

# The label that transformers' losses leave out.
IGNORED = -100


@contextmanager
def replayable(batches: Mapping[str, Tensor] | Iterable[Mapping[str, Tensor]]) -> Iterator[Iterable[Batch]]:
    """Yields batches that can be read any number of times within the context, the same every time.

    Args:
        batches: one batch, or a sequence, which is not copied. Anything else, such as a generator, is read to its end
            and copied into a temporary folder first.
    """
    if isinstance(batches, Mapping):
        yield [batches]
    elif isinstance(batches, Sequence):
        yield batches
    else:
        with tempfile.TemporaryDirectory(prefix="kansformer-batches-") as folder:
            yield _Spool(batches, Path(folder))


class _Spool:
    """A stream in a folder, a file for each of its batches."""

    def __init__(self, stream: Iterable[Batch], folder: Path) -> None:
        from safetensors.torch import save_file

        self.written: list[tuple[Path, dict[str, torch.device], Batch]] = []  # tensors, devices, the other values
        for batch in stream:
            devices = {name: value.device for name, value in batch.items() if isinstance(value, Tensor)}
            # Labels are often the inputs themselves, and a file holds every tensor once.
            copies = {name: batch[name].detach().cpu().contiguous().clone() for name in devices}
            file = folder / f"{len(self.written)}.safetensors"
            save_file(copies, file)
            self.written.append((file, devices, {name: batch[name] for name in batch if name not in devices}))

    def __iter__(self) -> Iterator[Batch]:
        from safetensors.torch import load_file

        for file, devices, others in self.written:
            tensors = load_file(file)
            yield {**{name: tensors[name].to(device) for name, device in devices.items()}, **others}


class BatchReader:
    """Reads the batches once for every stage of the audit, and reports progress.

    Args:
        batches: the same in every stage.
        progress: called after every batch; the detail is their rate.

    Attributes:
        count: of the batches.
        tokens: numbers of `input_ids`.
        labelled: whether there are batches, and all have labels.
    """

    def __init__(self, batches: Iterable[Batch], progress: Progress | None) -> None:
        self.batches, self.progress = batches, progress
        known = [(batch["input_ids"].numel() if "input_ids" in batch else 0, "labels" in batch) for batch in batches]
        self.count, self.tokens = len(known), sum(tokens for tokens, _ in known)
        self.labelled = bool(known) and all(has_labels for _, has_labels in known)

    def read(self, stage: str) -> Iterator[Batch]:
        """All batches, once more."""
        begin = time.perf_counter()
        for done, batch in enumerate(self.batches, start=1):
            yield batch
            if self.progress is not None:
                rate = done / (time.perf_counter() - begin)
                self.progress(stage, done, self.count, f"{rate:,.1f} batches/s")


def batch_loss(model: nn.Module, batch: Batch) -> Tensor | None:
    """The loss of a model on a batch; None where it gives none."""
    return getattr(model(**batch), "loss", None)


def num_labels(model: nn.Module, batch: Batch) -> int:
    """Labels that the loss of a batch is the mean over, where a causal model does not predict the first token; its rows
    for a batch without `labels`."""
    labels = batch.get("labels")
    if labels is None:
        return next((len(value) for value in batch.values() if isinstance(value, Tensor) and value.ndim), 1)
    # transformers' name of the loss; where it has none, its loss of a label for each token is the causal one. That of
    # "ForConditionalGeneration" is causal, too, but encoder-decoder models of this name have losses of their own.
    causal = (None, "ForCausalLM", *(() if is_encoder_decoder(model) else ("ForConditionalGeneration",)))
    is_causal = getattr(model, "loss_type", "") in causal and labels.ndim > 1
    predicted = labels[..., 1:] if is_causal and not labels.is_floating_point() else labels
    return int((predicted != IGNORED).sum())


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether a model has an encoder, and a decoder that reads other tokens."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


class Padding:
    """Which tokens of a batch are padding.

    Of a decoder beside an encoder these are what `decoder_attention_mask` says, or the tokens whose label is left out.
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self._mask = self._decoder_mask = batch.get("attention_mask")
        self._encoder: set[nn.Module] = set()
        if is_encoder_decoder(model):
            labels = batch.get("labels")
            is_of_tokens = isinstance(labels, Tensor) and labels.ndim == 2 and not labels.is_floating_point()
            self._decoder_mask = batch.get("decoder_attention_mask", labels != IGNORED if is_of_tokens else None)
            get_encoder = getattr(model, "get_encoder", lambda: None)
            self._encoder = set((get_encoder() or nn.Module()).modules())

    def mask(self, module: nn.Module | None = None) -> Tensor | None:
        """Not 0 where a token is none, of those that go through a module, or of the logits; None where all count."""
        return self._mask if module in self._encoder else self._decoder_mask


def rows(values: Tensor, mask: Tensor | None) -> Tensor:
    """Values of tokens that are not padding, (..., O) to (N, O), of a layer that flattens its tokens too; of all where
    the axes are not those of the mask."""
    flat = values.reshape(-1, values.shape[-1])
    if mask is None or not (mask.shape == values.shape[:-1] or (values.ndim == 2 and mask.numel() == len(flat))):
        return flat
    return flat[mask.flatten().to(values.device) != 0]


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The mean loss over the labels of all batches in evaluation mode; NaN without labels. All batches are read."""
    total, labels = 0.0, 0
    with eval_mode(model):
        for batch in batches:
            loss, count = batch_loss(model, batch), num_labels(model, batch)
            if loss is not None and count:
                total, labels = total + count * float(loss), labels + count
    return total / labels if labels else math.nan
