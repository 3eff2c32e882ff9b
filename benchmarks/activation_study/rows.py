"""The rows of the study's CSV: one per run, written as it ends."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

import torch

from activation_study.engine import Outcome, Run


@dataclass(frozen=True)
class Row:
    """A run and what it gave.

    Args:
        run: its settings.
        val_loss, parameters, learned, step_ms, peak_mb: as in `Outcome`.
        text: digest of the corpus.
        commit, torch, processor: where it ran.
    """

    run: Run
    val_loss: float
    parameters: int
    learned: int
    step_ms: float
    peak_mb: int
    text: str
    commit: str
    torch: str
    processor: str

    @classmethod
    def of(cls, run: Run, outcome: Outcome, text: str) -> Row:
        return cls(
            run=run,
            val_loss=round(outcome.val_loss, 5),
            parameters=outcome.parameters,
            learned=outcome.learned,
            step_ms=round(outcome.step_ms, 1),
            peak_mb=outcome.peak_mb,
            text=text,
            commit=_commit(),
            torch=torch.__version__,
            processor=_processor(),
        )


RUN_COLUMNS = [field.name for field in dataclasses.fields(Run)]
OWN_COLUMNS = [field.name for field in dataclasses.fields(Row) if field.name != "run"]


def read_rows(path: Path) -> list[Row]:
    """All rows that are there."""
    if not path.exists():
        return []
    run_kinds, kinds = get_type_hints(Run), get_type_hints(Row)
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(
                run=Run(**{name: run_kinds[name](line[name]) for name in RUN_COLUMNS}),
                **{name: kinds[name](line[name]) for name in OWN_COLUMNS},
            )
            for line in csv.DictReader(file)
        ]


def append_row(path: Path, row: Row) -> None:
    """Add one line, and the header to a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(RUN_COLUMNS + OWN_COLUMNS)
        writer.writerow([*dataclasses.astuple(row.run), *(getattr(row, name) for name in OWN_COLUMNS)])


def losses(rows: Iterable[Row], like: Run) -> dict[int, float]:
    """Validation losses by seed of the runs that differ from one only in their seed."""
    return {row.run.seed: row.val_loss for row in rows if dataclasses.replace(row.run, seed=like.seed) == like}


def best_rate(rows: Iterable[Row], size: str, length: float, optimizer: str) -> float:
    """The rate at which SwiGLU's exploring runs have the lowest mean loss; that of the nearest shorter length where
    none was tried at this one.

    Raises:
        LookupError: no rate was tried at this size with this optimizer.
    """
    by_length: dict[float, dict[float, list[float]]] = {}
    for row in rows:
        run = row.run
        if (run.phase, run.variant, run.corpus) == ("explore", "swiglu", "python") and (
            (run.size, run.optimizer) == (size, optimizer) and run.length <= length
        ):
            by_length.setdefault(run.length, {}).setdefault(run.lr, []).append(row.val_loss)
    tuned = {tried: rates for tried, rates in by_length.items() if len(rates) > 1}
    if not tuned:
        raise LookupError(
            f"No learning rate was tried for {size} with {optimizer} up to {length:g} tokens a parameter."
        )
    rates = tuned[max(tuned)]
    return min(rates, key=lambda lr: sum(rates[lr]) / len(rates[lr]))


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
