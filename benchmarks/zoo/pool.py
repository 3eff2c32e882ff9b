"""Worker processes that handle many items each and are killed when one item takes too long."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

IMPORT_ALLOWANCE_S = 60.0


class LostError(Exception):
    """The worker was killed or died before it had an answer; the message says which."""


@dataclasses.dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    connection: Connection
    item: Any
    deadline: float


def each(function: Callable[[Any], Any], items: list, jobs: int, limit_s: float) -> Iterator[tuple[Any, Any]]:
    """Yields (item, result) as results come. A lost item's result is a `LostError`.

    Args:
        function: importable by name; it should catch its own exceptions.
        items: what to call it with.
        jobs: worker processes.
        limit_s: seconds for one item. A worker's first item gets a minute more, for its imports.
    """
    waiting = deque(items)
    workers = [_start(function, waiting, limit_s) for _ in range(min(jobs, len(items)))]
    try:
        while workers:
            ready = wait([worker.connection for worker in workers], timeout=0.5)
            for worker in list(workers):
                if worker.connection in ready:
                    try:
                        result = worker.connection.recv()
                    except EOFError:
                        worker.process.join()
                        result = LostError(f"the process died with exit code {worker.process.exitcode}")
                elif time.monotonic() > worker.deadline:
                    result = LostError(f"killed after {limit_s:.0f} s")
                else:
                    continue
                yield worker.item, result
                workers.remove(worker)
                if isinstance(result, LostError):
                    _stop(worker)
                if waiting:
                    again = (
                        _start(function, waiting, limit_s)
                        if isinstance(result, LostError)
                        else _next(worker, waiting, limit_s)
                    )
                    workers.append(again)
                else:
                    _stop(worker)
    finally:
        for worker in workers:
            _stop(worker)


def _start(function: Callable[[Any], Any], waiting: deque, limit_s: float) -> _Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(function, there), daemon=True)
    process.start()
    there.close()
    worker = _Worker(process, here, None, 0.0)
    return _next(worker, waiting, limit_s + IMPORT_ALLOWANCE_S)


def _next(worker: _Worker, waiting: deque, limit_s: float) -> _Worker:
    worker.item = waiting.popleft()
    worker.deadline = time.monotonic() + limit_s
    worker.connection.send(worker.item)
    return worker


def _stop(worker: _Worker) -> None:
    worker.connection.close()
    worker.process.kill()
    worker.process.join()


def _serve(function: Callable[[Any], Any], connection: Connection) -> None:
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        connection.send(function(item))
