"""The table of an audit's edges as a Parquet file: the columns of `ModelSummary.to_pandas`, rounded to what they mean.

| columns | kept | why |
|---|---|---|
| scores | 7 bits, 0.4 % | they are estimates from recorded tokens, and 8,192 of them leave an error of 1 to 2 % |
| a, b, c, d | 15 bits, 3e-5 | a formula's R² becomes lower by less than 1e-4 in the mean |
| R² | multiples of 2^-13 | four decimals |
| the others | exact | |

All of these are float32. The zeros at their ends, the bytes of a column kept together (`BYTE_STREAM_SPLIT`) and zstd
make a row of 120 bytes one of 17 to 24.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kansformer.files import atomic_file

if TYPE_CHECKING:
    import numpy as np
    import pandas

SCORE_BITS = 7
SCORE_COLUMNS = ("variance", "share", "learned_variance", "attribution", "learned_attribution")
FORMULA_BITS = 15
FORMULA_COLUMNS = ("a", "b", "c", "d")
R2_STEP = 2**-13
R2_COLUMNS = ("r2", "r2_fit", "best_r2", "r2_tokens", "r2_learned")
NUMBERED = ("input", "output")
COMPRESSION_LEVEL = 9


def write_edges(parts: Iterable[pandas.DataFrame], path: Path) -> None:
    """Write tables of edges one after the other, of which one at a time is in memory.

    Args:
        parts: tables with the same columns.
        path: of the file, which appears when it is complete.
    """
    import pyarrow
    import pyarrow.parquet

    with atomic_file(path) as partial:
        writer = None
        try:
            for part in parts:
                table = pyarrow.Table.from_pandas(_rounded(part), preserve_index=False)
                writer = writer or pyarrow.parquet.ParquetWriter(partial, table.schema, **_encoding(part.columns))
                writer.write_table(table.cast(writer.schema))
        finally:
            if writer is not None:
                writer.close()


def _rounded(table: pandas.DataFrame) -> pandas.DataFrame:
    def columns(names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name in table]

    return table.assign(
        **{name: _significant(table[name].to_numpy(), SCORE_BITS) for name in columns(SCORE_COLUMNS)},
        **{name: _significant(table[name].to_numpy(), FORMULA_BITS) for name in columns(FORMULA_COLUMNS)},
        **{name: ((table[name] / R2_STEP).round() * R2_STEP).astype("float32") for name in columns(R2_COLUMNS)},
    )


def _significant(values: np.ndarray, bits: int) -> np.ndarray:
    """The nearest numbers with this number of significant bits, in float32; infinite or 0 beyond its range."""
    import numpy as np

    fraction, exponent = np.frexp(values.astype(np.float64))
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(np.round(np.ldexp(fraction, bits)), exponent - bits).astype(np.float32)


def _encoding(columns: Iterable[str]) -> dict[str, object]:
    """Arguments of a Parquet writer."""
    split = {name for name in columns if name in SCORE_COLUMNS + FORMULA_COLUMNS + R2_COLUMNS}
    return {
        "compression": "zstd",
        "compression_level": COMPRESSION_LEVEL,
        "use_dictionary": [name for name in columns if name not in split and name not in NUMBERED],
        "column_encoding": dict.fromkeys(split, "BYTE_STREAM_SPLIT") | dict.fromkeys(NUMBERED, "DELTA_BINARY_PACKED"),
    }
