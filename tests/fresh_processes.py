"""Fresh interpreters at the price of one: a process imports what all pieces of code may share, and forks for each."""

import gc
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 120  # seconds, of one piece


class FreshInterpreter:
    """Runs pieces of code, each in a child process of its own, where nothing but `imports` was imported before.

    Args:
        folder: an empty folder for caches and outputs, also the current one.
        imports: code that runs once, before all pieces. It must not start threads.
        environment: changes of the environment.
    """

    def __init__(self, folder: Path, imports: str = "import torch", environment: dict[str, str] | None = None):
        self.folder = folder
        variables = {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(folder / "home"),
            "HF_MODULES_CACHE": str(folder / "modules"),
            "HF_HUB_OFFLINE": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", __file__, imports],
            cwd=folder, env=os.environ | variables | (environment or {}), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> "FreshInterpreter":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()

    def run(self, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a piece of code, which finds the arguments in `sys.argv[1:]`."""
        arguments = [*map(str, arguments)]
        self.process.stdin.write(json.dumps({"code": code, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        printed = ((self.folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(arguments, status, *printed)

    def check(self, code: str, *arguments: object) -> str:
        """Run a piece of code that must not fail; what it printed."""
        done = self.run(code, *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


@contextmanager
def last_of_process() -> Iterator[None]:
    """A context that ends a forked process as Python ends a program: errors are printed, exit codes kept."""
    status = 1
    try:
        yield
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run_forked(code: str, arguments: list[str]) -> int:
    """Run one piece in a forked child; its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(TIMEOUT)
    with last_of_process():
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["-c", *arguments]
        exec(compile(code, "<fresh>", "exec"), {"__name__": "__main__"})  # noqa: S102 - the tests' own


if __name__ == "__main__":
    sys.path.pop(0)  # tests/, whose folders have names of packages
    gc.disable()
    exec(sys.argv[1], {})  # noqa: S102
    gc.freeze()  # or each collection in a child searches all that was imported
    gc.enable()
    for line in iter(sys.stdin.readline, ""):
        print(_run_forked(**json.loads(line)), flush=True)
    gc.unfreeze()  # or nanobind reports its functions as leaked
