"""What `prepare_data` returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Dataset


@dataclass(frozen=True)
class PreparedData:
    """Training and evaluation data in the form that `transformers.Trainer` takes.

    Args:
        train: rows are dicts of what the model's forward takes, with labels; an IterableDataset where it is streamed.
        evaluation: rows of the same form.
        collator: makes a batch of rows; for `Trainer(data_collator=...)`.
        processor: tokenizer or image processor, to be saved beside the model; None where there is none.
        label_names: of a classification, in the order of their numbers.
        vocabulary: number of tokens that the tokenizer knows.
        facts: JSON-ready, for the model card: source, sizes, SHA-256 of the content, tokenizer.
    """

    train: Dataset
    evaluation: Dataset
    collator: Callable[[list[Any]], dict[str, Any]] | None
    processor: Any = None
    label_names: tuple[str, ...] | None = None
    vocabulary: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
