"""Give every reader changed files, and judge what it does.

PYTHONPATH=tests python -m strangers.fuzz --count 20000 --seed 1
"""

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SHARES = {
    "model": 20, "family": 14, "curves": 12, "found": 4, "kan": 10, "card": 14, "kan-card": 3, "recipe": 10,
    "resume": 4, "record": 5, "table": 2, "formula": 2,
}  # fmt: skip
"""Of a hundred cases."""

LONGEST = 30.0
"""Seconds after which a case hangs."""

OUTCOMES = ("right", "ours", "theirs", "bug")


@dataclass
class Report:
    """What came of all cases.

    Args:
        counts: of outcomes, by kind.
        bugs: a line for each.
        grown: most bytes that a file took beyond twice its own size, by kind.
    """

    counts: dict[str, Counter] = field(default_factory=lambda: {kind: Counter() for kind in SHARES})
    bugs: list[dict] = field(default_factory=list)
    grown: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        titles = ("tried", "right", "refused by us", "by transformers", "bugs", "most memory")
        lines = [f"{'':10}" + "".join(f"{title:>17}" for title in titles)]
        total: Counter = Counter()
        for kind, counts in self.counts.items():
            lines.append(f"{self._row(kind, counts)}{self.grown.get(kind, 0) / 2**20:14.1f} MB")
            total.update(counts)
        return "\n".join([*lines, self._row("all", total)])

    @staticmethod
    def _row(name: str, counts: Counter) -> str:
        return f"{name:10}{sum(counts.values()):17,}" + "".join(f"{counts[outcome]:17,}" for outcome in OUTCOMES)


class Worker:
    """A process that reads; a fork of its parent takes its place after it was lost."""

    def __init__(self, folder: Path, longest: float = LONGEST) -> None:
        self.longest = longest
        tests = Path(__file__).resolve().parents[1]
        environment = {**os.environ, "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}", "OMP_NUM_THREADS": "1"}
        environment |= {"HF_HUB_OFFLINE": "1", "KANSFORMER_BACKEND": "cpu"}
        self.errors = (folder / "worker-errors.txt").open("a+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "strangers.worker", str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=environment, cwd=folder,
        )  # fmt: skip
        self._begin(self._line(120.0))

    def _begin(self, line: bytes | None) -> int:
        """Note the process that says that it is ready; the status of the one before."""
        if line is None or not line.startswith(b"ready "):
            self.errors.seek(0)
            raise RuntimeError(f"The worker did not start: {self.errors.read()[-3000:]}")
        _, self.reader, status = map(int, line.replace(b"ready", b"0").split())
        return status

    def ask(self, kind: str, index: int, seed: int) -> dict:
        """The outcome of a case."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{kind} {index} {seed}\n".encode())
        self.process.stdin.flush()
        line = self._line(self.longest)
        if line and not line.startswith(b"ready"):
            return json.loads(line)
        if hung := line is None:
            os.kill(self.reader, signal.SIGKILL)
            line = self._line(self.longest)
        status = self._begin(line)
        what = f"hung for {self.longest:.0f} s" if hung else f"died: {status}"
        return {"outcome": "bug", "bug": f"the process {what}", "error": ""}

    def end(self) -> None:
        """Have it stop and take its files with it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()
        self.errors.close()

    def _line(self, seconds: float) -> bytes | None:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline() if ready else None


def cases(count: int) -> list[tuple[str, int]]:
    """Kind and index of so many cases, the kinds mixed in their shares."""
    cycle = [kind for kind, share in SHARES.items() for _ in range(share)]
    mixed = [cycle[(n * 37) % len(cycle)] for n in range(len(cycle))]
    return [(mixed[n % len(mixed)], n) for n in range(count)]


def fuzz(
    count: int,
    seed: int,
    progress: Callable[[dict], None] = lambda answer: None,
    only: str = "",
    first: Worker | None = None,
) -> Report:
    """Try so many cases, always the same ones for a seed.

    Args:
        count: cases.
        seed: of the changes.
        progress: called with each outcome.
        only: a kind of reader; empty for all.
        first: a process to begin with, which is not ended; None starts one.
    """
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        worker = first or Worker(Path(name))
        for kind, index in cases(count):
            if only and kind != only:
                continue
            answer = worker.ask(kind, index, seed)
            if answer.get("new"):
                answer |= {"outcome": "bug", "bug": f"left {answer['new'][:3]} around its folder"}
            report.counts[kind][answer["outcome"]] += 1
            beyond = answer.get("grown", 0) - 2 * answer.get("declared", 0)
            report.grown[kind] = max(report.grown.get(kind, 0), beyond)
            if answer["outcome"] == "bug":
                report.bugs.append({"case": f"{kind} {index} {seed}", **answer})
            progress(answer)
            if answer.get("new"):  # else they would be there after every other case
                if worker is not first:
                    worker.end()
                worker = Worker(Path(name))
        if worker is not first:
            worker.end()
    return report


def main() -> None:
    """Run from the command line; ends with 1 where there are bugs."""
    from tqdm import tqdm

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", choices=["", *SHARES])
    arguments = parser.parse_args()
    total = sum(not arguments.only or kind == arguments.only for kind, _ in cases(arguments.count))
    with tqdm(total=total, mininterval=1, unit=" files") as bar:
        report = fuzz(arguments.count, arguments.seed, lambda answer: bar.update(), arguments.only)
    for bug in report.bugs:
        print(f"{bug['case']}: {bug['bug']}\n  {bug['error']}\n{bug.get('trace', '')}")
    print(report)
    print(f"tried {sum(counts.total() for counts in report.counts.values())}, lost {len(report.bugs)}")
    sys.exit(bool(report.bugs))


if __name__ == "__main__":
    main()
