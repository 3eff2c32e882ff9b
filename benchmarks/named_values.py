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
        """All of them, in their order."""
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("name", "value"), *self.rows])
        print(f"Written: {path}")
