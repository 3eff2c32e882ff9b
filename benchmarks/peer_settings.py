"""What pykan needs around it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


@contextmanager
def pykan_settings() -> Iterator[None]:
    """float64 by default, and a temporary working folder, since pykan writes into ./model."""
    default, before = torch.get_default_dtype(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        torch.set_default_dtype(torch.float64)
        os.chdir(folder)
        try:
            yield
        finally:
            torch.set_default_dtype(default)
            os.chdir(before)
