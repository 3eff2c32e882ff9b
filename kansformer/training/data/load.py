"""Where datasets and tables are read: quietly, from and into the `datasets` library's own cache, with our sentences."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pandas
import pyarrow
from datasets import Dataset, Features, IterableDataset

from kansformer.errors import DataError, KansformerError
from kansformer.safe_io import check_json_value
from kansformer.training.corpus import SEPARATOR
from kansformer.training.data.spec import DataRecipe
from kansformer.training.data.texts import CHARACTERS_PER_TOKEN, file_text, find_files

ROWS_AT_ONCE = 100


def load_split(data: DataRecipe, split: str) -> Dataset | IterableDataset:
    """Load one split of the dataset that a recipe names; an `IterableDataset` where it says `streaming`."""
    assert data.dataset is not None, "the recipe has checked it"
    rows = _load(data.dataset, data.dataset_config, split, data.streaming)
    if not data.streaming and not len(rows):
        raise DataError(f"The split {split!r} of the dataset {data.dataset!r} has no rows.")
    return rows


def table_rows(names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read CSV files (with a header; every value is a string) and JSON lines files (an object per line).

    Not by the `datasets` library, whose readers turn strings into dates and numbers, and do not count lines.

    Yields:
        The place of a row, for messages, and the row.
    """
    for path in find_files(names, " or ".join(TABLES), lambda path: path.suffix.lower() in TABLES):
        if path.suffix.lower() not in READERS:
            raise DataError(f"{str(path)!r} has no rows with labels. Give {' or '.join(TABLES)} files.")
        yield from _rows_of(path)


def table_texts(path: Path, column: str) -> list[str] | None:
    """The texts in a column of a CSV or JSON lines file, without the empty ones; None for a file of another kind."""
    if path.suffix.lower() not in READERS:
        return None
    texts = [text for place, row in _rows_of(path) if (text := text_in(row, column, place)).strip()]
    if not texts:
        raise DataError(f"The column {column!r} of {str(path)!r} is empty.")
    return texts


def _rows_of(path: Path) -> list[tuple[str, dict[str, Any]]]:
    name = repr(str(path))
    rows = READERS[path.suffix.lower()](file_text(path).removeprefix("\ufeff"), name)
    if not rows:
        raise DataError(f"{name} has no rows.")
    return rows


def dataset_text(
    name: str, *, config: str | None = None, split: str = "test", column: str = "text", max_tokens: int | None = None
) -> str:
    """Read a column of a dataset as one text, streaming, its rows joined by an empty line.

    Args:
        name: a Hub id, or a folder that the `datasets` library can load.
        config: name of a configuration, where the dataset has several.
        split: which split.
        column: which column; its values must be strings.
        max_tokens: stop reading when the text certainly has this many; None reads the whole split.

    Raises:
        DataError: the dataset, configuration, split or column is missing or broken, or has no text.
    """
    texts, characters = [], 0
    for text in column_texts(_load(name, config, split, streaming=True), column, repr(name)):
        texts.append(text)
        characters += len(text)
        if max_tokens is not None and characters > CHARACTERS_PER_TOKEN * max_tokens:
            break
    if not characters:
        raise DataError(f"The column {column!r} of {name!r} (split={split!r}) is empty.")
    return SEPARATOR.join(texts)


def column_texts(rows: Dataset | IterableDataset, column: str, source: str) -> Iterator[str]:
    """The texts in a column, one by one. `source` is for messages."""
    if rows.column_names is not None:
        check_column(rows.column_names, column, "text", source)
        rows = rows.select_columns([column])
    iterator = enumerate(rows)
    while True:
        with sentences(source):
            some = list(islice(iterator, ROWS_AT_ONCE))
        if not some:
            return
        for number, row in some:
            yield text_in(row, column, f"row {number} of {source}")


def text_in(row: dict[str, Any], column: str, place: str) -> str:
    """The text of a row; a missing one (None) is empty."""
    check_column(row, column, "text", place)
    if not isinstance(row[column], str | None):
        raise DataError(f"The column {column!r} holds no text in {place}, but {row[column]!r:.40}.")
    return row[column] or ""


def check_column(columns: Collection[str], column: str, what: str, source: str) -> None:
    """Check that a column is among all `columns` of a source; `what` is "text", "label" or "image"."""
    if column not in columns:
        option = " The commands evaluate and explain take it as --column." if what == "text" else ""
        raise DataError(
            f"{source} has no {what} column {column!r}. Choose {what}_column from: {', '.join(columns)}.{option}"
        )


