"""Folders that a command writes: refused when in use, complete or not there at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kansformer.errors import CheckpointError


def refuse_used(path: Path) -> None:
    """See that a folder can be written without losing anything.

    Raises:
        CheckpointError: it is a file, or has files in it.
    """
    if path.is_file():
        raise CheckpointError(f"{str(path)!r} is a file. Choose another folder to write into.")
    if path.is_dir() and any(path.iterdir()):
        raise CheckpointError(f"The folder {str(path)!r} is not empty. Choose another one, or remove it first.")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a new folder beside `path`, which takes its place at the end; after an error nothing of it is left.

    What stood at `path` is replaced, so ask `refuse_used` first.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def folder_bytes(path: Path) -> int:
    """Size of all files in a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
