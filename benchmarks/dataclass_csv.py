"""Rows of a CSV that are dataclasses: one line each, appended as it comes, so that an interrupted benchmark goes on.

A field that is a dataclass itself takes the columns of its own fields.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

R = TypeVar("R")


def columns_of(kind: type) -> list[str]:
    """Names of the columns of a dataclass."""
    hints = get_type_hints(kind)
    return [
        name
        for field in fields(kind)
        for name in (columns_of(hints[field.name]) if is_dataclass(hints[field.name]) else [field.name])
    ]


def read_rows(path: Path, kind: type[R]) -> list[R]:
    """All rows of a file, none where there is no file; fields are texts and numbers."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [_parsed(kind, line) for line in csv.DictReader(file)]


def append_row(path: Path, row: Any) -> None:
    """Add a dataclass, and the header to a new file."""
    append_lines(path, columns_of(type(row)), [list(_flat(astuple(row)))])


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Replace a file by these dataclasses; without any, remove it. What was there stays until all are written."""
    aside = path.with_suffix(".new")
    aside.unlink(missing_ok=True)
    for row in rows:
        append_row(aside, row)
    if aside.exists():
        aside.replace(path)
    else:
        path.unlink(missing_ok=True)


def append_lines(path: Path, header: list[str], lines: Iterable[list]) -> None:
    """Add lines, and the header to a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([*([header] if new else []), *lines])


def replace_lines(path: Path, header: Sequence[str], lines: Iterable[Sequence], keys: Sequence[str]) -> None:
    """Write lines into a file in the place of those that are equal to one of them in the columns `keys`."""
    lines = [[*map(str, line)] for line in lines]
    places = [header.index(key) for key in keys]
    new = {tuple(line[place] for place in places) for line in lines}
    others = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            others = [line for line in list(csv.reader(file))[1:] if tuple(line[p] for p in places) not in new]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *others, *lines])


def _parsed(kind: type[R], line: Mapping[str, str]) -> R:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(
        **{name: _parsed(hints[name], line) if is_dataclass(hints[name]) else hints[name](line[name]) for name in names}
    )


def _flat(values: tuple) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple):
            yield from _flat(value)
        else:
            yield value
