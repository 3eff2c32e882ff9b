"""Rows of the measurements in `benchmarks/results`."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def read_rows(name: str) -> list[dict[str, str]]:
    """All rows of a CSV file, by column."""
    with (RESULTS / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def losses_by_seed(variant: str, steps: int, lr: float = 2e-3) -> dict[int, float]:
    """Validation losses in `quality.csv`, in nats."""
    return {
        int(row["seed"]): float(row["val_loss"])
        for row in read_rows("quality.csv")
        if (row["variant"], int(row["steps"]), float(row["lr"])) == (variant, steps, lr)
    }


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of two values or more."""
    return statistics.fmean(values), statistics.stdev(values)
