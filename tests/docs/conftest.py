"""A reader's shell, whose programs are forks of one process that imported torch and transformers."""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hub.loopback_hub import LoopbackHub, Repository

from kansformer.embedded import embedded_model_path

FOLDER = Path(__file__).resolve().parent
# Of other packages, what pages, commands and notebooks import; kansformer itself, each imports anew.
IMPORTS = """import accelerate, datasets, rich, sympy, torch, transformers.trainer, typer
import transformers.models.llama.modeling_llama
try:
    import IPython, matplotlib.pyplot, sklearn
except ImportError:
    pass"""


@pytest.fixture(scope="session")
def hub():
    """The Hub of the pages: the only model that they name there is, here, the one that comes with the package."""
    with LoopbackHub(user="your-name") as hub:
        hub.repositories["HuggingFaceTB/SmolLM2-135M"] = model = Repository()
        files = {path.name: path.read_bytes() for path in embedded_model_path().iterdir() if path.is_file()}
        model.commit("main", files, "the model")
        yield hub


@pytest.fixture(scope="session")
def environment(hub, tmp_path_factory):
    """That of the shell."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home, root = tmp_path_factory.mktemp("home"), FOLDER.parents[1]
    return {**os.environ, **hub.environment, "PATH": programs, "HF_HOME": str(home), "PYTHONPATH": str(root)}


@pytest.fixture(scope="session")
def forked(environment, tmp_path_factory):
    """How a command begins that runs a file of Python in such a fork, where `kansformer` is one, too."""
    folder = tmp_path_factory.mktemp("forked")
    run = [sys.executable, "-S", str(FOLDER / "forked.py"), "run", str(folder / "socket")]
    program = shlex.join([*run, str(Path(sys.executable).parent / "kansformer")])
    (folder / "kansformer").write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    (folder / "kansformer").chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        serve = [sys.executable, str(FOLDER / "forked.py"), "serve", str(listener.fileno()), IMPORTS]
        server = subprocess.Popen(serve, env=environment, pass_fds=[listener.fileno()])
    yield ["env", f"PATH={folder}{os.pathsep}{environment['PATH']}", *run]
    server.kill()
    server.wait()
