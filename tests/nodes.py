"""Nodes of a cluster on this machine: a torchrun launcher for each, started again when it dies."""

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from programs import Program

FOLDER = Path(__file__).resolve().parent

RESTARTS = 3
"""Of the processes of a node, by its launcher; then it gives up, and the cluster starts it again."""


def train_on_nodes(
    recipe_file: Path,
    output: Path,
    *changes: str,
    nodes: int = 2,
    processes: int = 2,
    deaths: Sequence[str] = (),
    timeout: float = 600,
) -> list[str]:
    """Train by `torchrun`, while workers and launchers die as `node_worker.py` says.

    A launcher that ends with an error is started again by the same command, until one of them has ended well and the
    run is finished.

    Returns:
        The deaths that took place; the others came too late.

    Raises:
        TimeoutError: it took longer than `timeout` seconds; the launchers are dead then.
    """
    plan, log = output.with_suffix(".plan"), output.with_suffix(".log")
    plan.write_text("".join(f"{death}\n" for death in deaths))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, str(FOLDER / "launcher.py"), "torchrun", "--rdzv-backend=c10d", "--rdzv-id=run"),
        *(f"--rdzv-endpoint=127.0.0.1:{port}", f"--nnodes={nodes}", f"--nproc-per-node={processes}"),
        *(f"--max-restarts={RESTARTS}", "--local-addr=127.0.0.1", "--monitor-interval=0.1"),
        *(str(FOLDER / "node_worker.py"), str(plan)),
        *("--config", str(recipe_file), "--output", str(output), "--resume", *changes),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # or processes look for the addresses of dead ones
    launchers: list[Program] = []
    deadline = time.monotonic() + timeout
    start = lambda: Program(command, log, environment)  # noqa: E731
    try:
        launchers = [start() for _ in range(nodes)]
        while any(launcher.poll() is None for launcher in launchers):
            if time.monotonic() > deadline:
                raise TimeoutError(f"The nodes took more than {timeout} s: {log.read_text()[-3000:]}")
            is_over = (output / "training.json").exists() and any(launcher.poll() == 0 for launcher in launchers)
            for index, launcher in enumerate(launchers):
                if launcher.poll() and not is_over:
                    launchers[index] = start()
            time.sleep(0.1)
    finally:
        for launcher in launchers:
            launcher.send_signal(signal.SIGKILL)
            launcher.wait()
    return list(deaths[: len(deaths) - len(plan.read_text().splitlines())])
