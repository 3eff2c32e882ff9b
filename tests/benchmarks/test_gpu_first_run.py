"""The first run on a GPU, without one: its sections stand alone, and all that can run does, in Triton's interpreter."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from dataclass_csv import read_rows
from first_run.sections import Line, Run, Section, UnavailableError, WrongNumbersError, run_sections
from speed.suites import Report
from speed.table import Row, Skip, describe_environment
from speed.table import read_rows as read_harness_rows

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "benchmarks/gpu_first_run.py"]


def start(folder, seconds=100.0, toy=False, clock=None):
    environment = describe_environment("cpu", "cpu")
    return Run("cpu", folder, toy, environment, time.monotonic() + seconds, clock)


def lines(folder):
    return read_rows(folder / "first_run.csv", Line)


def test_a_section_that_fails_does_not_stop_the_next(tmp_path):
    def broken(run):
        run.add("half", "time", 1.5, "ms")
        raise RuntimeError("no memory\nfor you")

    def absent(run):
        raise UnavailableError("nobody installed it")

    sections = (
        Section("broken", broken, 1),
        Section("absent", absent, 1),
        Section("long", broken, 1000),
        Section("graphs", broken, 1, "CUDA graphs are of CUDA"),
        Section("last", lambda run: None, 1),
    )
    run_sections(sections, start(tmp_path))
    found = lines(tmp_path)
    assert [(line.section, line.measure, line.note) for line in found] == [
        ("broken", "time", ""),
        ("broken", "failed", "RuntimeError: no memory"),
        ("absent", "skipped", "nobody installed it"),
        ("long", "skipped", f"{99.999:.0f} s are left, it needs 1000"),
        ("graphs", "skipped", "CUDA graphs are of CUDA"),
        ("last", "done", ""),
    ]
    assert found[0].value == 1.5 and math.isnan(found[0].error)
    assert "for you" in (tmp_path / "failures.txt").read_text()


def test_wrong_numbers_are_refused(tmp_path):
    run = start(tmp_path)
    assert run.check(torch.full((2,), 1.001), torch.ones(2), 0.01) == pytest.approx(1e-3, rel=1e-3)
    with pytest.raises(WrongNumbersError, match=r"relative error 1.00e-01 against the definition, above 1e-02"):
        run.check(torch.full((2,), 1.1), torch.ones(2), 0.01)
    with pytest.raises(WrongNumbersError, match="relative error nan"):
        run.check(torch.full((2,), math.nan), torch.ones(2), 0.01)


def test_times_are_the_best_of_three(tmp_path):
    taken = iter([0.01, 0.5, 0.3, 0.4])
    run = start(tmp_path, clock=lambda action, calls: next(taken))
    assert run.milliseconds(lambda: None) == pytest.approx(1000 * 0.3 / 5)  # five calls of 10 ms


def test_what_the_harness_leaves_out_is_a_row(tmp_path):
    run = start(tmp_path)
    row = Row(suite="gpu", shape="S", variant="MLP", measure="step", ratio=1.0, milliseconds=2.0, baseline="MLP")
    run.keep(Report([row], [Skip(shape="S", variant="peer", reason="not installed")]))
    first = lines(tmp_path)[0]
    assert (first.case, first.value, first.note) == ("S MLP", 1.0, "2.000 ms")
    assert lines(tmp_path)[1].note == "not installed"
    assert read_harness_rows(tmp_path / "bench_gpu.csv")[0].milliseconds == 2.0


def run_program(*options, interpreter=True):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TRITON_INTERPRET", None)
    if interpreter:
        environment["TRITON_INTERPRET"] = "1"
    command = [*PROGRAM, *map(str, options)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "skipped"),
    [(1, {"tests", "graphs", "two_four"}), (2, {"decode in graphs"})],
)
def test_all_that_can_run_without_a_gpu_does(call, skipped, tmp_path):
    job = run_program("--call", call, "--toy", "--out", tmp_path)
    assert job.returncode == 0, job.stderr[-3000:]
    statuses = {line.section: line.measure for line in lines(tmp_path) if line.case == line.section}
    assert {name for name, status in statuses.items() if status == "skipped"} == skipped
    failures = tmp_path / "failures.txt"
    assert "failed" not in statuses.values(), failures.read_text()
    checked = [line for line in lines(tmp_path) if not math.isnan(line.error)]
    assert checked and (tmp_path / "bench_gpu.csv").exists()


def test_without_a_gpu_it_says_how_to_try_it():
    job = run_program("--call", 1, interpreter=False)
    assert job.returncode == 1 and job.stderr.startswith("Error: torch sees no GPU here. Give --toy")


def test_an_unknown_section_is_refused(tmp_path, monkeypatch):
    options = ["--call", "2", "--toy", "--only", "tiles", "--out", str(tmp_path / "new")]
    monkeypatch.setattr(sys, "argv", ["gpu_first_run.py", *options])
    monkeypatch.setattr(sys, "path", [*sys.path])
    import gpu_first_run  # which puts this repository's folders first

    with pytest.raises(SystemExit, match="Unknown section 'tiles' of call 2. Choose any of: transformers, models, "):
        gpu_first_run.main()
    assert not (tmp_path / "new").exists()
