"""`kansformer fit`: a formula for a column of a table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kansformer.cli.loading import split_names
from kansformer.cli.table_columns import Choices
from kansformer.cli.table_files import read_cells
from kansformer.cli.table_numbers import NumericTable, to_numbers
from kansformer.errors import CheckpointError, ConfigError
from kansformer.figure import check_format, has_matplotlib
from kansformer.files import atomic_file, atomic_write_text, check_file
from kansformer.wording import counted

if TYPE_CHECKING:
    from torch import Tensor

    from kansformer.kan import Dataset

MAX_SEARCHED = 4000
"""Rows that formulas are searched on; of a longer table, all other rows judge."""

SOFTWARE = "kansformer fit"
"""By this entry of a PNG file the command knows its own drawings."""

CHUNK = 4096
"""Rows that are judged at once, which bounds the memory."""


def fit_command(
    table: Annotated[
        Path,
        typer.Argument(
            help="A table with a header: text with any usual separator (.csv, .tsv, .txt), .parquet or .xlsx."
        ),
    ],
    target: Annotated[str, typer.Option(help="The column to explain.")],
    inputs: Annotated[
        str | None, typer.Option(help="Columns that may occur in it, with commas.", show_default="all others")
    ] = None,
    exclude: Annotated[str, typer.Option(help="Columns that may not, with commas.", show_default="none")] = "",
    drop_missing: Annotated[bool, typer.Option("--drop-missing", help="Leave out rows with missing values.")] = False,
    impute: Annotated[
        bool, typer.Option("--impute", help="Fill missing numbers by the median, categories by the level 'missing'.")
    ] = False,
    decimal: Annotated[
        str | None, typer.Option(help="The decimal sign, . or a comma.", show_default="detected")
    ] = None,
    day_first: Annotated[
        bool | None,
        typer.Option("--day-first/--month-first", help="Whether 03/04/2020 is in April.", show_default="detected"),
    ] = None,
    functions: Annotated[
        str | None, typer.Option(help="Functions that may occur in it beside lines, with commas.", show_default="all")
    ] = None,
    networks: Annotated[int, typer.Option(help="Networks to try at most.", min=1)] = 24,
    seconds: Annotated[
        float | None,
        typer.Option(help="When to stop with the best formula so far; Ctrl-C does the same.", show_default="no limit"),
    ] = None,
    test_share: Annotated[float, typer.Option(help="Share of the rows that only judge.", min=0.0, max=0.9)] = 0.2,
    digits: Annotated[int, typer.Option(help="Significant digits in the formula.", min=1)] = 4,
    figure: Annotated[
        Path | None, typer.Option(help="Where to draw the network.", show_default="beside the table, TABLE.png")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="A JSON file for the formula and its errors.", show_default="none")
    ] = None,
) -> None:
    """Find a formula for a column of a table, print it, and draw the network that found it.

    Dates become days since the first one, categories a column of 1 or 0 for every value, constant columns are left out,
    and each of these is said. Gaps and cells that do not fit their column are named by row.
    """
    from kansformer.kan import find_formula
    from kansformer.kan.linear_formulas import is_linear, linear_in
    from kansformer.kan.rounding import evaluate, rounded, text_of
    from kansformer.symbolic import ALL_SYMBOLS

    _check_files(table, figure, output)
    path, not_drawn = (figure, "") if figure is not None else _default_figure(table, output)
    picture_format = None if path is None else check_format(path)
    chosen = None if inputs is None else split_names(inputs)
    choices = Choices(chosen, split_names(exclude), drop_missing, impute, decimal, day_first)
    library = None if functions is None else ALL_SYMBOLS.subset(list(dict.fromkeys(["x", *split_names(functions)])))
    cells = read_cells(table)
    numbers = to_numbers(cells, target, choices)
    notes = [*cells.notes, *numbers.notes]
    del cells
    dataset = _split(numbers, test_share)
    x, y, other_x, other_y = vars(dataset).values()
    if len(x) == MAX_SEARCHED:
        notes.append(f"A formula is searched on {MAX_SEARCHED} rows, drawn at random, and judged on all others.")
    for note in notes:
        typer.echo(note)
    names, name = list(numbers.inputs.columns), str(numbers.target.name)
    begin = time.perf_counter()
    points = dict(zip(names, x.unbind(dim=1), strict=True))
    indicators = {own for own, values in points.items() if ((values == 0) | (values == 1)).all()}
    result = find_formula(
        (x, y), library=library, networks=networks, seconds=seconds, variables=names,
        digits=None if indicators else digits,
    )  # fmt: skip
    model, formula = result.model, result.formulas[0]
    if indicators:
        formula = rounded(linear_in(formula, indicators, points), digits, points)
    spent = time.perf_counter() - begin
    compute = lambda x: evaluate(formula, dict(zip(names, x.unbind(dim=1), strict=True))).unsqueeze(-1)  # noqa: E731
    train, other = _judge(compute, x, y), _judge(compute, other_x, other_y)
    if output is not None:  # before anything that may fail
        alternatives = result.alternatives[0] if result.alternatives else []
        report = {
            "target": name, "formula": text_of(formula), "inputs": names, "unit": numbers.unit, "notes": notes,
            "train": vars(train), "other": vars(other) if len(other_x) else None, "seconds": spent,
            "stopped": result.stopped,
            "alternatives": [
                {"formula": text_of(a.formula), "size": a.size, "rmse": a.train_rmse} for a in alternatives
            ],
        }  # fmt: skip
        atomic_write_text(output, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    typer.echo(f"{name} = {text_of(formula)}")
    if is_linear(formula):
        typer.echo("This is a straight line." if len(formula.free_symbols) == 1 else "This is linear in every input.")
    if result.stopped is not None:
        typer.echo(f"The search ended early: {result.stopped}.")
    unit = numbers.unit and f" {numbers.unit}"
    sentences = [train.sentence("row", unit), *([other.sentence("other row", unit)] if len(other_x) else [])]
    typer.echo(" ".join(sentences))
    is_worse = result.curves_rmse < result.train_rmse
    typer.echo(f"{f'Curves without names: RMSE {result.curves_rmse:.3g}{unit}. ' if is_worse else ''}{spent:.1f} s.")
    if path is None:
        typer.echo(f"The network is not drawn. {not_drawn}")
    else:
        drawing = model.plot((x, y), variables=names, outputs=[name])
        with atomic_file(path) as file:
            metadata = {"Software": SOFTWARE} if picture_format == "png" else None
            drawing.savefig(file, dpi=130, format=picture_format, metadata=metadata)
        typer.echo(f"Drawn: {path}")
    if output is not None:
        typer.echo(f"Written: {output}")


def _check_files(table: Path, figure: Path | None, output: Path | None) -> None:
    """Check that the files that were named can be written, and that none of them replaces another one or the table."""
    earlier = {"the table": table}
    for purpose, file in (("figure", figure), ("output", output)):
        if file is None:
            continue
        if not file.parent.is_dir():
            raise ConfigError(f"There is no folder {str(file.parent)!r} for the {purpose}.")
        check_file(file)
        for what, other in earlier.items():
            if _is_same(file, other):
                raise ConfigError(f"--{purpose} {str(file)!r} is {what} as well. Choose another file.")
        earlier[f"--{purpose}"] = file


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, which may not exist yet; not of devices and pipes, which take any output."""
    if one.exists() and other.exists():
        return one.is_file() and one.samefile(other)
    return one.resolve() == other.resolve()


