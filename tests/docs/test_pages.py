"""Every code block and command of the README and of the site's pages runs, in a fresh folder, as a reader types it."""

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from docs.blocks import NOT_RUN, blocks_of
from hub.loopback_hub import LoopbackHub, Repository

from kansformer.embedded import embedded_model_path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests" / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
PAGES.remove(ROOT / "docs" / "reading_tools.md")  # each block is a test of tests/neighbours/test_reading_tools.py
RUN = [page for page in PAGES if any(block.not_run is None for block in blocks_of(page))]
PROGRAM = str(Path(sys.executable).parent / "kansformer")
# Of other packages, what pages and commands import; kansformer itself, each imports anew.
IMPORTS = """import accelerate, datasets, rich, sympy, torch, transformers.trainer, typer
import transformers.models.llama.modeling_llama"""
SLOW = {"train", "read", "get_started", "serve"}  # they train, or audit


@pytest.fixture(scope="module")
def hub():
    """The Hub of the pages: the only model that they name there is, here, the one that comes with the package."""
    with LoopbackHub(user="your-name") as hub:
        hub.repositories["HuggingFaceTB/SmolLM2-135M"] = model = Repository()
        files = {path.name: path.read_bytes() for path in embedded_model_path().iterdir() if path.is_file()}
        model.commit("main", files, "the model")
        yield hub


@pytest.fixture(scope="module")
def environment(hub, tmp_path_factory):
    """That of a reader's shell."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    places = {"PATH": programs, "HF_HOME": str(tmp_path_factory.mktemp("cache")), "PYTHONPATH": str(ROOT)}
    return {**os.environ, **hub.environment, **places}


@pytest.fixture(scope="module")
def forked(environment, tmp_path_factory):
    """How a page begins that runs, as its commands `kansformer` do, in a fork of a process that imported `IMPORTS`."""
    folder = tmp_path_factory.mktemp("forked")
    run = [sys.executable, "-S", str(TESTS / "forked.py"), "run", str(folder / "socket")]
    (folder / "kansformer").write_text(f'#!/bin/sh\nexec {shlex.join([*run, PROGRAM])} "$@"\n')
    (folder / "kansformer").chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        serve = [sys.executable, str(TESTS / "forked.py"), "serve", str(listener.fileno()), IMPORTS]
        server = subprocess.Popen(serve, env=environment, pass_fds=[listener.fileno()])
    path = f"{folder}{os.pathsep}{environment['PATH']}"
    yield ["env", f"PATH={path}", *run]
    server.kill()
    server.wait()


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW else []) for page in RUN],
)
def test_the_blocks_run(page, environment, request, tmp_path):
    # The README's process is new, as a reader's is: nothing is imported that it does not import.
    start = [sys.executable] if page == README else request.getfixturevalue("forked")
    job = subprocess.run(
        [*start, str(TESTS / "blocks.py"), str(page)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert job.returncode == 0, f"{job.stdout[-3000:]}\n{job.stderr[-3000:]}"


def test_what_is_not_run_says_why():
    reasons = [block.not_run for page in PAGES for block in blocks_of(page) if block.not_run is not None]
    assert {reason for reason in reasons if not reason.startswith(NOT_RUN)} == {"demo command", "test command"}
    assert len(reasons) <= 9, reasons


def test_the_readme_is_short_and_has_the_two_commands():
    text = README.read_text(encoding="utf-8")
    assert text.count("\n") <= 180
    assert re.search(r"<!-- demo command -->\n```bash\npython3 -m venv .*kansformer demo\n```", text)
    assert re.search(r"<!-- test command -->\n```bash\npython3 -m venv .*pytest -n auto\n```", text)


def test_links_and_pictures_are_there():
    """Of the README, which the site's own strict build does not read."""
    targets = re.findall(r"\]\(([^)#:\s]+)", README.read_text(encoding="utf-8"))
    targets += re.findall(r'(?:src|srcset)="([^"]+)"', README.read_text(encoding="utf-8"))
    for page in (ROOT / "docs").glob("*.md"):
        targets += [f"docs/{path}" for path in re.findall(r'(?:src|srcset)="([^"]+)"', page.read_text("utf-8"))]
    missing = sorted({target for target in targets if not (ROOT / target).exists()})
    assert not missing
