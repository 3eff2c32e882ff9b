"""Paired alternating rounds: every round times all actions, so that what disturbs the machine disturbs them alike.

A ratio is formed within a round and only then summarised. The order turns from round to round, and every second round
runs backwards, so that nobody always follows the same neighbour.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import quantiles
from typing import Protocol

import torch

from kansformer.errors import ConfigError
from kansformer.progress import Progress
from kansformer.training.page_faults import count_page_faults

Action = Callable[[], object]

MIN_SECONDS = 0.2
"""An action is called repeatedly until one timing lasts about this long."""

MAX_CALLS = 1000


class Clock(Protocol):
    """Seconds that a number of calls of an action take."""

    def __call__(self, action: Action, calls: int) -> float: ...


def cpu_clock(action: Action, calls: int) -> float:
    """Wall-clock time."""
    begin = time.perf_counter()
    for _ in range(calls):
        action()
    return time.perf_counter() - begin


def cuda_clock(action: Action, calls: int) -> float:
    """Time on the GPU between two events around the calls."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(calls):
        action()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def clock_for(device: str) -> Clock:
    """The clock that belongs to a device type."""
    return cuda_clock if device == "cuda" else cpu_clock


@dataclass(frozen=True)
class Quartiles:
    """Lower quartile, median and upper quartile of the rounds."""

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, values: list[float]) -> "Quartiles":
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*quantiles(values, n=4, method="inclusive"))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lower:.2f}–{self.upper:.2f})"


@dataclass(frozen=True)
class Rounds:
    """Seconds and page faults per call of every action, one number per round, and how many calls each averages."""

    seconds: Mapping[str, list[float]]
    calls: Mapping[str, int]
    page_faults: Mapping[str, list[float]]

    def ratio(self, name: str, baseline: str) -> Quartiles:
        """Time of one action in units of another's in the same round."""
        pairs = zip(self.seconds[name], self.seconds[baseline], strict=True)
        return Quartiles.of([own / other for own, other in pairs])

    def time(self, name: str) -> Quartiles:
        """Seconds per call."""
        return Quartiles.of(self.seconds[name])


def alternate(
    actions: Mapping[str, Action],
    *,
    rounds: int,
    clock: Clock = cpu_clock,
    least_seconds: float = MIN_SECONDS,
    warm_up: int = 2,
    progress: Progress | None = None,
) -> Rounds:
    """Time actions against each other.

    Args:
        actions: by name.
        rounds: how often each is timed.
        clock: see `Clock`.
        least_seconds: how long one timing should last; decides how many calls it averages.
        warm_up: calls before anything is timed.
        progress: called after each timing.

    Raises:
        ConfigError: no round was asked for.
    """
    if rounds < 1:
        raise ConfigError(f"rounds must be a whole number of at least 1, got {rounds}.")
    calls = {}
    for name, action in actions.items():
        for _ in range(warm_up):
            action()
        seconds = clock(action, 1)
        calls[name] = MAX_CALLS if seconds <= 0 else min(MAX_CALLS, max(1, math.ceil(least_seconds / seconds)))
    taken: dict[str, list[float]] = {name: [] for name in actions}
    faults: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds):
        for place, name in enumerate(order_of_round(list(actions), turn)):
            before = count_page_faults()
            taken[name].append(clock(actions[name], calls[name]) / calls[name])
            faults[name].append((count_page_faults() - before) / calls[name])
            if progress is not None:
                progress(name, turn * len(actions) + place + 1, rounds * len(actions))
    return Rounds(taken, calls, faults)


def order_of_round(names: list[str], turn: int) -> list[str]:
    """Names turned by the number of the round, backwards in odd ones."""
    start = turn % len(names)
    turned = names[start:] + names[:start]
    return turned[::-1] if turn % 2 else turned
