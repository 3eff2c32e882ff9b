"""The table of all processors, and the allocator's two states."""

import os
import subprocess
import sys

import pytest
from speed.allocator import AS_IT_COMES, KEPT, SETTINGS, environment_for
from speed.fresh_process import measure_in_fresh_process
from speed.processors import compare_processors, result_file, write_table
from speed.sizes import SIZES, Size
from speed.suites import Options
from speed.table import Environment, Row, write_rows

from kansformer.errors import BackendError
from kansformer.training import page_faults

TOUCH = """
import runpy, sys, torch
count_page_faults = runpy.run_path(sys.argv[1])["count_page_faults"]  # its package would be imported for seconds
for turn in range(3):
    before = count_page_faults()
    torch.zeros(2**24).add_(1)
    print(count_page_faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: the settings are those of glibc")
def test_memory_that_is_kept_does_not_fault_again():
    faults = {}
    for allocator in SETTINGS:
        environment = environment_for(allocator) | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
        command = [sys.executable, "-c", TOUCH, page_faults.__file__]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        faults[allocator] = int(done.stdout.split()[-1])
    assert faults[KEPT] < 50 < faults[AS_IT_COMES]


def test_settings_of_the_caller_do_not_reach_the_processes(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    assert "MALLOC_ARENA_MAX" not in environment_for(AS_IT_COMES)
    assert environment_for(KEPT)["MALLOC_MMAP_MAX_"] == "0" and environment_for(KEPT)["PATH"] == os.environ["PATH"]


def test_a_process_that_fails_is_a_sentence():
    with pytest.raises(BackendError, match="The process that measures 'M' with the allocator 'memory kept' failed"):
        measure_in_fresh_process(
            "cpu", Size(name="M", tokens=1, features=1, hidden=1), KEPT, Options(), peers=False, compiled=False
        )
    assert "M" not in SIZES


def _rows(shape, forward, allocator):
    common = dict(suite="cpu", shape=shape, variant="kansformer", baseline="MLP", allocator=allocator)
    return [Row(**common, measure="forward", ratio=forward), Row(**common, measure="step", ratio=0.5)]


def test_a_state_that_nobody_has_measured_is_said():
    text = compare_processors({"AMD EPYC": _rows("S", 0.75, AS_IT_COMES)})
    assert "No processor has been measured with the allocator in the state 'memory kept'.\n\n| allocator: as" in text


def test_a_column_per_processor_and_what_is_slower(tmp_path):
    kept, comes = _rows("S", 1.25, KEPT), _rows("S", 0.75, AS_IT_COMES)
    for device, rows in (("AMD EPYC", kept + comes + _rows("L", 0.875, KEPT)), ("Intel(R) Xeon(R) 6", kept)):
        environment = Environment(device=device, machine="Linux", cpus=2, threads=2, backend="native")
        write_rows(result_file(tmp_path, device), rows, environment)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bench_cpu_amd_epyc.csv", "bench_cpu_intel_xeon_6.csv"]
    assert write_table(tmp_path).read_text().splitlines()[2:] == [
        "| allocator: memory kept | AMD EPYC | Intel(R) Xeon(R) 6 |",
        "|---|---|---|",
        "| S forward | 1.25 | 1.25 |",
        "| S step | 0.50 | 0.50 |",
        "| L forward | 0.88 | – |",
        "| L step | 0.50 | – |",
        "",
        "AMD EPYC, slower than the baseline: S forward (1.25).",
        "",
        "Intel(R) Xeon(R) 6, slower than the baseline: S forward (1.25).",
        "",
        "| allocator: as it comes | AMD EPYC |",
        "|---|---|",
        "| S forward | 0.75 |",
        "| S step | 0.50 |",
        "",
        "AMD EPYC, slower than the baseline: none.",
    ]
