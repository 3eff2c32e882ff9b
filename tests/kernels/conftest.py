"""Where the kernels' numbers are tested: compiled on a CUDA device, else in Triton's interpreter in its own process.

The interpreter must be on before triton is imported, and cannot compile; so without a GPU this process collects only
`test_interpreter_job.py`, which runs all the others.
"""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
JOB = "test_interpreter_job.py"

if INTERPRETED or torch.cuda.is_available():
    collect_ignore = [JOB]
else:
    collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name != JOB]

if INTERPRETED:
    spec = importlib.util.spec_from_file_location("triton_interpreter", Path(__file__).with_name("interpreter.py"))
    interpreter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(interpreter)
    interpreter.repair()


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels run: the GPU, or the CPU in the interpreter."""
    return torch.device("cpu" if INTERPRETED else "cuda", None if INTERPRETED else torch.cuda.current_device())
