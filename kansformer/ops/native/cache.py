"""Folders of shared libraries, each with a digest of its contents in its name.

A damaged library is told by its digest and never loaded: the system maps a library into memory, and touching what a
truncated file lacks kills the process.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kansformer.files import sync

ABANDONED_SECONDS = 3600
"""Where files cannot be locked, a folder of this age belongs to a build that was killed."""

BUILD_PREFIX = "build-"

_log = logging.getLogger(__name__)


def find_library(folder: Path, name: str) -> Path | None:
    """The undamaged library of that name, or None."""
    return next(filter(_is_intact, _candidates(folder, name)), None)


def remove_damaged(folder: Path, name: str) -> None:
    """Delete the damaged libraries of that name; called by whoever holds the folder's lock."""
    for path in _candidates(folder, name):
        if not _is_intact(path):
            path.unlink(missing_ok=True)
            _log.warning("The library %s was damaged, by a full disk for example, and is built again.", path)


def store_library(built: Path, folder: Path, name: str) -> Path:
    """Move a library, which is on the folder's disk, into the folder in one step.

    Returns:
        Its path there.
    """
    sync(built)
    target = folder / f"{name}-{_digest(built)}.so"
    built.replace(target)
    sync(folder)
    return target


@contextlib.contextmanager
def build_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder in the given one, while other threads and processes that call this wait, where the file
    system has locks. What builds that were killed have left behind is removed.
    """
    with (folder / "native.lock").open("w") as lock:
        locked = _lock(lock.fileno())
        for path in folder.glob(f"{BUILD_PREFIX}*"):
            with contextlib.suppress(OSError):
                if locked or time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=BUILD_PREFIX, dir=folder, ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)


def user_cache_folder() -> Path:
    """A folder that only this user writes to: what lies in it is loaded into the process.

    Raises:
        OSError: there is none.
    """
    candidates = [Path(tempfile.gettempdir()) / f"kansformer-{os.getuid()}"]
    with contextlib.suppress(RuntimeError):  # a user without a home
        candidates.insert(0, Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kansformer")
    for folder in candidates:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.stat()
        except OSError:
            continue
        if status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    raise OSError(
        f"none of these folders belongs to this user alone and can be written to: {', '.join(map(str, candidates))}"
    )


def _candidates(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}-*.so"))


def _is_intact(path: Path) -> bool:
    try:
        return path.stem.endswith(f"-{_digest(path)}")
    except OSError:  # it cannot be read, or another process has removed it
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _lock(descriptor: int) -> bool:
    """Wait for the lock of a file; False where the file system has none."""
    import fcntl  # not on Windows, where nothing is built

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True
