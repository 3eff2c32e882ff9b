"""A table of cells as a table of numbers: names, gaps, categories, constant columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kansformer.cli.table_columns import Choices, Column, ColumnReader
from kansformer.cli.table_files import Cells
from kansformer.errors import ConfigError, DataError
from kansformer.wording import counted

if TYPE_CHECKING:
    import pandas

MIN_ROWS = 20
MAX_LEVELS = 20
"""Of a category that becomes indicators."""

WITH_UNIT = r"[^\w\s]?\s*[+-]?\d[\d.,]*\s*\D{0,6}"
MANY_COPIES = 0.1
"""Share of copied rows that is worth a sentence."""


@dataclass(frozen=True)
class NumericTable:
    """A table of finite numbers.

    Args:
        inputs: a column of floats for each variable, under its name in the formula.
        target: (N,) floats, under its name in the formula.
        unit: of the target as in its header, or "".
        notes: sentences about what was done to the columns.
    """

    inputs: pandas.DataFrame
    target: pandas.Series
    unit: str
    notes: list[str]


def to_numbers(cells: Cells, target: str, choices: Choices) -> NumericTable:
    """The chosen columns of a table as numbers.

    Raises:
        ConfigError: a column is not in the table or is chosen twice, or choices exclude each other.
        DataError: a cell is not what its column needs, or the table has too few rows or nothing that varies.
    """
    reader = ColumnReader(cells, choices)
    named = formula_names(cells.frame.columns)
    target, headers = _chosen(cells, named, target, choices, reader.notes)
    texts = {header: reader.texts(header) for header in (target, *headers)}
    if len(cells.frame) < MIN_ROWS:
        raise DataError(f"{cells.name} has {counted(len(cells.frame), 'row')}; a formula takes {MIN_ROWS} or more.")
    decimal = reader.decimal(texts)
    columns = [reader.column(header, column, *named[header], decimal) for header, column in texts.items()]
    columns = _without_constants(columns, choices, reader.notes)
    _check_target(columns[0])
    columns = _without_gaps(columns, choices, reader)
    columns = _without_constants(columns, choices, reader.notes)
    names = [column.name for column in columns]
    variables: dict[str, pandas.Series] = {}
    for column in columns[1:]:
        if column.since is not None and names.count(column.name) > 1:  # other names differ already
            column.name = f"[{column.header} in days]"
        variables |= _indicators(column, reader.notes) if column.is_category else {column.name: column.values}
        if column.since is not None:
            reader.notes.append(f"{column.header}: days since {column.since}, as {column.name}.")
    return _checked(variables, columns[0], cells.name, reader.notes)


def formula_names(headers: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Name in formulas, and unit, of every column: "Body mass [kg]" is Body_mass in kg.

    A name that would not be one symbol, or not the only one of its kind, is the whole header in brackets.
    """
    headers = list(dict.fromkeys(headers))
    plain: dict[str, tuple[str, str]] = {}
    for header in headers:
        match = re.fullmatch(r"(.*\S)(?:\s+\(([^()]+)\)|\s*\[([^\[\]]+)\])", header)
        unit = (match[2] or match[3]).strip() if match else ""
        base = match[1] if match and not unit.isdigit() else header
        unit = "" if base == header else unit
        name = base if base.isidentifier() else re.sub(r"\W+", "_", base).strip("_")
        plain[header] = (name, unit)
    names = [name for name, _ in plain.values()]
    return {
        header: (name, unit) if name.isidentifier() and names.count(name) == 1 else (f"[{header}]", "")
        for header, (name, unit) in plain.items()
    }


def _chosen(
    cells: Cells, named: dict[str, tuple[str, str]], target: str, choices: Choices, notes: list[str]
) -> tuple[str, list[str]]:
    """Headers of the target and of the inputs, by their headers or their names in formulas."""
    columns = list(cells.frame.columns)
    by_name = {name: header for header, (name, _) in named.items()}

    def header_of(name: str) -> str:
        header = name if name in columns else by_name.get(name)
        if header is None:
            raise ConfigError(f"{cells.name} has no column {name!r}. Choose from: {', '.join(map(str, columns))}.")
        return header

    target = header_of(target)
    exclude = [header_of(name) for name in choices.exclude]
    if choices.inputs is None:
        inputs = [name for name in columns if name not in (target, *exclude)]
        if "" in inputs:
            inputs = [name for name in inputs if name]
            notes.append("A column without a name is left out.")
    else:
        inputs = [header_of(name) for name in choices.inputs]
    for name in (target, *inputs):
        if columns.count(name) > 1 or inputs.count(name) > 1:
            raise ConfigError(f"The column {name!r} is there twice.")
        if name in exclude:
            raise ConfigError(f"The column {name!r} is to be used and is named by --exclude.")
    if len(columns) == 1:
        raise DataError(
            f"{cells.name} has one column, {columns[0]!r}. Cells are separated by tabs, semicolons, bars, "
            "commas or spaces."
        )
    if target in inputs or not inputs:
        raise ConfigError(f"The inputs must be columns other than the target {target!r}.")
    return target, inputs


