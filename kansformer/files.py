"""Atomic writes of files and folders."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kansformer.errors import CheckpointError


def check_unused(path: Path) -> None:
    """Check that a folder can be written without overwriting files.

    Raises:
        CheckpointError: it is a file, or has files in it.
    """
    if path.is_file():
        raise CheckpointError(f"{str(path)!r} is a file. Choose another folder to write into.")
    if path.is_dir() and any(path.iterdir()):
        raise CheckpointError(f"The folder {str(path)!r} is not empty. Choose another one, or remove it first.")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a new folder beside `path`, which takes its place at the end; after an error nothing of it is left.

    What stood at `path` is replaced, so ask `check_unused` first; it stays whole until the new folder has its place.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of its own for every thread and process that writes the same folder at once.
    prefix = f".{path.name}.partial-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent, ignore_cleanup_errors=True) as partial:
        new, old = Path(partial) / "new", Path(partial) / "old"
        new.mkdir()
        yield new
        try:
            if path.exists():
                path.rename(old)
            new.rename(path)
        except BaseException:
            if old.exists() and not path.exists():
                old.rename(path)
            raise


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a file beside `path` to write, which takes its place at the end; after an error `path` is as it was.

    Whenever the machine stops, `path` has its old contents or all of the new ones.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}-{threading.get_ident()}")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a text file by `atomic_file`."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def sync_tree(folder: Path) -> None:
    """Have the disk hold a folder and everything in it."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or which files a folder has."""
    if os.name == "nt" and path.is_dir():  # where folders cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_bytes(path: Path) -> int:
    """Size of all files in a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
