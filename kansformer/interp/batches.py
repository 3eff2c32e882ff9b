"""Batches that are read several times and never held all at once."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kansformer.progress import Progress


@contextmanager
def replayable(batches: Mapping[str, Tensor] | Iterable[Mapping[str, Tensor]]) -> Iterator[Iterable[Mapping[str, Any]]]:
    """Yields batches that can be read again and again, as long as the context lasts, and are the same every time.

    Args:
        batches: one batch, or a sequence, which is read where it is; of anything else, such as a generator, a copy is
            written into a temporary folder while it is read for the first time, to the end.
    """
    if isinstance(batches, Mapping):
        yield [batches]
    elif isinstance(batches, Sequence):
        yield batches
    else:
        with tempfile.TemporaryDirectory(prefix="kansformer-batches-") as folder:
            yield _Spool(batches, Path(folder))


class _Spool:
    """A stream that leaves a file for each of its batches."""

    def __init__(self, stream: Iterable[Mapping[str, Any]], folder: Path) -> None:
        self.stream: Iterable[Mapping[str, Any]] | None = stream
        self.folder = folder
        self.count = 0
        self.others: dict[int, dict[str, Any]] = {}  # what is no tensor, by number of the batch; hardly anyone has any

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        if self.stream is None:
            for number in range(self.count):
                yield self._read(number)
            return
        for batch in self.stream:
            self._write(batch)
            yield batch
        self.stream = None

    def _write(self, batch: Mapping[str, Any]) -> None:
        from safetensors.torch import save_file

        found = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        if others := {name: value for name, value in batch.items() if name not in found}:
            self.others[self.count] = others
        devices = {name: str(tensor.device) for name, tensor in found.items()}
        # Labels are often the inputs themselves, and a file holds every tensor once.
        tensors = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in found.items()
        }
        save_file(tensors, self.folder / f"{self.count}.safetensors", metadata=devices)
        self.count += 1

    def _read(self, number: int) -> Mapping[str, Any]:
        from safetensors import safe_open

        with safe_open(self.folder / f"{number}.safetensors", framework="pt") as file:
            tensors = {name: file.get_tensor(name).to(device) for name, device in (file.metadata() or {}).items()}
        return {**tensors, **self.others.get(number, {})}


class BatchReader:
    """Reads the batches once for every stage of the audit, with word of each that is done.

    Args:
        batches: the same in every stage.
        progress: called after every batch; the detail is their rate.

    Attributes:
        tokens: numbers of `input_ids`, known after the first stage, as is the next one.
        labelled: whether there are batches, and all have labels.
    """

    def __init__(self, batches: Iterable[Mapping[str, Any]], progress: Progress | None) -> None:
        self.batches, self.progress = batches, progress
        self.count = len(batches) if isinstance(batches, Sized) else None
        self.tokens, self.labelled = 0, False

    def read(self, stage: str) -> Iterator[Mapping[str, Any]]:
        """All batches, once more."""
        begin, tokens, labelled, done = time.perf_counter(), 0, True, 0
        for done, batch in enumerate(self.batches, start=1):
            yield batch
            tokens += batch["input_ids"].numel() if "input_ids" in batch else 0
            labelled = labelled and "labels" in batch
            if self.progress is not None:
                rate = done / (time.perf_counter() - begin)
                self.progress(stage, done, self.count, f"{rate:,.1f} batches/s")
        self.count, self.tokens, self.labelled = done, tokens, labelled and done > 0
