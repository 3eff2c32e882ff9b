"""A launcher whose processes are forks of it: `launcher.py torchrun ARGUMENTS…` or `launcher.py accelerate ARGUMENTS…`.

Everything else is the launcher's own: the processes are its children, with its signals, groups and environment.
"""

import sys

import accelerate.commands.launch
import torch.distributed.run
from programs import popen
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

MAIN = {"torchrun": torch.distributed.run.main, "accelerate": accelerate.commands.launch.main}

if __name__ == "__main__":
    subprocess_handler.Popen = popen
    MAIN[sys.argv.pop(1)]()
