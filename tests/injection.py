"""A failure at every step of an operation: each line of kansformer that runs is a place where it can happen."""

import sys
from collections.abc import Callable
from pathlib import Path

import kansformer

PACKAGE = str(Path(kansformer.__file__).parent)


class InjectedError(Exception):
    """What is raised in the middle of an operation; nobody expects it."""


def run_traced(action: Callable[[], object], at_line: Callable[[str, int], None]) -> object:
    """Run an action, and call `at_line(file, line)` before every line of kansformer that it comes to."""

    def local(frame, event, argument):
        if event == "line":
            at_line(frame.f_code.co_filename, frame.f_lineno)
        return local

    def trace(frame, event, argument):
        return local if frame.f_code.co_filename.startswith(PACKAGE) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return action()
    finally:
        sys.settrace(before)


def steps_of(action: Callable[[], object]) -> list[tuple[str, int]]:
    """The lines that an action comes to, in order."""
    steps: list[tuple[str, int]] = []
    run_traced(action, lambda file, line: steps.append((file, line)))
    return steps


def fail_at(change: Callable, model: object, folder: Path, index: int, error: type[BaseException]) -> str:
    """Run a change that fails at the step of that number, and see that the failure comes out or is swallowed.

    Returns:
        The line at which it failed.
    """
    count, place = -1, ""

    def at_line(file: str, line: int) -> None:
        nonlocal count, place
        count += 1
        if count == index:
            place = f"{Path(file).relative_to(PACKAGE)}:{line}"
            raise error(f"injected at step {index}, {place}")

    try:
        run_traced(lambda: change(model, folder), at_line)
    except BaseException as raised:
        seen: BaseException | None = raised
        while seen is not None and "injected at step" not in str(seen):
            seen = seen.__cause__ or seen.__context__
        if seen is None:
            raise
    assert place, f"there is no step {index}"
    return place


def telling_steps(steps: list[tuple[str, int]]) -> list[int]:
    """Of every line the first and the last time that it is come to: the fewest steps that reach every line."""
    first = {step: index for index, step in reversed(list(enumerate(steps)))}
    last = {step: index for index, step in enumerate(steps)}
    return sorted({*first.values(), *last.values()})
