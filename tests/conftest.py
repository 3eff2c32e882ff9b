"""One native library and one thread per worker, a Hub with its clients, and a last line about slow tests left out."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Workers of pytest-xdist (-n) share the cores; torch reads this when it is imported, and so do the processes of tests.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_slow = pytest.StashKey[int]()

gc.disable()  # until the tests are collected, and with them most of what they import


def pytest_collection_finish():
    """Exclude imported code from garbage collection, which accelerate and torch start in every training."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure():
    gc.unfreeze()  # or nanobind reports its functions as leaked


@pytest.fixture(scope="session", autouse=True)
def _native_library():
    """Build the C++ kernels before any test redirects the cache; a lock makes the other workers wait for the first."""
    from kansformer.ops.native import library

    library.reason_unavailable()


@pytest.fixture(scope="session")
def prebuilt_wheel(tmp_path_factory):
    """The wheel with prebuilt kernels, built once; a lock makes the other workers wait for the first."""
    import fcntl  # not on Windows, where there is no such wheel

    root = Path(__file__).resolve().parent.parent
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with (folder / "prebuilt_wheel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        out = folder / "prebuilt_wheel"
        if not out.exists():
            command = [sys.executable, str(root / "scripts" / "build_wheel.py"), "--out", str(out)]
            subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(root)})
    (wheel,) = out.iterdir()
    return wheel


@pytest.fixture(scope="session")
def hub():
    """A Hub that is empty at first."""
    from hub.loopback_hub import LoopbackHub

    with LoopbackHub() as running:
        yield running


@pytest.fixture(scope="session")
def client(hub, tmp_path_factory):
    """client(code, *arguments): the finished process, which had imported transformers, and nothing of kansformer."""
    import torch
    from fresh_processes import FreshInterpreter
    from hub.clients import IMPORTS

    threads = str(torch.get_num_threads())  # sums are rounded by how they are shared out
    environment = {**hub.environment, "COLUMNS": "200", "OMP_NUM_THREADS": threads}
    with FreshInterpreter(tmp_path_factory.mktemp("home"), IMPORTS, environment) as fresh:
        yield fresh.run


def pytest_collection_modifyitems(items):
    """Run slow tests first, so that no worker ends long after the others."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_deselected(items):
    for item in items:
        if item.get_closest_marker("slow"):
            item.config.stash[_slow] = item.config.stash.get(_slow, 0) + 1


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # in a worker, which reports to its controller
        session.config.workeroutput["slow_deselected"] = session.config.stash.get(_slow, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    # Every worker collects everything, so that their counts are the same.
    node.config.stash[_slow] = getattr(node, "workeroutput", {}).get("slow_deselected", 0)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter, config):
    result = yield
    if count := config.stash.get(_slow, 0):
        terminalreporter.section("slow tests", "-")
        terminalreporter.line(f"Slow tests left out: {count}. Run them with: python -m pytest -n auto -m slow")
    return result
