"""Runs the other tests of this folder in Triton's interpreter, where there is no GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
FILES = sorted(path.name for path in FOLDER.glob("test_*.py") if path.name != Path(__file__).name)


@pytest.mark.slow
def test_the_kernels_in_the_interpreter():
    paths = [f"tests/kernels/{file}" for file in FILES]  # in one process: to start another takes as long as some files
    command = [sys.executable, "-m", "pytest", *paths, "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    job = subprocess.run(command, cwd=FOLDER.parents[1], env=environment, capture_output=True, text=True)
    assert job.returncode == 0, job.stdout[-8000:] + job.stderr[-2000:]
    passed = re.search(r"(\d+) passed.* in ([\d.]+)s", job.stdout)
    assert passed and int(passed.group(1)) >= len(FILES)
