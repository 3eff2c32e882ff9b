"""The same seed gives the same bits: again in one process, in a fresh one, and mostly on another number of threads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from extremes.jobs import all_jobs

JOBS = Path(__file__).with_name("jobs.py")
# Torch adds up the products of many curves in another order on other numbers of threads: the last digits differ.
BY_THREADS = {"summarize"}


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def in_a_fresh_process(folder, *threads):
    """Digests of a round on each number of threads."""
    environment = os.environ | {"OMP_NUM_THREADS": str(max(threads))}
    command = [sys.executable, JOBS, folder, *map(str, threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(one_thread, tmp_path):
    here = all_jobs(tmp_path / "here")
    alone, *shared = in_a_fresh_process(tmp_path / "fresh", 1, 2, 2)
    for name, expected in here.items():
        assert alone[name] == expected, f"{name} differs from run to run on one thread"
        assert len({found[name] for found in shared}) == 1, f"{name} differs from run to run on two threads"
        if name not in BY_THREADS:
            assert shared[0][name] == expected, f"{name} differs between one thread and two"
