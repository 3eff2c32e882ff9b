"""Files that a recipe names: texts, and tables of texts with labels."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from glob import glob, has_magic
from io import StringIO
from pathlib import Path
from typing import Any

from kansformer.errors import DataError
from kansformer.training.text import file_text

TABLES = (".csv", ".jsonl")


def text_files(names: Iterable[str]) -> list[str]:
    """Read text files, one document per file, in the order in which they are named.

    Args:
        names: files, folders or globs. Of a folder, all files below it that are UTF-8 text are read, sorted by path;
            hidden ones are left out. A file that is named twice is read once.

    Raises:
        DataError: nothing is there, or a file that is named itself is empty or no UTF-8.
    """
    texts: dict[Path, str] = {}
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            found = {p: text for p in _below(path) if (text := _text_or_none(p)) is not None}
            if not found:
                raise DataError(f"There is no UTF-8 text file in the folder {name!r}.")
        elif path.is_file() or not has_magic(name):
            found = {path: file_text(path)}
        else:
            found = {p: file_text(p) for p in _matching(name)}
        for p, text in found.items():
            texts.setdefault(p.resolve(), text)
    return list(texts.values())


def table_rows(names: Iterable[str]) -> list[dict[str, Any]]:
    """Read the rows of CSV files (with a header) and JSONL files (an object per line).

    Args:
        names: files, folders (their .csv and .jsonl files, sorted) or globs.

    Raises:
        DataError: nothing is there, a file is of another kind, is empty, is no UTF-8, or has a line that is no row.
    """
    rows: list[dict[str, Any]] = []
    for path in _table_paths(names):
        text = file_text(path)
        rows += _csv_rows(text, path) if path.suffix.lower() == ".csv" else _jsonl_rows(text, path)
    return rows


def _table_paths(names: Iterable[str]) -> Sequence[Path]:
    paths: dict[Path, Path] = {}
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            found = [p for p in _below(path) if p.suffix.lower() in TABLES]
            if not found:
                raise DataError(f"There is no .csv or .jsonl file in the folder {name!r}.")
        else:
            found = [path] if path.is_file() or not has_magic(name) else _matching(name)
        for p in found:
            if p.suffix.lower() not in TABLES:
                raise DataError(f"{str(p)!r} has no rows with labels. Give .csv or .jsonl files.")
            paths.setdefault(p.resolve(), p)
    return list(paths.values())


def _csv_rows(text: str, path: Path) -> list[dict[str, Any]]:
    reader, rows = csv.DictReader(StringIO(text, newline=""), strict=True), []
    before = csv.field_size_limit(len(text))  # 131,072 characters by default, and one setting for the whole process
    try:
        for row in reader:
            if None in row:
                raise DataError(f"{str(path)!r} has more fields than its header in line {reader.line_num}.")
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{str(path)!r} is no CSV in line {reader.line_num}: {error}.") from None
    finally:
        csv.field_size_limit(before)
    return rows


def _jsonl_rows(text: str, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{str(path)!r} is no JSON in line {number}: {error}.") from None
        if not isinstance(row, dict):
            raise DataError(f"{str(path)!r} has no JSON object in line {number}, but {line[:40]!r}.")
        yield row


def _below(folder: Path) -> list[Path]:
    inside = [(p.relative_to(folder), p) for p in folder.rglob("*") if p.is_file()]
    return [p for name, p in sorted(inside) if not any(part.startswith(".") for part in name.parts)]


def _matching(pattern: str) -> list[Path]:
    paths = [p for p in map(Path, sorted(glob(str(Path(pattern).expanduser()), recursive=True))) if p.is_file()]
    if not paths:
        raise DataError(f"No file matches {pattern!r}.")
    return paths


def _text_or_none(path: Path) -> str | None:
    try:
        text = file_text(path)
    except DataError:
        return None
    return None if "\0" in text else text
