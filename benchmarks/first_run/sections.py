"""A run in sections under a budget of seconds: each stands alone, what fails is a row, and the next one runs."""

import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from dataclass_csv import append_row
from speed.harness import Clock, clock_for
from speed.suites import Report
from speed.table import Environment, Row, write_rows
from torch import Tensor


class WrongNumbersError(RuntimeError):
    """A result is too far from its definition; it is not timed."""


class UnavailableError(RuntimeError):
    """What a section needs is not there; the message says what."""


@dataclass(frozen=True)
class Line:
    """One row of `first_run.csv`.

    Args:
        section, case, measure: what it is of.
        value, unit: what was measured; NaN where it was not.
        error: relative L2 error against the definition, checked before the timing; NaN where there is none.
        note: what a reader has to know, or the reason why nothing was measured.
    """

    section: str
    case: str
    measure: str
    value: float = math.nan
    unit: str = ""
    error: float = math.nan
    note: str = ""


@dataclass
class Run:
    """What the sections share.

    Args:
        device: `cuda`, or `cpu` in Triton's interpreter.
        out: folder of all files.
        toy: sizes for tests, that say nothing about speed.
        environment: of the rows of the harness.
        deadline: of `time.monotonic`.
        clock: seconds of calls; None is that of the device.
    """

    device: str
    out: Path
    toy: bool
    environment: Environment
    deadline: float
    clock: Clock | None = None
    section: str = ""
    rows: list[Row] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.deadline - time.monotonic()

    def add(
        self,
        case: str,
        measure: str,
        value: float = math.nan,
        unit: str = "",
        *,
        error: float = math.nan,
        note: str = "",
    ) -> None:
        """Write a row of this section and show it; arguments as in `Line`."""
        line = Line(self.section, case, measure, value, unit, error, note)
        append_row(self.out / "first_run.csv", line)
        off = "" if math.isnan(error) else f", error {error:.1e}"
        number = "" if math.isnan(value) else f" {value:.4g} {unit}"
        print(f"{self.section}: {case}, {measure}{number}{off} {note}".rstrip(), flush=True)

    def keep(self, report: Report) -> None:
        """Write what the harness measured to `bench_gpu.csv`, and what it left out as rows."""
        self.rows += report.rows
        write_rows(self.out / "bench_gpu.csv", self.rows, self.environment)
        for row in report.rows:
            unit = "MiB" if row.mib is not None else "of the baseline"
            value = row.mib if row.mib is not None else row.ratio
            note = "" if row.milliseconds is None else f"{row.milliseconds:.3f} ms"
            self.add(f"{row.shape} {row.variant}", row.measure, math.nan if value is None else value, unit, note=note)
        for skip in report.skips:
            self.add(f"{skip.shape} {skip.variant}", "left out", note=skip.reason)

    def check(self, result: Tensor, expected: Tensor, limit: float) -> float:
        """The relative L2 error.

        Raises:
            WrongNumbersError: it is above the limit, or not a number.
        """
        error = float((result.double() - expected.double()).norm() / expected.double().norm())
        if not error <= limit:
            raise WrongNumbersError(f"relative error {error:.2e} against the definition, above {limit:.0e}")
        return error

    def milliseconds(self, action: Callable[[], object], seconds: float = 0.05) -> float:
        """Per call: the best of three timings of about that many seconds each."""
        clock = self.clock or clock_for(self.device)
        action()
        calls = 1 if self.toy else max(1, min(1000, math.ceil(seconds / max(clock(action, 1), 1e-6))))
        return 1000 * min(clock(action, calls) / calls for _ in range(1 if self.toy else 3))


@dataclass(frozen=True)
class Section:
    """A part of a run.

    Args:
        name: of its rows and of `--only`.
        run: measures and adds rows.
        seconds: the least that should be left of the budget when it begins.
        needs_gpu: why it cannot run in the interpreter; empty where it can.
    """

    name: str
    run: Callable[[Run], None]
    seconds: float
    needs_gpu: str = ""


def run_sections(sections: Sequence[Section], run: Run) -> None:
    """One after the other. A section that fails leaves a row, and its traceback in `failures.txt`."""
    for section in sections:
        run.section = section.name
        begin = time.monotonic()
        if section.needs_gpu and run.device != "cuda":
            status, note = "skipped", section.needs_gpu
        elif run.left < section.seconds and not run.toy:
            status, note = "skipped", f"{run.left:.0f} s are left, it needs {section.seconds:.0f}"
        else:
            status, note = _outcome(section, run)
        run.add(section.name, status, time.monotonic() - begin, "s", note=note)
        if run.device == "cuda":
            torch.cuda.empty_cache()


def _outcome(section: Section, run: Run) -> tuple[str, str]:
    try:
        section.run(run)
    except UnavailableError as reason:
        return "skipped", str(reason)
    except Exception as error:  # the others still count
        with (run.out / "failures.txt").open("a", encoding="utf-8") as file:
            file.write(f"{section.name}\n{traceback.format_exc()}\n")
        return "failed", f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), 'no message')}"
    return "done", ""
