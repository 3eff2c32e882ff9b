"""Where the kernels' numbers are tested: compiled on a CUDA device, else in Triton's interpreter in its own process.

The interpreter must be on before triton is imported, and cannot compile; so without a GPU this process collects only
`test_interpreter_job.py`, which runs all the others.
"""

import functools
import importlib.util
import math
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


@pytest.fixture
def case(device):
    """Builds the tensors of one call of the learned activation: `activation_calls.activation_call`."""
    from activation_calls import activation_call

    return functools.partial(activation_call, device)


@pytest.fixture(autouse=True)
def _poison(monkeypatch):
    """Memory that a kernel must write starts as NaN, so that what it leaves out is seen."""

    def poisoned(function):
        def create(*sizes, **options):
            tensor = function(*sizes, **options)
            return tensor.fill_(math.nan) if tensor.is_floating_point() and tensor.device.type != "meta" else tensor

        return create

    for holder, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(holder, name, poisoned(getattr(holder, name)))
