"""Fresh interpreters for tests, at the price of one: a process imports what all pieces of code may share, and forks.

    python tests/fresh_processes.py jobs.json

runs every piece in a child of its own and writes what each printed, and how it ended, beside the file.
"""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_fresh(
    folder: Path, pieces: dict[str, str], *arguments: object, imports: str = "import torch", **environment: str
) -> dict[str, str]:
    """Run pieces of code that do not see each other, in a process where nothing but `imports` was imported before.

    Args:
        folder: a folder for caches and outputs, also the current one.
        pieces: code by name; each finds `arguments` in `sys.argv[1:]`.
        imports: code that runs before the pieces, once. It must not start threads.
        environment: changes of the environment.

    Returns:
        What each piece printed.

    Raises:
        AssertionError: with all tracebacks, where pieces failed.
    """
    file = folder / "jobs.json"
    file.write_text(json.dumps({"imports": imports, "pieces": pieces, "arguments": [*map(str, arguments)]}))
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(folder / "home"),
        "HF_MODULES_CACHE": str(folder / "modules"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-W", "error::UserWarning", __file__, str(file)]
    job = subprocess.run(
        command, cwd=folder, env=os.environ | variables | environment, capture_output=True, text=True, timeout=300
    )
    assert job.returncode == 0, job.stderr[-3000:]
    failed = [name for name, code in json.loads(job.stdout.splitlines()[-1]).items() if code != 0]
    assert not failed, "".join(f"\n{name}:\n{(folder / f'{name}.err').read_text()[-3000:]}" for name in failed)
    return {name: (folder / f"{name}.out").read_text() for name in pieces}


def _run_piece(name: str, code: str, arguments: list[str]) -> int:
    """Run one piece in a forked child; its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        for number, end in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{name}.{end}", os.O_WRONLY | os.O_CREAT), number)
        sys.argv = ["-c", *arguments]
        exec(compile(code, f"<{name}>", "exec"), {"__name__": "__main__"})  # noqa: S102 - the tests' own
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.path.pop(0)  # tests/, whose folders have names of packages
    jobs = json.loads(Path(sys.argv[1]).read_text())
    exec(jobs["imports"], {})  # noqa: S102
    print(json.dumps({name: _run_piece(name, code, jobs["arguments"]) for name, code in jobs["pieces"].items()}))
