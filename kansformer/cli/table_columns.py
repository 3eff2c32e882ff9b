"""A column's cells as numbers, days or a category, and sentences about cells that do not fit."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kansformer.cli.table_files import Cells
from kansformer.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas

MOSTLY = 0.8
"""Share of a column's cells that are numbers (or dates), for the others to be mistakes."""

MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "null", "-", "--", "?", "."}
COMMA_NUMBER = r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?"
MAYBE_THOUSANDS = r"[+-]?[1-9]\d{0,2},\d{3}"
THOUSANDS = r"[+-]?\d{1,3}(?:[.,' \u00a0\u202f]\d{3})+(?:[.,]\d*)?"
SHORT_DATE = r"\d{1,2}([./-])\d{1,2}\1\d{2}"
LIKE_A_NUMBER = r"[+-]?[\d.,' \u00a0\u202f]*\d[\d.,]*(?:[eE][+-]?\d+)?"


@dataclass(frozen=True)
class Choices:
    """What the user decides about a table.

    Args:
        inputs: columns that may occur in the formula; None for all others.
        exclude: columns that may not.
        drop_missing: leave out rows without a value.
        impute: fill numbers by the median and categories by the level "missing".
        decimal: the decimal sign; None to detect it.
        day_first: whether 03/04/2020 is in April; None raises where both are possible.
    """

    inputs: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    drop_missing: bool = False
    impute: bool = False
    decimal: str | None = None
    day_first: bool | None = None

    def __post_init__(self) -> None:
        if self.drop_missing and self.impute:
            raise ConfigError("--drop-missing and --impute exclude each other: rows are left out, or gaps are filled.")
        if self.decimal not in (None, ".", ","):
            raise ConfigError(f"--decimal must be . or , and is {self.decimal!r}.")


@dataclass(eq=False)
class Column:
    """A column whose cells are understood.

    Args:
        header: as in the file.
        name: in formulas.
        unit: from the header, or "".
        values: floats, or strings of a category; missing values are NaN.
        is_category: whether they are strings.
        since: the first day, of a column of dates.
    """

    header: str
    name: str
    unit: str
    values: pandas.Series
    is_category: bool = False
    since: str | None = None

    def is_constant(self) -> bool:
        return self.values.nunique(dropna=True) <= 1


