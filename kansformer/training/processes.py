"""The processes of a run: which one speaks for all, what they must agree on, and what ends them."""

import ctypes
import os
import signal
import sys
from pathlib import Path

import torch.distributed as dist
from accelerate import PartialState

from kansformer.errors import CheckpointError, ConfigError

LAUNCHER_ID = "TORCHELASTIC_RUN_ID"
"""Environment variable that torchrun and accelerate launch set for the processes they start and restart."""


def is_main_process() -> bool:
    """Whether this process speaks for all of them."""
    return PartialState().is_main_process


def end_processes() -> None:
    """Close what connects the processes; one whose threads still run at its exit may be aborted."""
    PartialState().destroy_process_group()


def end_with_launcher() -> None:
    """On Linux, have this process killed when the launcher that started it dies.

    A launcher that was killed leaves its processes running: they would go on writing into the run's folder, beside
    those that take their place. Does nothing in a process without such a launcher.
    """
    if LAUNCHER_ID not in os.environ or sys.platform != "linux":
        return
    launcher, on_death_of_parent = os.getppid(), 1
    ctypes.CDLL(None).prctl(on_death_of_parent, signal.SIGKILL)
    if os.getppid() != launcher:  # it died meanwhile
        os.kill(os.getpid(), signal.SIGKILL)


def check_launcher() -> None:
    """Check that a launcher of several nodes can start their processes again, if it is to do so.

    torchrun shares one store among all starts of a run, unless it is told not to. The processes of a later start find
    the addresses of dead ones there, and a node that takes the place of another waits in vain for the store's address.

    Raises:
        ConfigError: torchrun was not told.
    """
    nodes, restarts = (int(os.environ.get(name, 0)) for name in ("GROUP_WORLD_SIZE", "TORCHELASTIC_MAX_RESTARTS"))
    if nodes > 1 and restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise ConfigError(
            f"torchrun is to restart the processes of {nodes} nodes, and would have them look for those that died. Set "
            "the environment variable TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on every node before torchrun starts, or "
            "leave out --max-restarts."
        )


def check_same_checkpoint(checkpoint: Path | None, output: Path) -> None:
    """Check that all processes go on from the same checkpoint, None for the beginning.

    Raises:
        CheckpointError: in every process, where they see different folders.
    """
    name = checkpoint.name if checkpoint is not None else "none"
    if not (dist.is_available() and dist.is_initialized()):
        return
    names: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(names, name)
    if len(set(names)) > 1:
        raise CheckpointError(
            f"The processes see different checkpoints in {str(output)!r}: {', '.join(names)}, by rank. The folder must "
            "be on a file system that all nodes share."
        )
