"""Programs of Python at the price of a fork: the imports of a training take longer than most of what tests train.

A `Program` is a fork of a process that has imported what programs need, and nothing else has happened in it. What a
program starts by `popen` is a fork of the program.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from fresh_processes import last_of_process


def popen(args: Sequence[str], env: dict[str, str] | None = None, **options) -> subprocess.Popen:
    """`subprocess.Popen` of `python [-u] FILE ARGUMENTS…`, forked off this process."""
    command = [argument for argument in args[1:] if argument != "-u"]
    return subprocess.Popen(args, env=env, preexec_fn=lambda: _become(command, env), **options)


class Program:
    """A program started by `popen` in another process, with a part of the interface of `subprocess.Popen`.

    Args:
        command: as `popen` takes it.
        output: the file that it appends its output and its errors to.
        environment: all variables; None for those of this process.
    """

    def __init__(self, command: Sequence[str], output: Path, environment: Mapping[str, str] | None = None) -> None:
        self.returncode: int | None = None
        reading, writing = os.pipe()
        self._answers = os.fdopen(reading)
        request = json.dumps([[*command], str(output), {**(environment or os.environ)}]).encode()
        socket.send_fds(_server(), [request], [writing])
        os.close(writing)
        self.pid = int(self._answers.readline())

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal."""
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise TimeoutError(f"The program took more than {timeout} s.")
            self.returncode = int(self._answers.readline())
            self._answers.close()
        return self.returncode

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        try:
            return self.wait(0)
        except TimeoutError:
            return None

    def send_signal(self, number: int) -> None:
        """Does nothing after its end."""
        if self.poll() is None:
            os.kill(self.pid, number)


@cache
def _server() -> socket.socket:
    """Where the process that starts programs is asked for one; it is started the first time, and ends with this one."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-u", __file__, str(there.fileno())]
    options = {"pass_fds": [there.fileno()], "start_new_session": True}
    server = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **options)
    there.close()
    atexit.register(lambda: (here.close(), server.wait()))
    return here


def _serve(requests: socket.socket) -> None:
    """Start a program for each request, until the other process ends."""
    import accelerate.commands.launch  # noqa: F401
    import torch.distributed.checkpoint
    import torch.distributed.run  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import kansformer.cli
    import kansformer.training.run  # noqa: F401

    gc.freeze()  # or every process would search all that is imported when it collects garbage
    while True:
        request, descriptors, *_ = socket.recv_fds(requests, 1 << 20, 1)
        if not request:
            break
        if os.fork() == 0:
            requests.close()
            with os.fdopen(descriptors[0], "w", 1) as answers:
                _run(*json.loads(request), answers)
            os._exit(0)
        os.close(descriptors[0])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # a test that failed may have left programs
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _run(command: list[str], output: str, environment: dict[str, str], answers) -> None:
    with open(output, "ab") as file:
        program = popen(command, environment, stdout=file, stderr=file)
    print(program.pid, file=answers)
    print(program.wait(), file=answers)


def _become(command: list[str], environment: dict[str, str] | None) -> None:
    """Be a program from here on; what a new process does not have is left behind."""
    with last_of_process():
        os.closerange(3, 1 << 16)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # as Python begins
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        gc.enable()
        if environment is not None:
            os.environ.clear()
            os.environ.update(environment)
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    sys.path.pop(0)  # tests/, whose folders have names of packages
    _serve(socket.socket(fileno=int(sys.argv[1])))
