"""Runs the other tests of this folder in Triton's interpreter, where there is no GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_kernels_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "tests/kernels", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    job = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(job.stdout[-8000:], job.stderr[-2000:])
    assert job.returncode == 0
    passed = re.search(r"(\d+) passed.* in ([\d.]+)s", job.stdout)
    assert passed and int(passed.group(1)) > 0
