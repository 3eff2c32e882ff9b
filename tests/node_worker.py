"""`kansformer train` as torchrun starts it on a node, perhaps with a death ahead.

    torchrun … tests/node_worker.py PLAN --config RECIPE --output FOLDER --resume …

PLAN is a file with deaths, one a line, "WHO MOMENT:n@RANK": when the process of that rank comes to the moment for the
n-th time, it is killed by SIGKILL (WHO is "worker") or the launcher that started it (WHO is "node"). The moment "after"
is n seconds after its imports. Only the first line counts; it is removed before the death.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from killed_run import arm, kill_here

import kansformer.cli


def main() -> None:
    plan, *arguments = sys.argv[1:]
    deaths = Path(plan).read_text().splitlines()
    if deaths and deaths[0].endswith(f"@{os.environ['RANK']}"):
        prepare(Path(plan), deaths)
    kansformer.cli.app(["train", *arguments], prog_name="kansformer")


def prepare(plan: Path, deaths: list[str]) -> None:
    """Have the first of the deaths happen in this process."""
    who, _, place = deaths[0].partition(" ")
    moment, _, number = place.partition("@")[0].partition(":")
    launcher = os.getppid()

    def die() -> None:
        plan.write_text("".join(f"{death}\n" for death in deaths[1:]))
        if who == "worker":
            kill_here()
        os.kill(launcher, signal.SIGKILL)
        time.sleep(60)  # it takes this process with it
        os._exit(3)

    if moment == "after":
        timer = threading.Timer(float(number), die)
        timer.daemon = True
        timer.start()
    else:
        arm(moment, int(number), die)


if __name__ == "__main__":
    main()
