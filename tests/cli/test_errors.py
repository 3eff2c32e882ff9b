"""Whatever goes wrong in a command is one sentence on stderr; one that cannot write says so before it works."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from kansformer.cli import errors, loading
from kansformer.files import atomic_file, atomic_folder, check_free_space, check_unused, check_writable

FAILURES = [
    (
        ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.pyplot"),
        "This needs matplotlib, which is not installed: pip install 'kansformer[plot]'.",
    ),
    (
        ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow"),
        "This needs pyarrow, which is not installed: pip install pyarrow.",
    ),
    (ImportError("Missing optional dependency 'openpyxl'."), "Missing optional dependency 'openpyxl'."),
    (MemoryError(), "There is not enough memory for this."),
    (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 999 bytes."),
        "There is not enough memory for this: DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    ),
    (OSError(28, "No space left on device", "/mnt/x/model.safetensors"), "No space left on device: /mnt/x/model."),
    (OSError(28, "No space left on device"), "No space left on device"),
    (
        ZeroDivisionError("division by zero"),
        "Unexpected ZeroDivisionError: division by zero. `kansformer --debug evaluate` shows where.",
    ),
    (RecursionError(), "Unexpected RecursionError. `kansformer --debug evaluate` shows where."),
    (KeyError("a\nb"), "Unexpected KeyError: 'a\\nb'."),
]


@pytest.mark.parametrize(("failure", "sentence"), FAILURES, ids=lambda value: type(value).__name__)
def test_every_failure_is_a_sentence(refused, run, tiny, text, monkeypatch, failure, sentence):
    def fail(source):
        raise failure

    monkeypatch.setattr("kansformer.conversion.sources.read_language_model", fail)
    assert refused("evaluate", tiny, "--text", text).startswith(sentence)
    assert run("--debug", "evaluate", tiny, "--text", text).exception is failure


def test_an_output_that_cannot_be_written_at_the_end_is_a_sentence():
    full = (
        os.open("/dev/full", os.O_WRONLY)
        if os.path.exists("/dev/full")
        else pytest.skip("needs /dev/full, which Linux has")
    )
    command = [sys.executable, "-m", "kansformer", "recipes"]
    result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(full)
    assert (result.returncode, result.stderr) == (1, "Error: No space left on device\n")


def test_what_is_left_of_the_output_is_written_at_the_end(monkeypatch, capsys):
    with open(os.devnull, "w") as stream:

        def fail():
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("sys.stdout", SimpleNamespace(flush=fail, fileno=stream.fileno))
        with pytest.raises(SystemExit, match="1"):
            errors.check_output_written()
        monkeypatch.undo()
    assert capsys.readouterr().err == "Error: No space left on device: the output\n"


@pytest.mark.parametrize("command", ["convert", "demo", "explain", "train"])
def test_a_command_that_cannot_write_says_so_before_it_works(refused, tiny, text, tmp_path, monkeypatch, command):
    def fail(*arguments, **settings):
        raise AssertionError("the work began")

    monkeypatch.setattr(loading, "load_model", fail)
    monkeypatch.setattr("kansformer.cli.convert.load_model", fail)
    monkeypatch.setattr("kansformer.cli.explain.load_model_and_blocks", fail)
    monkeypatch.setattr("kansformer.cli.demo.embedded_model", fail, raising=False)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    arguments = {
        "convert": ("convert", tiny, "OUT"),
        "demo": ("demo", "--output", "OUT"),
        "explain": ("explain", tiny, "--text", text, "--out", "OUT"),
        "train": ("train", "tiny-cpu", "--output", "OUT"),
    }[command]
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    for place, sentence in (
        (text / "folder", f"'{text}' is not a folder, so '{text / 'folder'}' cannot be written."),
        ("/proc/nowhere/folder", "'/proc/nowhere/folder' cannot be written: "),
        (fifo, f"'{fifo}' is not a folder. Choose another folder to write into."),
    ):
        assert refused(*[place if part == "OUT" else part for part in arguments]).startswith(sentence)
    assert fifo.is_fifo() and text.is_file()


def test_writable_places_are_left_as_they_are(tmp_path, monkeypatch):
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    monkeypatch.delattr(os, "pathconf")  # as on Windows
    check_writable(tmp_path / "a")
    check_unused(tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["current", "above", "mount", "read-only parent", "removed"])
def test_a_folder_that_must_stay_is_written_to(tmp_path, monkeypatch, place):
    output, inside = tmp_path / "out", tmp_path / "out" / "inside"
    (inside if place == "above" else output).mkdir(parents=True)
    if place == "mount":
        monkeypatch.setattr("pathlib.Path.is_mount", lambda path: path == output)
    elif place == "read-only parent":
        monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    else:
        current = tmp_path / "removed" if place == "removed" else inside if place == "above" else output
        current.mkdir(exist_ok=True)
        monkeypatch.chdir(current)
    if place == "removed":
        current.rmdir()
    before = output.stat().st_ino

    def write(text):
        with atomic_folder(output) as new:
            (new / "below").mkdir()
            (new / "below" / "file").write_text(text)
            1 / len(text)

    with pytest.raises(ZeroDivisionError):
        write("")
    assert not [path for path in output.iterdir() if path != inside]
    write("new")
    assert (output.stat().st_ino == before) == (place != "removed")
    assert {path.name for path in output.iterdir()} - {"inside"} == {"below"}
    assert (output / "below" / "file").read_text() == "new" and not list(tmp_path.glob(".*"))


def test_a_link_to_a_folder_is_followed_or_refused_before_the_work(tmp_path):
    link, target = tmp_path / "link", tmp_path / "disk" / "target"
    link.symlink_to(target)
    for number in "12":  # the folder is missing, and it is empty
        check_unused(link)
        check_writable(link)
        with atomic_folder(link) as new:
            (new / "file").write_text(number)
        assert link.is_symlink() and (target / "file").read_text() == number
        (target / "file").unlink()
    for there, reason in ((link, "its links lead nowhere"), ("/proc/nowhere/folder", "")):
        link.unlink()
        link.symlink_to(there)
        with pytest.raises(errors.KansformerError, match=f"link' cannot be written: {reason}"):
            check_writable(link)


def test_a_disk_without_space_is_refused_with_both_sizes(tmp_path):
    check_free_space(tmp_path / "new", 1, "the model")
    with pytest.raises(errors.KansformerError, match=r"MB free, and the model needs 1,000,000,000,000 MB\."):
        check_free_space(tmp_path / "new", 10**18, "the model")


def test_convert_checks_the_space_before_it_converts(refused, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    monkeypatch.setattr("kansformer.conversion.convert", None)
    assert "has 0 MB free, and the model needs 1 MB" in refused("convert", tiny, tmp_path / "kan")
    assert not list(tmp_path.iterdir())


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_file(pipe) as file:
        file.write_text("formula")
    assert os.read(reader, 100) == b"formula" and pipe.is_fifo()
    os.close(reader)


def test_a_link_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for text in ("one", "two"):
        with atomic_file(tmp_path / "link") as file:
            file.write_text(text)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == text
