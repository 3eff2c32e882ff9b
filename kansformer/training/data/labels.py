"""Labels of a classification: names in a fixed order, and a number for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from kansformer.errors import DataError

FIXED_SEED = 0


def encode_labels(
    train: Sequence[Any], evaluation: Sequence[Any], names: Sequence[str] | None, column: str, source: str
) -> tuple[list[int], list[int], tuple[str, ...]]:
    """Number the labels.

    Args:
        train: strings or integers; numbers of `names` where these are given.
        evaluation: the same.
        names: the names that the dataset itself gives, in its order; None sorts those that occur in training, integers
            by their value.
        column: the labels' column, for messages.
        source: where they come from, for messages.

    Returns:
        The numbers of both, and the names.

    Raises:
        DataError: a label is missing or neither a string nor an integer, all are the same, or one of the evaluation
            does not occur in training.
    """
    if names is not None:
        for which, values in (("training", train), ("evaluation", evaluation)):
            for row, value in enumerate(values):
                if not isinstance(value, int) or not 0 <= value < len(names):
                    raise DataError(f"{source} has no label in {which} row {row}: {column}={value!r}.")
        known, numbers = tuple(names), {str(i): i for i in range(len(names))}
        texts, held_out = [str(v) for v in train], [str(v) for v in evaluation]
    else:
        texts = [_label(v, row, column, source) for row, v in enumerate(train)]
        held_out = [_label(v, row, column, source) for row, v in enumerate(evaluation)]
        known = tuple(sorted(set(texts), key=_sort_key(texts)))
        numbers = {name: number for number, name in enumerate(known)}
    if len(set(texts)) < 2:
        raise DataError(f"All rows of {source} have the label {known[numbers[texts[0]]]!r}; there is nothing to learn.")
    for text in held_out:
        if text not in numbers:
            raise DataError(
                f"The evaluation rows of {source} have the label {text!r}, which training does not have. "
                f"It has: {', '.join(known)}."
            )
    return [numbers[text] for text in texts], [numbers[text] for text in held_out], known


def fixed_order(count: int) -> list[int]:
    """The same random order of `count` rows at every time: files often are sorted by label."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(FIXED_SEED)).tolist()


def _label(value: Any, row: int, column: str, source: str) -> str:
    if value is None or value == "":
        raise DataError(f"{source} has no label in row {row}: {column}={value!r}.")
    if not isinstance(value, str | int):
        raise DataError(f"A label is a string or an integer, but row {row} of {source} has {column}={value!r}.")
    return str(value)


def _sort_key(labels: Sequence[str]) -> Any:
    try:
        return {text: (int(text), text) for text in labels}.__getitem__
    except ValueError:
        return None
