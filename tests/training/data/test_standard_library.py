"""Which files of the standard library are read: its own, and none of what is installed or generated beside it."""

import os
import sysconfig

from kansformer.training import corpus


def test_installed_packages_are_not_even_entered(tmp_path, monkeypatch):
    for name in ("ast.py", "json/decoder.py", "json/tests/more.py", "site-packages/big/core.py", "config-3.11/tool.py",
                 "this.py", "_sysconfigdata_linux.py"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n" * corpus.MIN_BYTES)
    (tmp_path / "short.py").write_text("x = 1\n")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    entered, scandir = [], os.scandir
    monkeypatch.setattr(
        os, "scandir", lambda folder: entered.append(os.path.relpath(folder, tmp_path)) or scandir(folder)
    )
    assert list(corpus.standard_library_files()) == ["ast.py", "json/decoder.py"]
    assert entered == [".", "json"]
