"""The bar that long work draws on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kansformer.progress import Progress


@contextmanager
def progress_bar(description: str | None = None) -> Iterator[Progress]:
    """Yields what long work takes as `progress`; it draws a bar, which is gone at the end.

    Args:
        description: stands before the bar; None shows the stage.
    """
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("   {task.description}"),
        rich_progress.BarColumn(bar_width=30),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[detail]}"),
        rich_progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    console = Console()
    # Without a terminal a bar would only leave empty lines.
    with rich_progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description or "preparing", total=None, detail="")

        def draw(stage: str, done: int, total: int | None, detail: str = "") -> None:
            bar.update(task, description=description or stage, completed=done, total=total, detail=detail)

        yield draw
