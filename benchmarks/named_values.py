"""Figures of a benchmark: printed as `name value` while it runs, and written as a CSV file."""

from __future__ import annotations

import csv
from pathlib import Path


class NamedValues:
    """Call it with every figure."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float]] = []

    def __call__(self, name: str, value: float) -> None:
        self.rows.append((name, value))
        print(f"{name} {value:.6g}", flush=True)

    def write(self, path: Path) -> None:
        """All of them, in their order, after those of the file that were not reported."""
        old = list(csv.reader(path.open(encoding="utf-8")))[1:] if path.exists() else []
        others = [row for row in old if row[0] not in dict(self.rows)]
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("name", "value"), *others, *self.rows])
        print(f"Written: {path}")
