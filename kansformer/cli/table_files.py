"""Tables as people save them: text with any usual separator, encoding and header, Parquet, Excel."""

from __future__ import annotations

import csv
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from kansformer.errors import ConfigError, DataError
from kansformer.wording import counted

if TYPE_CHECKING:
    import _csv

    import pandas

SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas", " ": "spaces"}
"""What may stand between cells; if two of them fit, the first one is taken."""

SAMPLE_BYTES = 1 << 16
SAMPLE_LINES = 200
NUMBER = r"[+-]?[\d.,]+(?:[eE][+-]?\d+)?"
MIN_EVEN = 0.8
"""Share of the lines that have as many cells as the header, for a separator to be believed."""


@dataclass(frozen=True)
class Cells:
    """A table before its cells are numbers.

    Args:
        name: of the file.
        frame: cells, strings except in Parquet files; its columns are the headers, "" where there is none.
        first_row: the number of the first row in the file, where a header is row 1, also one of several lines.
        separator: of a text file.
        notes: sentences about how the file was read.
    """

    name: str
    frame: pandas.DataFrame
    first_row: int
    separator: str | None
    notes: list[str]


def read_cells(path: Path) -> Cells:
    """Read a table: .parquet, .xlsx, or text of any other suffix, whose separator and encoding are detected.

    A pipe is copied to a temporary file, since a table is read more than once.

    Raises:
        DataError: the file is missing or is not a table with a header.
        ConfigError: the package that reads this kind of file is missing.
    """
    if path.is_fifo():
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / path.name
            with path.open("rb") as pipe, copy.open("wb") as file:
                shutil.copyfileobj(pipe, file)
            return read_cells(copy)
    if not path.is_file():
        raise DataError(f"There is no table {str(path)!r}.")
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return _read_parquet(path)
        return _read_excel(path) if suffix == ".xlsx" else _read_text(path)
    except (DataError, ConfigError):
        raise
    except (ValueError, OSError, KeyError, zipfile.BadZipFile, csv.Error) as error:
        raise DataError(f"{path.name} cannot be read as a table: {error}") from None


def _read_parquet(path: Path) -> Cells:
    import pandas

    frame = pandas.read_parquet(path)
    frame = frame.reset_index(drop=list(frame.index.names) == [None])  # a named index is a column, such as the time
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    return Cells(path.name, frame, 1, None, [f"Read {path.name}: {counted(len(frame), 'row')}."])


def _read_excel(path: Path) -> Cells:
    import pandas

    try:
        rows = pandas.read_excel(path, header=None, dtype=object)
    except ImportError:
        raise ConfigError(
            f"{path.name} is an Excel file, which openpyxl reads: pip install openpyxl. Or save the table as CSV."
        ) from None
    filled = rows.notna().any(axis=1).to_numpy().nonzero()[0]
    if not len(filled):
        raise DataError(f"{path.name} has no cells on its first sheet.")
    header = int(filled[0])
    frame = rows.iloc[header + 1 :].reset_index(drop=True)
    texts = frame.astype(str).where(frame.notna(), "")
    headers = ["" if pandas.isna(cell) else str(cell) for cell in rows.iloc[header]]
    return Cells(
        path.name,
        texts.set_axis(headers, axis=1),
        header + 2,
        None,
        [f"Read {path.name}: {counted(len(texts), 'row')}."],
    )


def _read_text(path: Path) -> Cells:
    encoding, lines = _sample(path)
    header = _find_header(lines)
    if header is not None and (match := re.fullmatch(r'"?sep=(.)"?', lines[header].strip())):  # a spreadsheet's hint
        header = header + 1 if header + 1 < len(lines) else None
    if header is None:
        raise DataError(f"{path.name} is empty.")
    lines = [lines[header].lstrip("# "), *lines[header + 1 :]]
    separator = match[1] if match else detect_separator(lines)
    headers, length = _read_header(lines, separator)
    if 1 < length == len(lines):
        raise DataError(
            f"The header of {path.name} has a quotation mark that is not closed, or no row follows it: "
            f"{headers[-1]!r:.60}."
        )
    if all(re.fullmatch(NUMBER, name) for name in headers):
        raise DataError(f"The first line of {path.name} is numbers. A table begins with the names of its columns.")
    try:
        frame = _read_csv(path, separator, encoding, header, length, len(headers))
    except UnicodeDecodeError:  # behind the sample
        encoding = "cp1252"
        frame = _read_csv(path, separator, encoding, header, length, len(headers))
    frame.columns = headers
    frame = frame[(frame != "").any(axis=1)]  # blank lines were kept for the numbers of the rows
    separated = f"separated by {SEPARATORS.get(separator, repr(separator))}, " if len(headers) > 1 else ""
    note = f"Read {path.name}: {counted(len(frame), 'row')}, {separated}{_encoding_name(encoding)}."
    return Cells(path.name, frame, header + 2, separator, [note])


