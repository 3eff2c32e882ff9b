"""Tables of an audit in files: a row for each edge or input, of which only a part is in memory at a time.

Shape letters: E rows.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor


class TableFolder:
    """A temporary folder for tables, removed when nothing refers to it any more.

    Args:
        parent: the folder to make it in; None is the system's for temporary files.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="kansformer-audit-", dir=parent))
        self.count = 0
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def new_file(self) -> Path:
        """A name that no file of the folder has yet."""
        self.count += 1
        return self.path / f"{self.count}.safetensors"


class EdgeTable:
    """Columns of numbers, written in parts and read part by part.

    Args:
        folder: where the files are made.
    """

    def __init__(self, folder: TableFolder) -> None:
        self.folder = folder
        self._files: list[Path] = []
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return sum(self._lengths)

    def append(self, columns: Mapping[str, Tensor]) -> None:
        """Write rows after those that are there; all columns have the same length, and every part the same columns."""
        from safetensors.torch import save_file

        file = self.folder.new_file()
        save_file({name: column.contiguous().clone() for name, column in columns.items()}, file)
        self._files.append(file)
        self._lengths.append(len(next(iter(columns.values()))))

    def parts(self, names: Sequence[str] | None = None) -> Iterator[dict[str, Tensor]]:
        """The rows in parts as they were appended.

        Args:
            names: of columns to read; None is all.
        """
        for file in self._files:
            yield _read(file, names)

    def columns(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Whole columns, in memory."""
        parts = list(self.parts(names))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def rows(self, numbers_E: Tensor) -> dict[str, Tensor]:
        """The columns at these rows, in the order given."""
        starts = torch.tensor([0, *self._lengths]).cumsum(0)
        part_E = torch.bucketize(numbers_E, starts[1:], right=True)
        result: dict[str, Tensor] = {}
        for index in part_E.unique().tolist():
            chosen = (part_E == index).nonzero()[:, 0]
            for name, column in _read(self._files[index], None).items():
                values = column[numbers_E[chosen] - starts[index]]
                result.setdefault(name, values.new_zeros(len(numbers_E), *values.shape[1:]))[chosen] = values
        return result


def _read(file: Path, names: Sequence[str] | None) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        return {name: tensors.get_tensor(name) for name in (tensors.keys() if names is None else names)}
