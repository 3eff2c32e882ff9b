"""How the C++ kernels are built: once, on demand, in a folder of one's own, and what is said where they cannot be."""

import ctypes
import warnings

import pytest
from quick_compiler import calls, write_quick_compiler

from kansformer.errors import BackendError
from kansformer.ops import backend, select_backend
from kansformer.ops.native import build


@pytest.fixture
def compiler(tmp_path):
    return write_quick_compiler(tmp_path)


@pytest.fixture
def fresh_build(compiler, monkeypatch, tmp_path):
    """Nothing built yet, and nothing remembered afterwards."""
    for name in ("XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    caches = (build.library, build._state, backend._find_best)
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
    assert "could not build it: something is missing" in build.reason_unavailable()
    with pytest.raises(BackendError, match="something is missing"):
        build.library()
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
    assert sentence in build.reason_unavailable()


def test_it_is_built_once_and_found_again(monkeypatch, compiler, fresh_build):
    monkeypatch.setenv("CXX", str(compiler))
    assert isinstance(build.library(), ctypes.CDLL)
    (built,) = fresh_build.rglob("*.so")
    before = built.stat().st_mtime_ns
    build._state.cache_clear()
    assert build.reason_unavailable() is None
    assert [p.stat().st_mtime_ns for p in fresh_build.rglob("*.so")] == [before]
    assert not list(fresh_build.rglob("*.o"))
    assert calls(compiler) == ["compiled"] * len(build.SOURCES) + ["linked"]


def test_a_cache_that_cannot_be_written_is_replaced_by_a_private_folder(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(build.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = build._cache_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o077 == 0
    folder.rmdir()
    folder.write_text("in the way, too")
    with pytest.raises(OSError, match="none of these folders belongs to this user alone"):
        build._cache_folder()


def test_a_folder_that_others_may_write_to_is_not_trusted(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "kansformer").mkdir()
    (tmp_path / "kansformer").chmod(0o777)
    monkeypatch.setattr(build.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    assert build._cache_folder().parent.name == "temporary"


def test_a_compiler_with_arguments_and_a_user_without_a_home(monkeypatch, compiler, fresh_build):
    monkeypatch.setenv("CXX", f"{compiler} -O1")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(build.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.setattr(build.tempfile, "tempdir", str(fresh_build))
    assert build.reason_unavailable() is None
    assert all(" -O1 " in line for line in compiler.with_name("calls").read_text().splitlines())


def test_kernels_refuse_arguments_of_another_size():
    for name in build.KERNELS:
        assert getattr(build.library(), name)(ctypes.byref(build.Arguments(size=8))) == 1
    with pytest.raises(ctypes.ArgumentError):
        build.library().curves_forward(0)