def _find_header(lines: Sequence[str]) -> int | None:
    """The first line, or the last comment, marked by #, if its names stand there; None if there are only comments."""
    comment = None
    for number, line in enumerate(lines):
        if line.startswith("#"):
            comment = number
        elif line.strip():
            return comment if comment is not None and _are_names(lines[comment], line) else number
    return None


def _are_names(comment: str, line: str) -> bool:
    """Whether a comment is the header of the line below it: numbers follow "# x y", any cells follow "#x,y"."""
    if re.fullmatch(r"[-+\d.,;|eE\s]+", line):
        return True
    counts = [(len(_split(comment, separator)), len(_split(line, separator))) for separator in SEPARATORS]
    return re.match(r"#\w", comment) is not None and any(names == cells > 1 for names, cells in counts)


def _read_header(lines: Sequence[str], separator: str) -> tuple[list[str], int]:
    """The names in the first record, with spaces for line breaks in quotes, and the number of its lines."""
    records = _records(lines, separator)
    names = [re.sub(r"\s*\n\s*", " ", name).strip() for name in next(records)]
    return names, records.line_num


def detect_separator(lines: Sequence[str]) -> str:
    """The separator that splits lines of a table, header first, into the same number of cells; "," if none does."""
    for separator in SEPARATORS:
        counts = [len(cells) for cells in _records(lines, separator) if any(map(str.strip, cells))]
        if counts and counts[0] > 1 and sum(count == counts[0] for count in counts) >= MIN_EVEN * len(counts):
            return separator
    names = {separator: len(_read_header(lines, separator)[0]) for separator in SEPARATORS if separator != " "}
    most = max(names, key=lambda separator: names[separator])
    return most if names[most] > 1 else ","


def _records(lines: Sequence[str], separator: str) -> _csv.Reader:
    """Reads the cells of every record, which has several lines where line breaks stand in quotes."""
    if separator == " ":
        lines = [line.strip() + "\n" for line in lines]
    return csv.reader(lines, delimiter=separator, skipinitialspace=True)


def _split(line: str, separator: str) -> list[str]:
    return next(_records([line], separator), [])


def _sample(path: Path) -> tuple[str, list[str]]:
    """The encoding of a text file, UTF-8 unless its first bytes say otherwise, and its first lines, with their ends.

    Lines end at \\n, \\r or \\r\\n only, as for pandas; str.splitlines would also take a form feed.
    """
    with path.open("rb") as file:
        data = file.read(SAMPLE_BYTES)
    encoding = "utf-8-sig"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif b"\0" in data:
        even, odd = data[::2].count(0), data[1::2].count(0)
        if max(even, odd) < len(data) / 8:
            raise DataError(f"{path.name} is not a text file. Tables are text (.csv, .tsv, .txt), .parquet or .xlsx.")
        encoding = "utf-16-le" if odd > even else "utf-16-be"
    try:
        text = data[: data.rfind(b"\n") + 1 or None].decode(encoding)
    except UnicodeDecodeError:
        encoding = "cp1252" if encoding == "utf-8-sig" else encoding
        text = data.decode(encoding, errors="replace")
    lines = list(StringIO(text, newline=None))
    whole = lines[:-1] if len(data) == SAMPLE_BYTES and len(lines) > 1 else lines
    return encoding, whole[:SAMPLE_LINES]


def _read_csv(path: Path, separator: str, encoding: str, header: int, length: int, width: int) -> pandas.DataFrame:
    """The rows below a header of `length` lines, before which are `header` lines; cells are strings, in `width`
    columns."""
    import pandas

    errors = "replace" if encoding == "cp1252" else "strict"
    with path.open(encoding=encoding, errors=errors, newline="") as file, warnings.catch_warnings():
        for _ in range(header + length):  # pandas' skiprows would count a line break in quotes otherwise
            file.readline()
        warnings.simplefilter("error", pandas.errors.ParserWarning)  # of cells that would be dropped
        try:
            return pandas.read_csv(
                file, sep=r"\s+" if separator == " " else separator, header=None, names=range(width), dtype=str,
                na_filter=False, index_col=False, skip_blank_lines=False, skipinitialspace=True, low_memory=False,
            )  # fmt: skip
        except pandas.errors.ParserWarning:
            raise DataError(
                f"The rows of {path.name} have more cells than its header has names. Give every column a name."
            ) from None
        except pandas.errors.ParserError as error:
            match = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
            if match is None:
                raise DataError(f"{path.name} cannot be read as a table: {error}") from None
            raise DataError(
                f"Row {header + 1 + int(match[2])} of {path.name} has {match[3]} cells, where the header has "
                f"{match[1]} (separated by {SEPARATORS.get(separator, repr(separator))})."
            ) from None


def _encoding_name(encoding: str) -> str:
    return {"utf-8-sig": "UTF-8", "cp1252": "not UTF-8, so read as Windows-1252"}.get(encoding, "UTF-16")
