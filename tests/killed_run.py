"""A training run that is killed again and again, by SIGKILL, and resumed; each time in processes of its own.

The arguments are the run and the file for its answer, both JSON, as `tiny_run.killed_run` does it. A kill is
"moment:n@p": the n-th time that process p comes to the moment, or "after:s@p": s seconds after the first step of the
start; process "all" is all of them. The last start is not killed.

This process imports everything and forks the others, so that a start takes a second.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed.checkpoint
import transformers.modeling_utils

import kansformer.training.run
from kansformer.nn import grid
from kansformer.training import trainer as trainer_module
from kansformer.training.recipe_file import read_recipe

GRACE = 120  # seconds for the other processes after one has ended


def kill_here() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str, number: int, kill: Callable[[], None] = kill_here) -> None:
    """Have this process call `kill` when it comes to the moment for the n-th time."""
    left = number

    def due() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def half_written(save, part):
        def write(content, file, *args, **kwargs):
            if part in str(file) and due():
                Path(file).write_bytes(b"half of it")
                kill()
            return save(content, file, *args, **kwargs)

        return write

    def around(function, *, after=False, only=lambda *args: True):
        def call(*args, **kwargs):
            now = only(*args) and due()
            if now and not after:
                kill()
            result = function(*args, **kwargs)
            if now:
                kill()
            return result

        return call

    models, aside = transformers.modeling_utils, trainer_module.ASIDE
    if moment == "write weights":
        models.safe_save_file = half_written(models.safe_save_file, f"{aside}/checkpoint-")
    elif moment == "write model":
        models.safe_save_file = half_written(models.safe_save_file, f"{aside}/model/")
    elif moment == "write optimizer":
        torch.save = half_written(torch.save, "optimizer")
    elif moment == "write part of optimizer":  # of a sharded model, while other processes write theirs
        writer = torch.distributed.checkpoint.HuggingFaceStorageWriter
        writer.write_data = around(writer.write_data)
    elif moment == "write random state":
        torch.save = half_written(torch.save, "rng_state")
    elif moment in ("before rename", "after rename"):
        is_checkpoint = lambda path, *args: path.name.startswith("checkpoint-")  # noqa: E731
        Path.rename = around(Path.rename, after=moment.startswith("after"), only=is_checkpoint)
    elif moment == "move file":
        Path.replace = around(Path.replace, only=lambda path, *args: aside in str(path))
    elif moment == "remove old":
        trainer_module.rotate_checkpoints = around(trainer_module.rotate_checkpoints)
    elif moment in ("move grid", "refine grid"):
        refines = moment == "refine grid"
        is_one = lambda sharing, *args: (args[-1].shape != sharing[0].coefficients.shape) == refines  # noqa: E731
        grid._write = around(grid._write, only=is_one)
    else:
        raise SystemExit(f"There is no moment {moment!r}.")


def train(recipe, output: Path, resume: bool, rank: int, processes: int, port: int, log: Path) -> None:
    """What a forked process does; it does not return."""
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if processes > 1:
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
            os.environ.update({name: str(value) for name, value in (ranks | address).items()})
        kansformer.training.run.train(recipe, output, resume=resume)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def start(recipe, output: Path, processes: int, kill: str) -> list[int]:
    """One start of the run, killed if it says so; the exit codes of its processes, negative for a signal."""
    place, _, whom = kill.partition("@")
    moment, _, number = place.partition(":")
    victims = range(processes) if whom == "all" else [int(whom or 0)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    losses = output / "losses.csv"
    resume = (output / "recipe.yaml").exists()
    before = losses.stat().st_mtime_ns if losses.exists() else 0
    children: dict[int, int] = {}
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            if kill and moment != "after" and rank in victims:
                arm(moment, int(number))
            train(recipe, output, resume, rank, processes, port, output.with_suffix(".log"))
        children[child] = rank
    codes: dict[int, int] = {}
    stepped = deadline = None
    while len(codes) < processes:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            codes[children[child]] = os.waitstatus_to_exitcode(status)
            deadline = time.monotonic() + GRACE
            continue
        running = [child for child, rank in children.items() if rank not in codes]
        if deadline is not None and time.monotonic() > deadline:  # as a launcher does
            for child in running:
                os.kill(child, signal.SIGKILL)
        if moment == "after" and stepped is None and losses.exists() and losses.stat().st_mtime_ns != before:
            lines = losses.read_text().count("\n")
            if lines > 1:
                stepped = time.monotonic()
        if moment == "after" and stepped is not None and time.monotonic() - stepped >= float(number):
            for child in running:
                if children[child] in victims:
                    os.kill(child, signal.SIGKILL)
            stepped = float("inf")
        time.sleep(0.005)
    return [codes[rank] for rank in range(processes)]


def main() -> None:
    recipe_file, output, changes, processes, kills = json.loads(sys.argv[1])
    recipe = read_recipe(recipe_file, changes)
    starts = []
    for index, kill in enumerate([*kills, ""]):
        codes = start(recipe, Path(output), processes[min(index, len(processes) - 1)], kill)
        starts.append({"kill": kill, "codes": codes})
    Path(sys.argv[2]).write_text(json.dumps(starts))


if __name__ == "__main__":
    main()
