"""Datasets of the `datasets` library: loaded, and their columns checked."""

from __future__ import annotations

from typing import Any

from kansformer.errors import DataError
from kansformer.training.data.spec import DataRecipe


def load_rows(data: DataRecipe, split: str) -> Any:
    """Load one split of the dataset that a recipe names.

    Returns:
        A `datasets.Dataset`, or a `datasets.IterableDataset` where the recipe says `streaming`.

    Raises:
        DataError: the dataset, its configuration or the split is not there.
    """
    import datasets

    try:
        rows = datasets.load_dataset(data.dataset, data.dataset_config, split=split, streaming=data.streaming)
    except (ValueError, OSError) as error:  # datasets' own errors inherit one of these
        which = f"{data.dataset!r} (config={data.dataset_config!r}, split={split!r})"
        raise DataError(f"The dataset {which} cannot be loaded: {error}") from error
    if not data.streaming and not len(rows):
        raise DataError(f"The split {split!r} of the dataset {data.dataset!r} has no rows.")
    return rows


def check_column(columns: list[str] | None, column: str, what: str, source: str) -> None:
    """Refuse a column that is not there.

    Args:
        columns: all that there are; None where a stream does not tell.
        column: the one that is needed.
        what: what it should hold, for the message: "text", "label" or "image".
        source: whose columns these are, for the message.

    Raises:
        DataError: it is not among them.
    """
    if columns is not None and column not in columns:
        raise DataError(f"{source} has no {what} column {column!r}. Choose {what}_column from: {', '.join(columns)}.")


def text_of(value: Any, row: int, column: str, source: str) -> str:
    """One row's text; a missing one (None) is empty.

    Raises:
        DataError: it is something else than text.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"The column {column!r} of {source} holds no text: row {row} is {str(value)[:40]!r}.")
    return value


def label_names(rows: Any, column: str) -> list[str] | None:
    """The names that a dataset gives its numbered labels; None where it has none."""
    names = getattr(rows.features[column], "names", None)
    return None if names is None else list(names)
