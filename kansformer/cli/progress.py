"""A progress bar for the loops of `kansformer.training`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kansformer.training.report import Progress, StepReport


Draw = Callable[[str, int, int | None, str], None]
"""Called with a description, what is done, how much there is, and figures to show beside it."""


@contextmanager
def progress_bar(description: str) -> Iterator[Progress]:
    """Yields what the loops take as `progress`: it draws a bar with loss and tokens per second, gone at the end."""
    with drawn_bar(description) as draw:

        def report(state: StepReport) -> None:
            figures = f"loss {state.loss:.3f}  {state.tokens_per_second:,.0f} tokens/s"
            draw(description, state.step, state.steps, figures)

        yield report


@contextmanager
def drawn_bar(description: str) -> Iterator[Draw]:
    """Yields a function that moves a bar, which is gone at the end."""
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("   {task.description}"),
        rich_progress.BarColumn(bar_width=30),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[figures]}"),
        rich_progress.TimeRemainingColumn(),
    )
    console = Console()
    # Without a terminal a bar would only leave empty lines.
    with rich_progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=None, figures="")

        def draw(what: str, done: int, total: int | None, figures: str = "") -> None:
            bar.update(task, description=what, completed=done, total=total, figures=figures)

        yield draw