@dataclass
class ColumnReader:
    """Reads the columns of one table."""

    cells: Cells
    choices: Choices
    notes: list[str] = field(default_factory=list)

    def row(self, index: int) -> int:
        """The number of a row in the file."""
        return index + self.cells.first_row

    def texts(self, header: str) -> pandas.Series:
        """The cells of a column, as stripped strings unless they have a type already; missing ones are NaN."""
        from pandas.api import types

        column = self.cells.frame[header]
        if types.is_bool_dtype(column.dtype):
            return column.astype(object).where(column.notna())
        if types.is_numeric_dtype(column.dtype) and not types.is_complex_dtype(column.dtype):
            return column
        if types.is_datetime64_any_dtype(column.dtype) or types.is_timedelta64_dtype(column.dtype):
            return column
        strings = column.astype(str).str.strip().astype(object)
        return strings.where(column.notna() & ~strings.str.lower().isin(MISSING))

    def decimal(self, columns: dict[str, pandas.Series]) -> str:
        """The decimal sign of the table's numbers.

        Raises:
            DataError: commas could separate thousands as well.
        """
        if self.choices.decimal is not None:
            return self.choices.decimal
        doubtful: tuple[str, pandas.Series] | None = None
        for header, column in columns.items():
            if column.dtype != object:
                continue
            present = column.dropna().astype(str)
            with_comma = present.str.fullmatch(COMMA_NUMBER)
            if not with_comma.any() or (with_comma | _floats(present, ".").notna()).mean() < MOSTLY:
                continue
            if self.cells.separator == ";" or not present[with_comma].str.fullmatch(MAYBE_THOUSANDS).all():
                self.notes.append("Numbers have decimal commas.")
                return ","
            doubtful = doubtful or (header, present[with_comma])
        if doubtful is not None:
            header, present = doubtful
            raise DataError(
                f"The column {header!r} has {present.iloc[0]!r} in row {self.row(present.index[0])}, whose comma may "
                "be a decimal comma or separate thousands. Give --decimal ',' if it is a decimal comma, or write "
                "numbers without separators of thousands."
            )
        return "."

    def column(self, header: str, cells: pandas.Series, name: str, unit: str, decimal: str) -> Column:
        """A column as numbers, dates as days, or else as a category.

        Raises:
            DataError: most cells are numbers or dates, and some are not.
        """
        from pandas.api import types

        if types.is_datetime64_any_dtype(cells.dtype):
            return self._days(header, name, cells)
        if types.is_timedelta64_dtype(cells.dtype):
            return Column(header, name, "days", cells.dt.total_seconds() / 86400)
        if cells.dtype != object:
            numbers = cells.astype("Float64").astype(float) if types.is_extension_array_dtype(cells) else cells
            return Column(header, name, unit, self._finite(header, numbers.astype(float), cells))
        present = cells.dropna().astype(str)
        numbers = _floats(present, decimal)
        if numbers.notna().mean() < MOSTLY and len(present):
            dates = self._dates(header, present)
            if dates is not None:
                return self._days(header, name, dates.reindex(cells.index))
            if present.str.fullmatch(f"{LIKE_A_NUMBER}|{SHORT_DATE}").mean() < MOSTLY:
                return Column(header, name, unit, present.reindex(cells.index), is_category=True)
        self._check_all(header, present, numbers, "numbers", decimal)
        return Column(header, name, unit, self._finite(header, numbers, present).reindex(cells.index))

    def _days(self, header: str, name: str, dates: pandas.Series) -> Column:
        if not dates.notna().any():
            return Column(header, name, "", dates.astype(object).where(dates.notna()))
        start = dates.min().normalize()
        since = f"{start:%Y-%m-%d}"
        name = name.removesuffix("]") + " in days]" if name.endswith("]") else f"{name}_days"
        return Column(header, name, "days", (dates - start).dt.total_seconds() / 86400, since=since)

    def _dates(self, header: str, present: pandas.Series) -> pandas.Series | None:
        """The dates in a column, in UTC, or None if most cells are not dates."""
        import pandas
        from pandas.tseries.api import guess_datetime_format

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of days that cannot be months
            guesses = {
                guess_datetime_format(cell, dayfirst=first) for cell in present.iloc[:20] for first in (False, True)
            }
        formats = {
            "ISO8601" if f.startswith("%Y-%m") else f for f in guesses if f and not (f[1] == "Y" and _is_day_first(f))
        }
        if self.choices.day_first is not None:
            formats = {f for f in formats if _is_day_first(f) == self.choices.day_first} or formats
        parsed = {f: pandas.to_datetime(present, format=f, errors="coerce", utc=True) for f in sorted(formats)}
        most = max((dates.notna().sum() for dates in parsed.values()), default=0)
        if most < MOSTLY * len(present):
            return None
        best = {f: dates for f, dates in parsed.items() if dates.notna().sum() == most}
        chosen = next((f for f in best if f.startswith("%d.")), next(iter(best)))
        others = [f for f, dates in best.items() if not dates.equals(best[chosen])]
        if others and not chosen.startswith("%d."):
            raise DataError(
                f"The column {header!r} has dates such as {present.iloc[0]!r}, whose day may be the first or the "
                "second number. Give --day-first or --month-first."
            )
        self._check_all(header, present, best[chosen], "dates", ".")
        return best[chosen]

    def _check_all(self, header: str, present: pandas.Series, values: pandas.Series, kind: str, decimal: str) -> None:
        bad = present[values.isna()]
        if not len(bad):
            return
        cell = bad.iloc[0]
        more = f" ({len(bad) - 1} more cells of the column are not {kind} either)" if len(bad) > 1 else ""
        advice = "Correct the cell, or leave the column out by --exclude."
        if kind == "numbers" and re.fullmatch(THOUSANDS, cell):
            advice = "Separators of thousands are not guessed: write the number without them."
        elif kind == "numbers" and re.fullmatch(SHORT_DATE, cell):
            advice = "If it is a date, write its year with four digits."
        elif kind == "numbers" and decimal == "," and "." in cell:
            advice = "Numbers of this table have decimal commas, so a point is not expected."
        raise DataError(
            f"The column {header!r} has {cell!r} in row {self.row(bad.index[0])}, where {kind} are "
            f"expected{more}. {advice}"
        )

    def _finite(self, header: str, numbers: pandas.Series, cells: pandas.Series) -> pandas.Series:
        infinite = numbers.abs() == float("inf")
        if infinite.any():
            first = infinite.idxmax()
            raise DataError(
                f"The column {header!r} has {str(cells[first])!r} in row {self.row(first)}, which is not a finite "
                "number. Correct the cell, or leave the column out by --exclude."
            )
        return numbers


def _floats(texts: pandas.Series, decimal: str) -> pandas.Series:
    """Strings as floats, NaN where they are not numbers with this decimal sign."""
    import pandas

    if decimal == ",":
        texts = texts.where(~texts.str.contains(".", regex=False)).str.replace(",", ".", regex=False)
    return pandas.to_numeric(texts, errors="coerce").astype(float)


def _is_day_first(format_: str) -> bool:
    """Whether a date format has the day before the month."""
    day, month = format_.find("%d"), max(format_.find(month) for month in ("%m", "%b", "%B"))
    return -1 < day < month
