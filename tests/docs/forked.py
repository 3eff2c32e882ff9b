"""Programs at the price of a fork: what they all import is imported once, and each is a child of that process.

`forked.py serve LISTENER IMPORTS` imports, then answers on a listening socket, a file descriptor, until it is killed.
`forked.py run SOCKET PROGRAM ARGUMENTS…` has it run a program of Python in this folder, with this environment and these
streams, and ends with its exit code.
"""

import atexit
import gc
import json
import os
import runpy
import socket
import sys


def serve(listener: socket.socket) -> None:
    """Fork for each request; returns in the child, which is then the program."""
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            break
        connection.close()
    listener.close()
    request, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
    program = os.fork()
    if program:
        connection.send(bytes([os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]) % 256]))
        os._exit(0)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", 1)  # noqa: SIM115
    sys.argv, folder, environment = json.loads(request)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)


def run(address: str, *command: str) -> int:
    """Run a program, a path and its arguments; its exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        request = json.dumps([command, os.getcwd(), {**os.environ}]).encode()
        socket.send_fds(connection, [request], [0, 1, 2])
        return connection.recv(1)[0]


if __name__ == "__main__":
    if sys.argv[1] == "run":
        sys.exit(run(*sys.argv[2:]))
    sys.path.pop(0)  # this folder
    gc.disable()
    exec(sys.argv[3], {})  # noqa: S102 - the tests' own
    gc.freeze()  # or each training searches all that was imported for garbage
    gc.enable()
    atexit.register(gc.unfreeze)  # or nanobind reports its functions as leaked
    serve(socket.socket(fileno=int(sys.argv[2])))
    runpy.run_path(sys.argv[0], run_name="__main__")
