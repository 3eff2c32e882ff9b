"""Where a row of a result comes from: the commit and the processor."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path


def _checked_out() -> str:
    root = Path(__file__).parents[1]
    code = (".", ":(exclude)benchmarks/results")
    try:
        name = subprocess.check_output(["git", "describe", "--always", "--abbrev=7"], cwd=root, text=True)
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *code], cwd=root).returncode
    except (OSError, subprocess.CalledProcessError):
        return "no commit"
    return name.strip() + "-dirty" * bool(changed)


_COMMIT = _checked_out()


def commit() -> str:
    """The commit that was checked out when the program began, with `-dirty` where code differed from it."""
    return _COMMIT


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
