"""The one protocol by which long work reports how far it is."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
def progress_bar(description: str | None = None, *, leave: bool = False, shown: bool = True) -> Iterator[Progress]:
    """Yields a `Progress` that draws a bar on stderr, if that is a terminal.

    Args:
        description: stands before the bar; None shows the stage.
        leave: whether the bar stays at the end.
        shown: False draws nothing.
    """
    from tqdm import tqdm

    layout = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"  # rates are in the details
    with tqdm(desc=description or "preparing", leave=leave, bar_format=layout, disable=None if shown else True) as bar:

        def draw(stage: str, done: int, total: int | None, detail: str = "") -> None:
            if done < bar.n:  # the next stage
                bar.reset()
            bar.total = total
            bar.set_description(description or stage, refresh=False)
            bar.set_postfix_str(detail, refresh=False)
            bar.update(done - bar.n)

        yield draw


def progress_reporter(progress: bool | Progress) -> AbstractContextManager[Progress]:
    """Yields the `Progress` to report to: for True a bar that stays, for False nothing, else the given one."""
    return progress_bar(leave=True, shown=progress) if isinstance(progress, bool) else nullcontext(progress)


def loss_and_speed(loss: float, tokens_per_second: float) -> str:
    """The detail that loops over tokens report."""
    return f"loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s"
