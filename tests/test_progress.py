"""One bar for all long work: drawn on a terminal only, and with every stage from its own start."""

import io
import sys

import pytest

from kansformer.progress import progress_bar, progress_reporter


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
