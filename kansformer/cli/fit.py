"""`kansformer fit`: a formula for a column of a table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kansformer.cli.loading import split_names
from kansformer.errors import ConfigError, DataError
from kansformer.files import atomic_file

if TYPE_CHECKING:
    from torch import Tensor

    from kansformer.kan import Dataset

MIN_ROWS = 20


def fit_command(
    table: Annotated[Path, typer.Argument(help="A table with a header, .csv or .parquet.")],
    target: Annotated[str, typer.Option(help="The column to explain.")],
    inputs: Annotated[
        str | None, typer.Option(help="Columns that may occur in it, with commas.", show_default="all others")
    ] = None,
    functions: Annotated[
        str | None, typer.Option(help="Functions that may occur in it, with commas.", show_default="all")
    ] = None,
    networks: Annotated[int, typer.Option(help="Networks to try at most.", min=1)] = 24,
    test_share: Annotated[float, typer.Option(help="Share of the rows that only judge.", min=0.0, max=0.9)] = 0.2,
    digits: Annotated[int, typer.Option(help="Significant digits in the formula.", min=1)] = 4,
    figure: Annotated[
        Path | None, typer.Option(help="Where to draw the network.", show_default="beside the table, TABLE.png")
    ] = None,
) -> None:
    """Find a formula for a column of a table, print it, and draw the network that found it."""
    from kansformer.kan import find_formula
    from kansformer.symbolic import ALL_SYMBOLS

    path = table.with_suffix(".png") if figure is None else figure
    if not path.parent.is_dir():
        raise ConfigError(f"There is no folder {str(path.parent)!r} for the figure.")
    frame, names = _read(table, target, inputs)
    dataset = _dataset(frame, names, target, test_share)
    library = None if functions is None else ALL_SYMBOLS.subset(split_names(functions))
    begin = time.perf_counter()
    result = find_formula(dataset, library=library, networks=networks, variables=names, digits=digits)
    typer.echo(f"{target} = {result.formulas[0]}")
    rows = len(dataset.test_input)
    test = f" (on {rows} other rows {_r2(result.test_rmse, dataset.test_target)})" if rows else ""
    r2 = f"R² {_r2(result.train_rmse, dataset.train_target)}{test}"
    before = f"before the curves were named {result.curves_rmse:.3g}"
    typer.echo(f"{r2}, RMSE {result.train_rmse:.3g}; {before}. {time.perf_counter() - begin:.1f} s.")
    drawing = result.model.plot(dataset, variables=names, outputs=[target])
    with atomic_file(path) as file:
        drawing.savefig(file, dpi=130, format=path.suffix[1:] or None)
    typer.echo(f"Drawn: {path}")


def _read(table: Path, target: str, inputs: str | None) -> tuple[Any, list[str]]:
    import pandas

    if not table.is_file():
        raise DataError(f"There is no table {str(table)!r}.")
    try:
        frame = pandas.read_parquet(table) if table.suffix == ".parquet" else pandas.read_csv(table)
    except (ValueError, OSError) as error:
        raise DataError(f"{str(table)!r} cannot be read as a table: {error}") from None
    columns = list(frame.columns)
    names = [name for name in columns if name != target] if inputs is None else list(split_names(inputs))
    for name in (target, *names):
        if name not in columns:
            raise ConfigError(f"{table.name} has no column {name!r}. Choose from: {', '.join(map(str, columns))}.")
        if columns.count(name) > 1 or names.count(name) > 1:
            raise ConfigError(f"The column {name!r} is there twice.")
        if not pandas.api.types.is_numeric_dtype(frame[name]):
            raise DataError(f"The column {name!r} is not numeric. Leave it out: --inputs names the columns to use.")
        missing = frame[name].isna()
        if missing.any():
            raise DataError(f"The column {name!r} has no value in row {int(missing.to_numpy().nonzero()[0][0]) + 1}.")
    if target in names or not names:
        raise ConfigError(f"The inputs must be columns other than the target {target!r}.")
    if len(frame) < MIN_ROWS:
        raise DataError(f"{table.name} has {len(frame)} rows; a formula takes {MIN_ROWS} or more.")
    constant = [name for name in (target, *names) if frame[name].min() == frame[name].max()]
    if target in constant:
        raise DataError(f"The column {target!r} is {frame[target].iloc[0]} in every row, which needs no formula.")
    varying = [name for name in names if name not in constant]
    if not varying:
        raise DataError(f"No input varies: {', '.join(map(repr, names))} have one value in every row.")
    if inputs is not None and constant:
        raise DataError(f"The column {constant[0]!r} has one value in every row, so the target cannot depend on it.")
    return frame, varying


def _dataset(frame: Any, names: list[str], target: str, test_share: float) -> Dataset:
    import torch

    from kansformer.kan import Dataset

    x = torch.tensor(frame[names].to_numpy(dtype=float))
    y = torch.tensor(frame[[target]].to_numpy(dtype=float))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    count = round(test_share * len(x))
    test, train = order[:count], order[count:]
    return Dataset(x[train], y[train], x[test], y[test])


def _r2(rmse: float, y: Tensor) -> str:
    variance = y.var(correction=0).item()
    return f"{1 - rmse**2 / variance:.6f}" if variance else "unknown, as they do not vary"
