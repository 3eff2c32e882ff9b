"""Runs `trace_with_nnsight.py` in a process of its own, since nnsight replaces `Tensor.backward` for everything."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("trace_with_nnsight.py")


@pytest.mark.skipif(find_spec("nnsight") is None, reason="pip install nnsight")
def test_curves_are_saved_and_edited_in_a_trace():
    command = [sys.executable, "-m", "pytest", str(FILE), "-q", "-p", "no:cacheprovider"]
    job = subprocess.run(command, cwd=FILE.parents[2], capture_output=True, text=True)
    assert job.returncode == 0, job.stdout[-8000:]
    assert "2 passed" in job.stdout
