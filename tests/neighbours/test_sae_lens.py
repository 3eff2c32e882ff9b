"""Runs `measure_with_sae_lens.py` in a process of its own, since importing SAELens warns and imports a great deal."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("measure_with_sae_lens.py")


@pytest.mark.skipif(find_spec("sae_lens") is None, reason="pip install sae-lens")
def test_the_metrics_are_those_of_sae_lens():
    command = [sys.executable, "-m", "pytest", str(FILE), "-q", "-p", "no:cacheprovider", "-W", "default"]
    job = subprocess.run(command, cwd=FILE.parents[2], capture_output=True, text=True)
    assert job.returncode == 0, job.stdout[-8000:]
    assert "3 passed" in job.stdout
