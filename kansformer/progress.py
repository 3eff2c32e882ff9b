"""The one protocol by which long work reports how far it is."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

INTERVAL = 10.0
"""Seconds between two lines, which take the place of a bar outside terminals."""


class Progress(Protocol):
    """What is passed as `progress=` and called from time to time by whatever takes long."""

    def __call__(self, stage: str, done: int, total: int | None, detail: str = "") -> None:
        """Report progress.

        Args:
            stage: what is going on, such as "training".
            done: units of it that are done.
            total: units in all; None where that is not known.
            detail: figures or a unit to show beside the bar, such as "loss 2.31".
        """


@contextmanager
def progress_bar(
    description: str | None = None, total: int | None = None, unit: str = "it", *, stays: bool = False
) -> Iterator[Progress]:
    """Yields a `Progress` that draws a bar; without a terminal it prints a line on stderr every ten seconds.

    Args:
        description: stands before the bar; None shows the stage.
        total, unit: of what is done, if they are known before the first report.
        stays: False takes the bar away at the end.
    """
    from tqdm import tqdm

    if not sys.stderr.isatty():
        with _lines(description) as report:
            yield report
        return
    with tqdm(desc=description or "preparing", total=total, unit=unit, leave=stays, disable=_is_not_first()) as bar:

        def draw(stage: str, done: int, total: int | None, detail: str = "") -> None:
            if done < bar.n:  # the next stage
                bar.reset()
            bar.total = total
            bar.set_description(description or stage, refresh=False)
            bar.set_postfix_str(detail, refresh=False)
            bar.update(done - bar.n)

        yield draw


@contextmanager
def progress_reporter(progress: bool | Progress, stage: str, total: int, unit: str) -> Iterator[Progress]:
    """Yields the `Progress` to report to: for True a bar on the terminal, for False nothing, else the given one."""
    if progress is True:
        with progress_bar(stage, total, unit, stays=True) as bar:
            yield bar
    else:
        yield (lambda stage, done, total, detail="": None) if progress is False else progress


@contextmanager
def progress_lines(description: str) -> Iterator[None]:
    """Work that cannot say how far it is: without a terminal, a line every ten seconds says that it goes on."""
    if sys.stderr.isatty():
        yield
    else:
        with _lines(description):
            yield


@contextmanager
def _lines(description: str | None) -> Iterator[Progress]:
    """Yields a `Progress`; one of the processes prints its last report every `INTERVAL` seconds, new or not."""
    begin, finished, stream = time.monotonic(), threading.Event(), sys.stderr
    last = description or "preparing"

    def report(stage: str, done: int, total: int | None, detail: str = "") -> None:
        nonlocal last
        share = f"{done:,}" if total is None else f"{done:,}/{total:,} ({done / max(total, 1):.0%})"
        last = "  ".join(filter(None, (description or stage, share, detail)))

    def print_lines() -> None:
        while not finished.wait(INTERVAL):
            print(f"{last}  {time.monotonic() - begin:.0f} s", file=stream, flush=True)

    if _is_not_first():
        yield report
        return
    printer = threading.Thread(target=print_lines, name="progress lines", daemon=True)
    printer.start()
    try:
        yield report
    finally:
        finished.set()
        printer.join()


def _is_not_first() -> bool:
    """Whether this is one of several processes of a run, and another one shows the progress."""
    return os.environ.get("RANK", "0") != "0"


def loss_and_speed(loss: float | None, tokens_per_second: float) -> str:
    """The detail that loops over tokens report; without a loss while none is known."""
    speed = f"{tokens_per_second:,.0f} tokens/s"
    return speed if loss is None else f"loss {loss:.3f}  {speed}"
