"""Run by `memory.peak_of_fresh_process`: one variant, one step, the peak resident bytes on the last line of output."""

import ctypes
import gc
import json
import sys
from pathlib import Path

import torch

from speed.actions import make_actions
from speed.blocks import prepare
from speed.sizes import SIZES
from speed.variants import find_variant


def main(task: dict) -> None:
    """Measure and print."""
    torch.set_num_threads(task["threads"])
    size = SIZES[task["size"]]
    variant = find_variant(size, task["variant"])
    step = make_actions(variant, size, "cpu", *prepare(variant, size, "cpu"))["step"]
    for _ in range(2):  # thread pools, packed code and compiled code come to stay in the first steps
        step()
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    before, _ = resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    step()
    _, peak = resident()
    print(json.dumps(max(0, peak - before)))


def resident() -> tuple[int, int]:
    """Resident and peak resident bytes of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, peak = (int(lines[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    return now, peak


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
