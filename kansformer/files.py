"""Atomic writes of files and folders."""

import ctypes
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    place = Path(os.path.realpath(folder))  # a link to a folder that is still to be made is followed
    existing = _first_existing(place)
    if not existing.is_dir():
        raise CheckpointError(f"{str(existing)!r} is not a folder, so {str(folder)!r} cannot be written.")
    try:
        if place.is_symlink():
            raise OSError("its links lead nowhere")
        with tempfile.TemporaryDirectory(prefix=".kansformer-", dir=existing):
            pass
        longest = max(map(len, map(os.fsencode, place.parts)))
        limit = os.pathconf(existing, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255  # Windows
        if longest > limit - len(".partial-12345678") - 1:
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

    What stood at `path` is replaced, so ask `check_unused` first; it stays whole until the new folder has its place. A
    link is followed. A folder that cannot be renamed is written to by `updated_folder`, and its other files stay.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir() and _must_stay(path):
        with updated_folder(path, lambda name: False) as new:
            yield new
        return
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
def updated_folder(path: Path, is_stale: Callable[[str], bool]) -> Iterator[Path]:
    """Yields an empty folder, whose files go into the folder `path` at the end; after an error `path` is as it was.

    Other files of `path` stay. On Linux it and its new version change places in one step, so that a killed process
    leaves one of them whole. Where that is impossible (a mount point, the current folder, another system), files are
    moved one by one, and back after an error.

    Args:
        path: an existing folder.
        is_stale: whether a file of this name in `path`, unless there is a new one, is removed.
    """
    path = path.resolve()
    in_place = _must_stay(path)
    prefix, place = f".{path.name}.partial-", path if in_place else path.parent
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True) as partial:
        new, merged, old = (Path(partial) / name for name in ("new", "merged", "old"))
        new.mkdir()
        yield new
        if not any(new.iterdir()):
            return
        sync_tree(new)
        left_out = lambda name: name.startswith(prefix) or is_stale(name)  # noqa: E731
        if in_place or not (_merge(new, path, merged, left_out) and exchange(merged, path)):
            _move_files(new, path, old, is_stale)
        else:
            sync(path.parent)
            with suppress(OSError):  # what another process wrote into the old folder meanwhile
                _link_missing(merged, path, left_out)


def _must_stay(folder: Path) -> bool:
    """Whether another folder cannot take the place of this one, or would leave the current folder without a name."""
    if folder.is_mount() or not os.access(folder.parent, os.W_OK):
        return True
    try:
        return Path.cwd().is_relative_to(folder)
    except FileNotFoundError:  # the current folder was removed
        return False


def exchange(one: Path, other: Path) -> bool:
    """Have two folders change places in one step; False where the system cannot do that, and nothing was changed."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, TypeError):  # not Linux
        return False
    at_current_folder, exchange_flag = -100, 2
    paths = (os.fsencode(one), os.fsencode(other))
    return rename(at_current_folder, paths[0], at_current_folder, paths[1], exchange_flag) == 0


def _merge(new: Path, path: Path, merged: Path, is_left_out: Callable[[str], bool]) -> bool:
    """Make a folder with the new files and the other ones of `path`, by hard links; False where there are none."""
    try:
        merged.mkdir()
        shutil.copymode(path, merged)
        _link_missing(new, merged, lambda name: False)
        _link_missing(path, merged, is_left_out)
    except OSError:
        return False
    return True


def _link_missing(source: Path, target: Path, is_left_out: Callable[[str], bool]) -> None:
    """Link the files of a folder, and of those in it, into another folder that has none of that name."""
    for entry in source.iterdir():
        link = target / entry.name
        if entry.is_dir() and not entry.is_symlink():
            if not link.exists():
                link.mkdir()
                shutil.copymode(entry, link)
            _link_missing(entry, link, lambda name: False)
        elif not os.path.lexists(link) and not is_left_out(entry.name):
            os.link(entry, link, follow_symlinks=False)


def _move_files(new: Path, path: Path, aside: Path, is_stale: Callable[[str], bool]) -> None:
    """Move the files of one folder into another, and what they replace aside; after an error everything back."""
    names = [file.relative_to(new) for file in new.rglob("*") if not file.is_dir()]
    stale = [Path(name) for name in os.listdir(path) if is_stale(name) and Path(name) not in names]
    moves: list[tuple[Path, Path]] = []
    try:
        for name in (*stale, *names):
            steps = [(path / name, aside / name)] if os.path.lexists(path / name) else []
            steps += [(new / name, path / name)] if name in names else []
            for source, target in steps:
                target.parent.mkdir(parents=True, exist_ok=True)
                moves.append((source, target))
                source.rename(target)
    except BaseException:
        for source, target in reversed(moves):
            if os.path.lexists(target) and not os.path.lexists(source):
                target.rename(source)
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
