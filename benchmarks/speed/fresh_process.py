"""A size measured in a process of its own, with the allocator in a state that only the environment sets.

Run as a program it gets a task as JSON and prints its report as the last line of its output.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from kansformer.errors import BackendError
from kansformer.progress import progress_bar
from speed.allocator import environment_for
from speed.sizes import SIZES, Size
from speed.suites import Options, Report, measure_size
from speed.table import Row, Skip
from speed.variants import variants_for


def measure_in_fresh_process(
    suite: str, size: Size, allocator: str, options: Options, *, peers: bool, compiled: bool
) -> Report:
    """`measure_size` of the variants of a size on the CPU, in a new process.

    Args:
        suite, size, options: as in `measure_size`; the new process shows the progress by itself.
        allocator: one of `allocator.SETTINGS`.
        peers, compiled: as in `variants_for`.

    Raises:
        BackendError: the process failed.
    """
    task = dict(
        suite=suite, size=size.name, threads=torch.get_num_threads(), allocator=allocator, peers=peers,
        compiled=compiled, rounds=options.rounds, least_seconds=options.least_seconds, memory=options.memory,
    )  # fmt: skip
    folder = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "speed.fresh_process", json.dumps(task)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment_for(allocator) | {"PYTHONPATH": f"{folder}{os.pathsep}{folder.parent}"},
    )
    if done.returncode:
        raise BackendError(f"The process that measures {size.name!r} with the allocator {allocator!r} failed.")
    report = json.loads(done.stdout.splitlines()[-1])
    return Report([Row(**row) for row in report["rows"]], [Skip(**skip) for skip in report["skips"]])


def main(task: dict) -> None:
    """Measure and print."""
    torch.set_num_threads(task["threads"])
    variants = variants_for(SIZES[task["size"]], "cpu", peers=task["peers"], compiled=task["compiled"])
    settings = {name: task[name] for name in ("rounds", "least_seconds", "memory", "allocator")}
    with progress_bar() as progress:
        options = Options(device="cpu", progress=progress, **settings)
        report = measure_size(task["suite"], SIZES[task["size"]], variants, options)
    print(json.dumps(asdict(report)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
