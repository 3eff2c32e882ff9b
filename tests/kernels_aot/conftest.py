"""Compiling ahead of time needs no GPU, but triton's interpreter, once on, leaves nothing to compile."""

import os
import sys
from pathlib import Path

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    collect_ignore_glob = ["*.py"]

# `aot` and `cases` are modules of this folder, also for benchmarks/aot_table.py.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def _empty_cache(tmp_path_factory):
    """Compile once: what an earlier compiler left in the user's cache is not under test, what another worker did is."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
