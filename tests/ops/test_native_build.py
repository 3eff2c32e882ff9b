"""How the C++ kernels are built: once, on demand, in a folder of one's own, again where they are damaged, and what is
said where they cannot be."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
from quick_compiler import calls, write_quick_compiler

from kansformer.errors import BackendError
from kansformer.ops import backend, select_backend
from kansformer.ops.native import build, cache, library


@pytest.fixture
def compiler(tmp_path):
    return write_quick_compiler(tmp_path)


@pytest.fixture
def fresh_build(compiler, monkeypatch, tmp_path):
    """Nothing built yet, and nothing remembered afterwards."""
    for name in ("XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    caches = (library.library, library._state, backend._find)
    for cached in caches:
        cached.cache_clear()
    yield tmp_path
    for cached in caches:
        cached.cache_clear()


def test_without_a_compiler_auto_goes_on_with_one_warning(monkeypatch, fresh_build):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match=r"goes on without its 'native' backend.*no C\+\+ compiler was found"):
        assert select_backend("auto", "cpu") is backend.BACKENDS["cpu"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select_backend("auto", "cpu")
    with pytest.raises(BackendError, match=r"'native' cannot run: no C\+\+ compiler was found"):
        select_backend("native", "cpu")


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing_behind(monkeypatch, fresh_build):
    compiler = fresh_build / "broken"
    compiler.write_text("#!/bin/sh\necho 'something is missing' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert "could not build it: something is missing" in library.reason_unavailable()
    with pytest.raises(BackendError, match="something is missing"):
        library.library()
    assert not list(fresh_build.rglob("*.so"))


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("g++ 'x", 'CXX is "g++ \'x", which is not a command: No closing quotation.'),
        ("/nowhere/g++", "cannot be used: [Errno 2] No such file or directory: '/nowhere/g++'"),
        ("/", "cannot be used: [Errno 13] Permission denied: '/'"),
        (" ", "cannot be used: "),
    ],
)
def test_a_wrong_compiler_is_a_sentence(monkeypatch, fresh_build, command, sentence):
    monkeypatch.setenv("CXX", command)
    assert sentence in library.reason_unavailable()


def test_it_is_built_once_and_found_again(monkeypatch, compiler, fresh_build):
    monkeypatch.setenv("CXX", str(compiler))
    assert isinstance(library.library(), ctypes.CDLL)
    (built,) = fresh_build.rglob("*.so")
    before = built.stat().st_mtime_ns
    library._state.cache_clear()
    assert library.reason_unavailable() is None
    assert [p.stat().st_mtime_ns for p in fresh_build.rglob("*.so")] == [before]
    assert not list(fresh_build.rglob("*.o"))
    assert calls(compiler) == ["compiled"] * len(build.SOURCES) + ["linked"]


def _truncated(size):
    return lambda data: data[: int(size * len(data))]


def _bit_flipped(data):
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [_truncated(0), _truncated(0.001), _truncated(0.5), _truncated(0.999), _bit_flipped],
    ids=["empty", "beginning", "half", "nearly whole", "bit flipped"],
)
def test_a_damaged_library_is_built_again_with_one_sentence(monkeypatch, compiler, fresh_build, caplog, damage):
    monkeypatch.setenv("CXX", str(compiler))
    assert library.reason_unavailable() is None
    (built,) = (fresh_build / "kansformer").glob("*.so")
    whole = built.read_bytes()
    # The process has the first file mapped, so a new one takes its place.
    built.unlink()
    built.write_bytes(damage(whole))
    library._state.cache_clear()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert library.reason_unavailable() is None
    assert [p.read_bytes() == whole for p in (fresh_build / "kansformer").glob("*.so")] == [True]
    assert calls(compiler).count("linked") == 2
    assert [f"The library {built} was damaged" in record.getMessage() for record in caplog.records] == [True, False]


def test_a_library_that_cannot_be_read_is_not_loaded(tmp_path):
    built = tmp_path / "new"
    built.write_bytes(b"library")
    stored = cache.store_library(built, tmp_path, "native-1")
    assert cache.find_library(tmp_path, "native-1") == stored and not built.exists()
    assert cache.find_library(tmp_path, "native-2") is None
    stored.unlink()
    stored.symlink_to(tmp_path / "missing")
    assert cache.find_library(tmp_path, "native-1") is None
    cache.remove_damaged(tmp_path, "native-1")
    assert not stored.is_symlink()


USE = "from kansformer.ops.native import library; assert library.reason_unavailable() is None"


def test_what_a_killed_build_leaves_is_removed(tmp_path, monkeypatch):
    slow = write_quick_compiler(tmp_path, seconds=60.0)
    environment = os.environ | {"CXX": str(slow), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    process = subprocess.Popen([sys.executable, "-c", USE], env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (slow.with_name("calls").exists() and "linked" in calls(slow)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    folder = tmp_path / "cache" / "kansformer"
    assert len(list(folder.glob("build-*"))) == 1 and not list(folder.glob("*.so"))
    quick = write_quick_compiler(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build.build_for_this_machine([str(quick)])
    assert sorted(path.suffix for path in folder.iterdir()) == [".lock", ".so"]


def test_without_locks_only_old_leftovers_are_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "_lock", lambda descriptor: False)
    for name, age in (("build-new", 0), ("build-old", 2 * cache.ABANDONED_SECONDS)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    with cache.build_folder(tmp_path) as temporary:
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["build-new", temporary.name, "native.lock"])


def test_a_cache_that_cannot_be_written_is_replaced_by_a_private_folder(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = cache.user_cache_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o077 == 0
    folder.rmdir()
    folder.write_text("in the way, too")
    with pytest.raises(OSError, match="none of these folders belongs to this user alone"):
        cache.user_cache_folder()


def test_a_folder_that_others_may_write_to_is_not_trusted(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "kansformer").mkdir()
    (tmp_path / "kansformer").chmod(0o777)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    assert cache.user_cache_folder().parent.name == "temporary"


def test_a_compiler_with_arguments_and_a_user_without_a_home(monkeypatch, compiler, fresh_build):
    monkeypatch.setenv("CXX", f"{compiler} -O1")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(cache.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.setattr(cache.tempfile, "tempdir", str(fresh_build))
    assert library.reason_unavailable() is None
    assert all(" -O1 " in line for line in compiler.with_name("calls").read_text().splitlines())


def test_kernels_refuse_arguments_of_another_size():
    for name, arguments in library.KERNELS.items():
        assert getattr(library.library(), name)(ctypes.byref(arguments(size=8))) == 1
    with pytest.raises(ctypes.ArgumentError):
        library.library().curves_forward(0)
