"""One bar for all long work, with every stage from its own start; without a terminal, a line every ten seconds."""

import io
import re
import sys
import threading
import time

import pytest

from kansformer.progress import progress_bar, progress_lines, progress_reporter


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "draws"), [(Terminal, True), (io.StringIO, False)])
def test_a_bar_is_drawn_on_terminals_only(stream, draws, monkeypatch):
    monkeypatch.setattr("sys.stderr", stream())
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("tqdm.std.tqdm.update", lambda bar, n: (setattr(bar, "n", bar.n + n), bar.refresh()))
    with progress_bar() as progress:
        progress("reading", 3, 3, "loss 1.5")
        progress("fitting", 1, None)
    text = sys.stderr.getvalue()
    assert all((part in text) == draws for part in ("reading: 100%", "3/3", "loss 1.5", "fitting: ", "1it"))
    assert text.endswith("\r") == draws  # a bar goes at the end


def test_true_false_or_a_function_takes_the_reports(capsys):
    calls = []
    for progress in (True, False, lambda *call: calls.append(call)):
        with progress_reporter(progress, "fit", 2, "step") as report:
            report("fit", 1, 2)
    assert calls == [("fit", 1, 2)] and capsys.readouterr() == ("", "")


def fast_lines(monkeypatch):
    """A function that gives the lines printed so far, at least `count`; there is one every hundredth of a second."""
    monkeypatch.setattr("kansformer.progress.INTERVAL", 0.01)
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)

    def lines(count=0):
        for _ in range(2000):
            if stream.getvalue().count("\n") >= count:
                break
            time.sleep(0.005)
        return stream.getvalue().splitlines()

    return lines


def test_without_a_terminal_there_are_lines(monkeypatch):
    lines = fast_lines(monkeypatch)
    with progress_bar() as progress:
        assert re.fullmatch(r"preparing  \d s", lines(1)[0])
        progress("reading", 30, 1200, "loss 1.5")
        count = len(lines(1))
        assert re.fullmatch(r"reading  30/1,200 \(2%\)  loss 1\.5  \d s", lines(count + 2)[-1])  # one may be old
        progress("fitting", 1000, None)
        assert lines(len(lines(1)) + 2)[-1].startswith("fitting  1,000  ")
    count = len(lines(1))
    time.sleep(0.05)
    assert len(lines(1)) == count
    with progress_lines("proving"):
        assert lines(count + 1)[-1].startswith("proving  ")


def test_one_of_several_processes_speaks(monkeypatch):
    lines = fast_lines(monkeypatch)
    monkeypatch.setenv("RANK", "1")
    with progress_bar():
        time.sleep(0.05)
    assert lines() == []
    monkeypatch.setattr("sys.stderr", Terminal())
    with progress_bar() as progress:
        progress("reading", 3, 3)
    assert sys.stderr.getvalue() == ""


def test_a_failure_ends_the_lines(monkeypatch):
    fast_lines(monkeypatch)
    with pytest.raises(KeyboardInterrupt), progress_bar():
        raise KeyboardInterrupt
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("progress")]
