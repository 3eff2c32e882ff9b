"""Figures of a benchmark: printed as `name value` while it runs, and written as a CSV file."""

from __future__ import annotations

from pathlib import Path

from dataclass_csv import replace_lines


class NamedValues:
    """Call it with every figure."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float]] = []

    def __call__(self, name: str, value: float) -> None:
        self.rows.append((name, value))
        print(f"{name} {value:.6g}", flush=True)

    def write(self, path: Path) -> None:
        """All of them, in their order, after those of the file that were not reported."""
        replace_lines(path, ["name", "value"], self.rows, ["name"])
        print(f"Written: {path}")
