"""The one place where the `datasets` library reads: quietly, from and into its own cache, with errors of our own."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kansformer.errors import DataError, KansformerError
from kansformer.safe_io import MAX_DEPTH
from kansformer.training.corpus import SEPARATOR
from kansformer.training.data.texts import CHARACTERS_PER_TOKEN, find_files, read_pieces

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

    from kansformer.training.data.spec import DataRecipe

TABLES = {".csv": "csv", ".jsonl": "json"}
ROWS_AT_ONCE = 100
BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]')
"""A string, whose brackets do not count, or a bracket."""


def load_split(data: DataRecipe, split: str) -> Dataset | IterableDataset:
    """Load one split of the dataset that a recipe names; an `IterableDataset` where it says `streaming`."""
    which = f"The dataset {data.dataset!r} (config={data.dataset_config!r}, split={split!r})"
    assert data.dataset is not None, "the recipe has checked it"
    rows = _load(which, data.dataset, data.dataset_config, split=split, streaming=data.streaming)
    if not data.streaming and not len(rows):
        raise DataError(f"The split {split!r} of the dataset {data.dataset!r} has no rows.")
    return rows


def load_tables(names: Sequence[str]) -> Iterator[tuple[Path, Dataset]]:
    """Load CSV files (with a header; every value is a string) and JSONL files (an object per line), one by one."""
    import pandas
    from datasets import Features, Value

    for path in find_files(names, ".csv or .jsonl", lambda path: path.suffix.lower() in TABLES):
        kind, name = TABLES.get(path.suffix.lower()), repr(str(path))
        if kind is None:
            raise DataError(f"{name} has no rows with labels. Give .csv or .jsonl files.")
        for _ in read_pieces(path):  # which has the better sentences
            pass
        options: dict[str, Any] = {}
        if kind == "json":
            _check_nesting(path)
        if kind == "csv":
            with sentences(name):
                header = pandas.read_csv(path, nrows=0, index_col=False).columns
            options = {"features": Features({column: Value("string") for column in header})}
            options |= {"index_col": False, "na_filter": False}
        yield path, _load(name, kind, data_files=escape(str(path.absolute())), split="train", **options)


def _check_nesting(path: Path) -> None:
    """Refuse what would end the process: the readers of `datasets` recurse without a limit."""
    depth = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            opened, closed = (line.count(one) + line.count(other) for one, other in ((b"{", b"["), (b"}", b"]")))
            if depth == 0 and opened == closed <= MAX_DEPTH:  # almost every line
                continue
            for bracket in BRACKETS.findall(line):
                depth += {b"{": 1, b"[": 1, b"}": -1, b"]": -1}.get(bracket, 0)
                if depth > MAX_DEPTH:
                    raise DataError(f"{str(path)!r} is nested more than {MAX_DEPTH} levels deep in line {number}.")


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
    which = f"The dataset {name!r} (config={config!r}, split={split!r})"
    texts, characters = [], 0
    for text in column_texts(_load(which, name, config, split=split, streaming=True), column, repr(name)):
        texts.append(text)
        characters += len(text)
        if max_tokens is not None and characters > CHARACTERS_PER_TOKEN * max_tokens:
            break
    if not characters:
        raise DataError(f"The column {column!r} of {name!r} (split={split!r}) is empty.")
    return SEPARATOR.join(texts)


def column_texts(rows: Dataset | IterableDataset, column: str, source: str) -> Iterator[str]:
    """The texts in a column, one by one; a missing one (None) is empty. `source` is for messages."""
    if rows.column_names is not None:
        check_column(rows.column_names, column, "text", source)
        rows = rows.select_columns([column])
    iterator, number = iter(rows), 0
    while True:
        with sentences(source):
            some = list(islice(iterator, ROWS_AT_ONCE))
        if not some:
            return
        for row in some:
            check_column(row, column, "text", source)
            if not isinstance(row[column], str | None):
                value = str(row[column])[:40]
                raise DataError(f"The column {column!r} of {source} holds no text: row {number} is {value!r}.")
            yield row[column] or ""
            number += 1


def check_column(columns: Collection[str], column: str, what: str, source: str) -> None:
    """Check that a column is among all `columns` of a source; `what` is "text", "label" or "image"."""
    if column not in columns:
        raise DataError(f"{source} has no {what} column {column!r}. Choose {what}_column from: {', '.join(columns)}.")


def cached_rows(generate: Callable[[], Iterator[dict[str, Any]]], features: Features, fingerprint: str) -> Dataset:
    """Rows from the cache of the `datasets` library; generated and written there if they are not in it, or damaged.

    Args:
        generate: gives the rows.
        features: of the rows.
        fingerprint: identifies everything that the rows depend on.
    """
    from datasets import Dataset, config

    def read(folder: str | Path, in_memory: bool) -> Dataset:
        return Dataset.from_generator(
            generate, features, cache_dir=str(folder), keep_in_memory=in_memory, fingerprint=fingerprint
        )

    folder = Path(config.HF_DATASETS_CACHE) / "kansformer" / fingerprint
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


@contextmanager
def sentences(what: str) -> Iterator[None]:
    """Keep the `datasets` library quiet, and turn its errors, and its readers', into "`what` cannot be loaded"."""
    import datasets
    import pandas
    import pyarrow

    level, bars = datasets.logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    asked = datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is False  # for bars, by the environment
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a request to a server, even for local files
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if bars and not asked:
        datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pandas.errors.ParserWarning)  # of fields that would be dropped
            yield
    except KansformerError:
        raise
    except (
        datasets.exceptions.DatasetsError,
        pyarrow.ArrowException,
        pandas.errors.ParserWarning,
        OSError,
        ValueError,
        LookupError,
        ImportError,
    ) as error:
        cause: BaseException = error
        while isinstance(cause, datasets.exceptions.DatasetGenerationError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, KansformerError):
            raise cause from None
        raise CacheError(f"{what} cannot be loaded: {' '.join(str(cause).split())}") from error
    finally:
        datasets.logging.set_verbosity(level)
        if bars and not asked:
            datasets.enable_progress_bars()


def _load(what: str, path: str, config: str | None = None, **options: Any) -> Any:
    import datasets
    import pyarrow

    with sentences(what):
        try:
            return datasets.load_dataset(path, config, **options)
        except (pyarrow.ArrowInvalid, json.JSONDecodeError):  # in its cache
            return datasets.load_dataset(path, config, download_mode="force_redownload", **options)
        except ValueError as error:
            if "corresponds to no data" in str(error):
                raise DataError(f"{what} has no rows.") from None
            raise