def cached_rows(generate: Callable[[], Iterator[dict[str, Any]]], features: Features, fingerprint: str) -> Dataset:
    """Rows from the cache of the `datasets` library; generated and written there if they are not in it, or damaged.

    Args:
        generate: gives the rows.
        features: of the rows.
        fingerprint: identifies everything that the rows depend on.
    """

    def read(folder: str | Path, in_memory: bool) -> Dataset:
        return Dataset.from_generator(
            generate, features, cache_dir=str(folder), keep_in_memory=in_memory, fingerprint=fingerprint
        )

    folder = Path(datasets.config.HF_DATASETS_CACHE) / "kansformer" / fingerprint
    for _ in range(2):
        try:
            with sentences("The cache"):
                return read(folder, in_memory=False)
        except CacheError:  # damaged, read-only or full
            shutil.rmtree(folder, ignore_errors=True)
    with sentences("The data"), tempfile.TemporaryDirectory() as temporary:
        return read(temporary, in_memory=True)


class CacheError(DataError):
    """What the `datasets` library, or a reader below it, could not read or write."""


ERRORS = (
    datasets.exceptions.DatasetsError, pyarrow.ArrowException, pandas.errors.ParserWarning, OSError, ValueError,
    LookupError, ImportError, RecursionError,
)  # fmt: skip


@contextmanager
def sentences(what: str) -> Iterator[None]:
    """Keep the `datasets` library quiet, and turn its errors, and its readers', into "`what` cannot be loaded"."""
    asked = datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is False  # for bars, by the environment
    level, hide_bars = datasets.logging.get_verbosity(), not (asked or datasets.are_progress_bars_disabled())
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a request to a server, even for local files
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if hide_bars:
        datasets.disable_progress_bars()
    try:
        yield
    except KansformerError:
        raise
    except ERRORS as error:
        cause: BaseException = error
        while isinstance(cause, datasets.exceptions.DatasetGenerationError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, KansformerError):
            raise cause from None
        raise CacheError(f"{what} cannot be loaded: {' '.join(str(cause).split())}") from error
    finally:
        datasets.logging.set_verbosity(level)
        if hide_bars:
            datasets.enable_progress_bars()


def _load(name: str, config: str | None, split: str, streaming: bool) -> Dataset | IterableDataset:
    read = partial(datasets.load_dataset, name, config, split=split, streaming=streaming)
    with sentences(f"The dataset {name!r} (config={config!r}, split={split!r})"):
        try:
            rows = read()
        except (pyarrow.ArrowInvalid, json.JSONDecodeError):  # in its cache
            rows = read(download_mode="force_redownload")
        features = rows.features or {}
        dates = [column for column in features if str(features[column]).startswith("Value('timestamp")]
        if dates and rows.builder_name == "json":  # its reader takes strings for dates
            rows = read(features=Features({**features, **{column: datasets.Json() for column in dates}}))
    return rows


def _csv_rows(text: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    with sentences(name), warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.ParserWarning)  # of fields that would be dropped
        frame = pandas.read_csv(StringIO(text), dtype=str, index_col=False, na_filter=False)
    return [(f"row {number} of {name}", row) for number, row in enumerate(frame.to_dict("records"), start=1)]


def _json_rows(text: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    """Of JSON lines, or of one array of objects."""
    if text.lstrip().startswith("["):
        with sentences(name):
            rows = json.loads(text)
        return [_checked_object(row, f"object {number} of {name}") for number, row in enumerate(rows, start=1)]
    return [
        _json_line(line, f"line {number} of {name}")
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]


def _json_line(line: str, place: str) -> tuple[str, dict[str, Any]]:
    with sentences(place):
        row = json.loads(line)
    return _checked_object(row, place)


def _checked_object(row: object, place: str) -> tuple[str, dict[str, Any]]:
    with sentences(place):
        if not isinstance(row, dict):
            raise ValueError(f"it is not an object, but {row!r:.40}")
        check_json_value(row, place, DataError)
    return place, row


TABLES = {".csv": _csv_rows, ".jsonl": _json_rows}
"""By the ends of the names that are looked for in folders."""
READERS = {**TABLES, ".json": _json_rows}
"""By the end of a file's name."""
