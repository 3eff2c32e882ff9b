"""The trials of `docs/reliability.md`, "tried, survived, lost", in parts that can be stopped and gone on with.

    pip install '.[test]' atheris
    python benchmarks/reliability.py                        # all that has no row yet: hours
    python benchmarks/reliability.py --only files threads --minutes 30
    python benchmarks/reliability.py --summary

A part is one command, which also runs by itself; its counts are a row of `results/reliability.csv`, with the commit
that they belong to. Parts whose rows are there are not repeated (`--fresh` repeats the selected trials). The trials
take turns, so that a run that is stopped has some parts of each.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from dataclass_csv import append_row, read_rows, write_rows
from provenance import commit, processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reliability.csv"
ENVIRONMENT = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
GUIDED = ("record", "curves", "curves-config", "network", "recipe", "card", "origin", "table")
EXTREME_PARTS = 40
# How the trials end; the second is the guided fuzzer's own.
COUNTS = re.compile(r"^(?:tried|stat::number_of_executed_units:) (\d+)(?: lost (\d+))?$", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """What came of a part, and where."""

    trial: str
    part: int
    tried: int
    lost: int
    seconds: int
    commit: str
    processor: str


@dataclass(frozen=True)
class Trial:
    """What is tried.

    Args:
        text: for the table.
        parts: arguments of Python, for each part.
    """

    text: str
    parts: tuple[list[str], ...]


def main() -> None:
    """Run the parts that are left, or print the table."""
    options = _options()
    rows = read_rows(options.out, Row)
    if options.fresh:
        rows = [row for row in rows if row.trial not in options.only]
        write_rows(options.out, rows)
    end = time.monotonic() + 60 * options.minutes
    done = {(row.trial, row.part) for row in rows}
    for name, part in () if options.summary else _in_turns(options.only):
        if (name, part) not in done and time.monotonic() < end and (row := _run(name, part)):
            rows.append(row)
            append_row(options.out, row)
    print(_table(rows))
    sys.exit(any(row.lost for row in rows))


def _in_turns(names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The first part of every trial, then the second ones, and so on."""
    numbered = ([(name, part) for part in range(len(TRIALS[name].parts))] for name in names)
    for turn in zip_longest(*numbered):
        yield from filter(None, turn)


def _run(name: str, part: int) -> Row | None:
    """The row of a part; None, after what it printed, where it did not come to its counts."""
    trial, begin = TRIALS[name], time.monotonic()
    print(f"{name} {part + 1} of {len(trial.parts)}: python {' '.join(trial.parts[part])}", flush=True)
    done = subprocess.run(
        [sys.executable, *trial.parts[part]], cwd=ROOT, env=os.environ | ENVIRONMENT, text=True, capture_output=True
    )
    output = done.stdout + done.stderr
    tried, lost = _counts(output, done.returncode)
    if not tried or lost:
        print(output[-5000:])
    if not tried:
        print(f"Part {part + 1} of {name} ended with {done.returncode} and printed no counts; see above.", flush=True)
        return None
    row = Row(name, part, tried, lost, round(time.monotonic() - begin), commit(), processor())
    print(f"  tried {tried:,}, lost {lost:,}, {row.seconds} s", flush=True)
    return row


def _table(rows: Iterable[Row]) -> str:
    tried, lost, seconds, parts = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        tried[row.trial] += row.tried
        lost[row.trial] += row.lost
        seconds[row.trial] += row.seconds
        parts[row.trial] += 1
    lines = ["| | tried | survived | lost | parts run | minutes |", "|---|---|---|---|---|---|"]
    for name, trial in TRIALS.items():
        counts = f"{tried[name]:,} | {tried[name] - lost[name]:,} | {lost[name]:,}"
        minutes = f"{seconds[name] / 60:.0f}"
        lines.append(f"| {trial.text} | {counts} | {parts[name]} of {len(trial.parts)} | {minutes} |")
    return "\n".join(lines)


def _counts(output: str, status: int) -> tuple[int, int]:
    """Tried and lost: the sums of all lines that say so; a part that ends with an error lost one at least."""
    numbers = [(int(tried), int(lost or 0)) for tried, lost in COUNTS.findall(output.replace(",", ""))]
    return sum(tried for tried, _ in numbers), max(sum(lost for _, lost in numbers), int(status != 0))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(TRIALS), default=list(TRIALS), metavar="TRIAL")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no part begins later")
    parser.add_argument("--fresh", action="store_true", help="repeat the selected trials")
    parser.add_argument("--summary", action="store_true", help="only print the table")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


FAILURES = ["-m", "pytest", "-q", "-s", "-n", "0", "tests/load/test_failures.py", "--thorough", "-k"]
THREADS = ["-m", "pytest", "-q", "-s", "-n", "0", "tests/load/test_threads.py", "--thorough"]
TRIALS = {
    "kills": Trial(
        "`kill -9` of training in two processes and in one: at random times, inside saving and changing grids",
        (["benchmarks/survival.py", "--part", "2 processes"], ["benchmarks/survival.py", "--part", "1 process"]),
    ),
    "nodes": Trial(
        "`torchrun`, two nodes of two processes: `kill -9` of a worker or a launcher; the same with FSDP2",
        (["benchmarks/survival.py", "--part", "2 nodes"],),
    ),
    "processes": Trial(
        "another number of processes after a kill, whole and sharded: losses equal to 1e-5",
        (["benchmarks/survival.py", "--part", "processes"],),
    ),
    "files": Trial(
        "untrusted files, changed: models of six families, curves, cards, recipes, formulas, tables",
        tuple(["-m", "strangers.fuzz", "--count", "1000", "--seed", str(301 + part)] for part in range(20)),
    ),
    "guided": Trial(
        "the same files, changed by a coverage-guided fuzzer",
        tuple(["-m", "strangers.guided", target, "--seconds", "450"] for target in GUIDED),
    ),
    "extremes": Trial(
        "extreme inputs: NaN, ±inf, subnormal, huge, constant, far outside; domains of 1e-30 to 1e30; grids to 1,000",
        tuple(
            ["benchmarks/extreme_inputs.py", "--processes", "1", "--part", str(part), str(EXTREME_PARTS)]
            for part in range(EXTREME_PARTS)
        ),
    ),
    "failures": Trial(
        "a failure or Ctrl-C before every line of changes, readings and savings of models",
        tuple([*FAILURES, case] for case in ("convert", "revert", "load or replace", "prune or drop or reduce or edit",
                                             "save or record or score or folder")),
    ),
    "threads": Trial(
        "eight threads, each with a model of its own: convert, run, save, load, revert",
        (THREADS,),
    ),
    "bounds": Trial(
        "streams 100 times longer: audit, evaluation, training",
        (["benchmarks/bounds.py"],),
    ),
    "soak": Trial(
        "rounds of converting, training, auditing, saving and failing in one process, without growth",
        (["benchmarks/soak.py", "--minutes", "60", "--fresh"],),
    ),
}  # fmt: skip


if __name__ == "__main__":
    main()
