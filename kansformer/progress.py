"""The one protocol by which long work reports how far it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


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
def progress_reporter(progress: bool | Progress, stage: str, total: int, unit: str) -> Iterator[Progress]:
    """Yields the `Progress` to report to: for True a bar on the terminal, for False nothing, else the given one."""
    if not isinstance(progress, bool):
        yield progress
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=stage, unit=unit, disable=None if progress else True) as bar:

        def show(stage: str, done: int, total: int | None, detail: str = "") -> None:
            bar.set_postfix_str(detail, refresh=False)
            bar.update(done - bar.n)

        yield show


def loss_and_speed(loss: float, tokens_per_second: float) -> str:
    """The detail that loops over tokens report."""
    return f"loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s"
