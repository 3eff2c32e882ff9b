"""Rounds and statistics, on a clock that the tests wind."""

import pytest
import torch
from speed.harness import Quartiles, alternate, cuda_clock, order_of_round

from kansformer.errors import ConfigError


class FakeClock:
    """Calls take the seconds that a schedule says, times the disturbance of the moment."""

    def __init__(self, seconds, disturbances=(1.0,)):
        self.seconds, self.disturbances, self.asked = seconds, disturbances, []

    def __call__(self, action, calls):
        name = action()
        self.asked.append((name, calls))
        warm_up = len(self.seconds)
        turn = max(0, len(self.asked) - 1 - warm_up) // len(self.seconds)
        return self.seconds[name] * calls * self.disturbances[turn % len(self.disturbances)]


def actions(*names):
    return {name: (lambda name=name: name) for name in names}


def test_a_ratio_is_of_one_round_so_that_disturbances_cancel():
    clock = FakeClock({"base": 2.0, "fast": 1.0}, disturbances=(1.0, 50.0, 3.0, 7.0))
    result = alternate(actions("base", "fast"), rounds=4, clock=clock, least_seconds=0)
    assert result.ratio("fast", "base") == Quartiles(0.5, 0.5, 0.5)
    assert result.ratio("base", "base") == Quartiles(1.0, 1.0, 1.0)
    assert result.time("base") == Quartiles(2 * 2.5, 2 * 5.0, 2 * 17.75)


def test_short_actions_are_called_often_enough():
    clock = FakeClock({"base": 0.03, "slow": 5.0, "nothing": 0.0})
    result = alternate(actions("base", "slow", "nothing"), rounds=2, clock=clock, least_seconds=0.2)
    assert result.calls == {"base": 7, "slow": 1, "nothing": 1000}
    assert clock.asked[:3] == [("base", 1), ("slow", 1), ("nothing", 1)]
    assert result.seconds["base"] == pytest.approx([0.03, 0.03])


def test_the_order_turns_and_runs_backwards_in_odd_rounds():
    names = ["a", "b", "c"]
    assert [order_of_round(names, turn) for turn in range(4)] == [
        ["a", "b", "c"], ["a", "c", "b"], ["c", "a", "b"], ["c", "b", "a"],
    ]  # fmt: skip
    clock = FakeClock(dict.fromkeys(names, 1.0))
    alternate(actions(*names), rounds=2, clock=clock)
    assert [name for name, _ in clock.asked] == ["a", "b", "c", "a", "b", "c", "a", "c", "b"]


def test_everything_is_warm_before_it_is_timed():
    counts = dict.fromkeys("ab", 0)

    def count(name):
        counts[name] += 1

    told = []
    alternate(
        {name: lambda name=name: count(name) for name in "ab"},
        rounds=3,
        clock=lambda action, calls: 1.0,
        warm_up=4,
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    assert counts == {"a": 4, "b": 4}
    assert told[0] == ("a", 1, 6) and told[-1] == ("b", 6, 6) and len(told) == 6


def test_quartiles():
    assert Quartiles.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Quartiles(2.0, 3.0, 4.0)
    assert Quartiles.of([7.0]) == Quartiles(7.0, 7.0, 7.0)
    assert str(Quartiles(0.6, 0.65, 0.714)) == "0.65 (0.60–0.71)"


def test_no_rounds_are_refused():
    with pytest.raises(ConfigError, match="rounds must be a whole number of at least 1, got 0"):
        alternate(actions("a"), rounds=0)


def test_the_gpu_clock_reads_its_events_after_the_work(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("record")

        def elapsed_time(self, end):
            assert log[-1] == "synchronize"
            return 1500.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("synchronize"))
    assert cuda_clock(lambda: log.append("call"), 2) == 1.5
    assert log == ["synchronize", "record", "call", "call", "record", "synchronize"]