def _without_constants(columns: Sequence[Column], choices: Choices, notes: list[str]) -> list[Column]:
    """The target, and the inputs that vary."""
    target, *inputs = columns
    constant = [column for column in inputs if column.is_constant()]
    if target.is_constant():
        values = target.values.dropna()
        if not len(values):
            raise DataError(f"The column {target.header!r} has no values.")
        raise DataError(f"The column {target.header!r} is {values.iloc[0]} in every row, which needs no formula.")
    if len(constant) == len(inputs):
        names = ", ".join(repr(column.header) for column in constant)
        raise DataError(f"No input varies: {names} have one value in every row.")
    if choices.inputs is not None and constant:
        header = constant[0].header
        raise DataError(f"The column {header!r} has one value in every row, so the target cannot depend on it.")
    for column in constant:
        values = column.values.dropna()
        notes.append(f"{column.header}: left out, {values.iloc[0] if len(values) else 'empty'} in every row.")
    return [column for column in columns if column not in constant]


def _check_target(target: Column) -> None:
    if not target.is_category:
        return
    levels = sorted(set(target.values.dropna()))
    shown = ", ".join(map(repr, levels[:3])) + (", …" if len(levels) > 3 else "")
    raise DataError(
        f"The target {target.header!r} is text with {len(levels)} classes ({shown}), and a formula gives numbers. "
        "kansformer.kan.KANClassifier learns classes."
    )


def _without_gaps(columns: Sequence[Column], choices: Choices, reader: ColumnReader) -> list[Column]:
    """The columns with missing values filled, or without the rows that have some."""
    gaps = [column.values.isna() for column in columns]
    total = sum(int(gap.sum()) for gap in gaps)
    if not total:
        return list(columns)
    if choices.impute:
        left_out = gaps[0]
        if left_out.any():
            reader.notes.append(f"Rows left out, as {columns[0].header!r} has no value: {left_out.sum()}.")
        for column, gap in zip(columns[1:], gaps[1:], strict=True):
            column.values = column.values[~left_out]
            count = int((gap & ~left_out).sum())
            if count:
                value = "missing" if column.is_category else column.values.median()
                column.values = column.values.fillna(value)
                kind = "the level 'missing'" if column.is_category else f"the median {value:.6g}"
                reader.notes.append(f"{column.header}: missing values filled by {kind}: {count}.")
        columns[0].values = columns[0].values[~left_out]
    elif choices.drop_missing:
        left_out = gaps[0].copy()
        for gap in gaps[1:]:
            left_out |= gap
        for column in columns:
            column.values = column.values[~left_out]
        reader.notes.append(f"Rows left out for missing values: {left_out.sum()} of {len(left_out)}.")
    else:
        column, gap = next((c, g) for c, g in zip(columns, gaps, strict=True) if g.any())
        raise DataError(
            f"The column {column.header!r} has no value in row {reader.row(gap.idxmax())} (missing values in the "
            f"table: {total}). --drop-missing leaves out such rows; --impute fills numbers by the median."
        )
    if len(columns[0].values) < MIN_ROWS:
        raise DataError(
            f"{reader.cells.name} has {counted(len(columns[0].values), 'row')} with all values; a formula takes "
            f"{MIN_ROWS} or more."
        )
    return list(columns)


def _indicators(column: Column, notes: list[str]) -> dict[str, pandas.Series]:
    """A column of zeros and ones for every level of a category, or one column for two levels."""
    levels = sorted(set(column.values), key=str)
    if (
        len(levels) > MAX_LEVELS
        and sum(re.fullmatch(WITH_UNIT, level) is not None for level in levels) > len(levels) / 2
    ):
        raise DataError(
            f"The column {column.header!r} has cells such as {levels[0]!r}. Write numbers alone; a unit can stand in "
            f"the header, as {column.header} [unit]."
        )
    if len(levels) > MAX_LEVELS:
        raise DataError(
            f"The column {column.header!r} is text with {len(levels)} different values, such as {levels[0]!r}; at most "
            f"{MAX_LEVELS} become indicators. Leave it out by --exclude, or name the columns to use by --inputs."
        )
    name = column.name.removeprefix("[").removesuffix("]")
    named = {f"[{name} = {level}]": level for level in (levels if len(levels) > 2 else levels[1:])}
    notes.append(f"{column.header}: 1 or 0 for {counted(len(levels), 'value')}, as {', '.join(named)}.")
    return {own: (column.values == level).astype(float) for own, level in named.items()}


def _checked(variables: dict[str, pandas.Series], target: Column, name: str, notes: list[str]) -> NumericTable:
    """The finished table, with remarks on its rows."""
    import pandas

    inputs, values = pandas.DataFrame(variables), target.values.rename(target.name)
    if target.since is not None:
        notes.append(f"{target.header}: days since {target.since}, as {target.name}.")
    if len(inputs) < inputs.shape[1] + 2:
        raise DataError(
            f"{name} has {counted(len(inputs), 'row')} for {counted(inputs.shape[1], 'input')}; even a straight line "
            "has more numbers. Name fewer columns by --inputs."
        )
    copies = int(inputs.assign(**{"": values}).duplicated().sum())
    if copies > MANY_COPIES * len(inputs):
        notes.append(
            f"Rows that are copies of others: {copies} of {len(inputs)}; a row that judges may be one to search on."
        )
    return NumericTable(inputs, values, target.unit, notes)
