"""Memory of a step: what forward keeps for backward, and the peak.

The peak is that of one step, gradients included, over what stood before it. On a GPU it is the allocator's own count.
On a CPU no allocator sees everything (kernels and libraries have workspaces of their own), so it is the peak resident
memory of a fresh process, whose `malloc` gives every block of 64 KiB or more back to the system when it is freed.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kansformer.errors import BackendError
from speed.actions import conditions, make_actions
from speed.blocks import Variant
from speed.sizes import Size

GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
ENVIRONMENT = {**GIVE_BACK, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}


@dataclass(frozen=True)
class Memory:
    """Bytes; the peak is None where this system cannot tell."""

    saved: int
    peak: int | None


def measure_memory(
    variant: Variant, size: Size, device: str, block: nn.Module, x_ND: Tensor, gradient_ND: Tensor
) -> Memory:
    """Both figures of a block that has run before."""
    saved = saved_bytes(variant, size, device, block, x_ND)
    if device == "cuda":
        step = make_actions(variant, size, device, block, x_ND, gradient_ND)["step"]
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return Memory(saved, torch.cuda.max_memory_allocated() - before)
    return Memory(saved, peak_of_fresh_process(variant, size))


def saved_bytes(variant: Variant, size: Size, device: str, block: nn.Module, x_ND: Tensor) -> int:
    """Bytes of all storages that forward keeps for backward, without those of the parameters, buffers and input.

    A tensor that a function keeps without telling autograd is not seen here; it shows in the peak.
    """
    known = {t.untyped_storage().data_ptr() for t in (*block.parameters(), *block.buffers(), x_ND)}
    storages = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage  # kept alive, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), conditions(variant, size, device):
        y_ND = block(x_ND)
    # The output lives on in any case.
    storages.pop(y_ND.untyped_storage().data_ptr(), None)
    return sum(storage.nbytes() for storage in storages.values())


def peak_of_fresh_process(variant: Variant, size: Size) -> int | None:
    """Bytes by which one step raises the resident memory of a new process; None where there is no Linux `/proc`.

    Raises:
        BackendError: the process failed.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-m", "speed.peak_process"]
    task = {"size": size.name, "variant": variant.name, "threads": torch.get_num_threads()}
    done = subprocess.run(
        [*command, json.dumps(task)],
        capture_output=True,
        text=True,
        env=os.environ | ENVIRONMENT,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise BackendError(f"The process that measures the memory of {variant.name!r} at {size.name!r} failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])
