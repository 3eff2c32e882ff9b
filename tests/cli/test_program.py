"""The program as a whole: help, version, errors."""

import io
import os
import signal
import subprocess
import sys
import tempfile

import pytest
import typer

import kansformer
from kansformer.cli import main


def test_version(run):
    result = run("--version")
    assert result.exit_code == 0 and result.stdout == f"kansformer {kansformer.__version__}\n"


def test_help_names_every_command(run):
    result = run("--help")
    assert result.exit_code == 0
    assert all(f" {command} " in result.stdout for command in ("demo", "convert", "evaluate"))


@pytest.mark.parametrize("command", ["demo", "convert", "evaluate"])
def test_every_option_says_what_it_is(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0 and "--" in result.stdout


def test_help_imports_no_model_library():
    # Only what the program itself imports is meant here, so the package's own __init__ is not run.
    code = f"""
import sys, types
package = types.ModuleType("kansformer")
package.__path__ = {list(kansformer.__path__)!r}
sys.modules["kansformer"] = package
from kansformer.cli import app
try:
    app(["convert", "--help"])
except SystemExit as end:
    assert end.code == 0, end.code
heavy = {{"torch", "transformers", "datasets", "numpy"}} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "GGUF" in result.stdout


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "kansformer", "evaluate", "./nowhere"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert result.stderr == "Error: There is no file or folder './nowhere'.\n"


def test_usage_errors_end_with_2(run):
    assert run("convert").exit_code == 2
    assert run("fly").exit_code == 2
    assert run("demo", "--steps", "0").exit_code == 2


def test_debug_shows_the_traceback(run):
    result = run("--debug", "evaluate", "./nowhere")
    assert isinstance(result.exception, kansformer.errors.CheckpointError)


def test_names_that_the_terminal_has_no_letters_for_end_no_command(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setitem(main.__globals__, "app", lambda prog_name: typer.echo("y = 2*α + \udcff"))
    main()
    assert stream.buffer.getvalue().decode("cp1252").splitlines() == [r"y = 2*\u03b1 + \udcff"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM for other processes")
def test_sigterm_removes_what_is_half_written(monkeypatch, tmp_path):
    def work(prog_name):
        with tempfile.TemporaryDirectory(dir=tmp_path):
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)  # timeout(1) sends two

    monkeypatch.setitem(main.__globals__, "app", work)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 143 and not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
