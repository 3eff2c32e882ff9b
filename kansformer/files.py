"""Atomic writes of files and folders."""

import math
import os
import shutil
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
    check_folder(path)
    if path.is_dir() and any(path.iterdir()):
        raise CheckpointError(f"The folder {str(path)!r} is not empty. Choose another one, or remove it first.")


def check_folder(path: Path) -> None:
    """Check that a path is a folder, or nothing yet.

    Raises:
        CheckpointError: it is a file, or a device, pipe or socket.
    """
    if path.exists() and not path.is_dir():
        kind = "a file" if path.is_file() else "not a folder"
        raise CheckpointError(f"{str(path)!r} is {kind}. Choose another folder to write into.")


def check_writable(folder: Path) -> None:
    """Check that a folder can be made, or written to where there is one. Nothing is left behind.

    Raises:
        CheckpointError: it cannot.
    """
    existing = _first_existing(folder)
    if not existing.is_dir():
        raise CheckpointError(f"{str(existing)!r} is not a folder, so {str(folder)!r} cannot be written.")
    try:
        with tempfile.TemporaryDirectory(prefix=".kansformer-", dir=existing):
            pass
        longest = max(map(len, map(os.fsencode, folder.absolute().parts)))
        if longest > os.pathconf(existing, "PC_NAME_MAX") - len(".partial-12345678") - 1:
            raise OSError("a name in it is too long")
    except OSError as error:
        raise CheckpointError(
            f"{str(folder)!r} cannot be written: {error.strerror or error}. Choose another folder."
        ) from error


def check_file(path: Path) -> None:
    """Check that a file can be written in the folder that holds it. Nothing is left behind.

    Raises:
        CheckpointError: it is a folder, or nothing can be written there.
    """
    if path.is_dir():
        raise CheckpointError(f"{str(path)!r} is a folder. Give the name of a file.")
    if path.is_file() or not path.exists():  # a device or pipe is written to as it is
        check_writable(path.absolute().parent)


def check_free_space(folder: Path, needed: int, what: str) -> None:
    """Check that the disk of a folder, which may not exist yet, has room for a number of bytes.

    Raises:
        CheckpointError: it has not; `what` is to be written, such as "the model".
    """
    existing = _first_existing(folder)
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise CheckpointError(
            f"{str(existing)!r} has {free / 1e6:,.0f} MB free, and {what} needs {math.ceil(needed / 1e6):,} MB. Choose "
            "another folder, or make room."
        )


def _first_existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


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

    Whenever the machine stops, `path` has its old contents or all of the new ones. A link is followed. A device or pipe
    is not replaced but written to.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        yield path
        return
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