def _default_figure(table: Path, output: Path | None) -> tuple[Path | None, str]:
    """Where to draw the network if nobody says so; None, and a sentence that says why, where nothing may be drawn."""
    path = table.with_suffix(".png")
    if not has_matplotlib():
        return None, "Pictures need matplotlib: pip install 'kansformer[plot]'."
    if (path.exists() and not _is_own_drawing(path)) or (output is not None and _is_same(path, output)):
        return None, f"{str(path)!r} is not a drawing of this command. --figure names another file."
    try:
        check_file(path)
    except CheckpointError as error:
        return None, f"{error} --figure names another file."
    return path, ""


def _is_own_drawing(path: Path) -> bool:
    """Whether `fit_command` has drawn a picture."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f"Software\0{SOFTWARE}".encode() in file.read(1024)


@dataclass(frozen=True)
class _Errors:
    """Errors of a formula on some rows.

    Args:
        rows: their number.
        rmse: root mean square error where the formula is finite.
        r2: share of the variance that it explains there; None if the target does not vary.
        undefined: rows where the formula is not finite.
    """

    rows: int
    rmse: float
    r2: float | None
    undefined: int

    def sentence(self, rows: str, unit: str) -> str:
        r2 = "R² unknown, as the target does not vary" if self.r2 is None else f"R² {self.r2:.6f}"
        undefined = f" (it has no value on {self.undefined} more)" if self.undefined else ""
        return f"On {counted(self.rows, rows)}: {r2}, RMSE {self.rmse:.3g}{unit}{undefined}."


def _split(numbers: NumericTable, test_share: float) -> Dataset:
    """Rows to search on, at most `MAX_SEARCHED`, and all others to judge, drawn at random with a fixed seed."""
    import torch

    from kansformer.kan import Dataset

    x = torch.tensor(numbers.inputs.to_numpy(dtype=float))
    y = torch.tensor(numbers.target.to_numpy(dtype=float)).unsqueeze(-1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    count = max(round(test_share * len(x)), len(x) - MAX_SEARCHED)
    other, train = order[:count], order[count:]
    return Dataset(x[train], y[train], x[other], y[other])


def _judge(compute: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> _Errors:
    """Errors of a formula as it is printed on rows, a part of them at a time."""
    import torch

    outputs = torch.cat([compute(rows) for rows in x.split(CHUNK)]) if len(x) else y
    is_finite = outputs.isfinite()
    errors, targets = (outputs - y)[is_finite], y[is_finite]
    rows = len(targets)
    mean_square = errors.square().mean().item() if rows else 0.0
    variance = targets.var(correction=0).item() if rows else 0.0
    r2 = 1 - mean_square / variance if variance else None
    return _Errors(rows, mean_square**0.5, r2, len(x) - rows)
