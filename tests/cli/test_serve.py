"""`kansformer serve` and `kansformer autoload`: transformers' server, and every program, load models with curves."""

import site
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from transformers.activations import ACT2FN
from typer.testing import CliRunner

import kansformer
from kansformer.autoload import import_kansformer
from kansformer.cli import app
from kansformer.discover import KNOWN_ACTIVATIONS

WIDE = {"COLUMNS": "200", "NO_COLOR": "1"}


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], env=WIDE)


@pytest.fixture
def site_packages(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    original = sysconfig.get_path

    def get_path(name, *scheme, **options):
        return str(folder) if name == "purelib" else original(name, *scheme, **options)

    monkeypatch.setattr(sysconfig, "get_path", get_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(kansformer.__file__).parents[1]))  # as if it were installed
    return folder


def test_help_is_that_of_transformers():
    result = run("serve", "--help")
    assert result.exit_code == 0 and "Usage: kansformer serve" in result.output
    assert "--continuous-batching" in result.output and "v1/chat/completions" in result.output


def test_arguments_go_to_transformers(monkeypatch):
    calls = []
    for name in KNOWN_ACTIVATIONS:  # which another test may have registered
        monkeypatch.delitem(ACT2FN, name, raising=False)

    class Serve:
        def __init__(self, force_model: str, device: str = "auto", port: int = 8000) -> None:
            calls.append((force_model, device, port))

    monkeypatch.setattr("transformers.cli.serve.Serve", Serve)
    assert run("serve", "me/model", "--device", "cpu", "--port", "7").exit_code == 0
    assert calls == [("me/model", "cpu", 7)] and set(KNOWN_ACTIVATIONS) <= set(ACT2FN)
    wrong = run("serve", "me/model", "--ports", "7")
    assert wrong.exit_code == 2 and "No such option" in wrong.output and len(calls) == 1


def test_what_serving_needs_is_a_sentence(monkeypatch):
    monkeypatch.setattr("transformers.cli.serve.is_serve_available", lambda: False)
    result = run("serve")
    assert result.exit_code == 1 and result.stderr.startswith("Error: Missing dependencies for serving.")


def test_autoload_is_off_until_it_is_asked_for(site_packages):
    file = site_packages / "kansformer_autoload.pth"
    assert run("autoload").output == f"Autoload is off: {file} does not exist\n"
    assert run("autoload", "off").exit_code == 0 and not list(site_packages.iterdir())
    assert run("autoload", "on").output == f"Autoload is on: {file}\n" == run("autoload", "status").output
    assert [path.name for path in site_packages.iterdir()] == [file.name]
    assert run("autoload", "off").output == f"Autoload is off: {file} does not exist\n" and not file.exists()
    assert run("autoload", "maybe").exit_code == 2


def test_autoload_of_a_package_that_is_not_installed_says_so(site_packages, tmp_path, monkeypatch):
    venv.create(tmp_path / "other", symlinks=sys.platform != "win32")
    scripts = "Scripts" if sys.platform == "win32" else "bin"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "other" / scripts / "python"))
    monkeypatch.setenv("PYTHONPATH", ".")  # the current folder of this process has the package
    clone = Path(kansformer.__file__).parents[1]
    monkeypatch.chdir(clone)
    sentence = f"It does nothing yet: {sys.executable} does not find kansformer. Install it: pip install {clone}\n"
    assert run("autoload", "on").output.endswith(f".pth\n{sentence}")
    assert run("autoload").output.endswith(sentence) and "nothing yet" not in run("autoload", "off").output


def test_a_package_that_cannot_be_imported_is_a_warning(site_packages, monkeypatch):
    run("autoload", "on")
    monkeypatch.setattr(sys, "path", [*sys.path, str(site_packages)])
    monkeypatch.setitem(sys.modules, "kansformer", None)
    with pytest.warns(UserWarning, match="kansformer cannot be imported .ModuleNotFoundError: .*, so models") as caught:
        import_kansformer()
    assert f"delete the file {str(site_packages / 'kansformer_autoload.pth')!r}" in str(caught[0].message)


def test_the_line_does_nothing_without_the_package(site_packages, monkeypatch, capsys):
    run("autoload", "on")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    site.addsitedir(str(site_packages))
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_written_is_a_sentence(site_packages):
    site_packages.rmdir()
    site_packages.write_text("a file")
    result = run("autoload", "on")
    assert result.exit_code == 1 and "is not a folder" in result.stderr
