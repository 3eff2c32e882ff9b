"""Nodes that die under torchrun, and runs that go on in another number of processes."""

import subprocess
import sys
import time

import pytest
import torch.distributed as dist
from nodes import train_on_nodes
from tiny_run import ROOT, equal_weights, killed_run, loss_rows, write_recipe_file
from transformers import LlamaConfig, LlamaForCausalLM

from kansformer.errors import CheckpointError, ConfigError
from kansformer.training.processes import check_launcher, check_same_checkpoint
from kansformer.training.sharding import check_shardable

SHARDED = ("shard=true", "curves.update_grid_at=[]")
SMALL = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
EQUAL_ROWS = ("rows_per_step=16", "model.config.attention_dropout=0.0")


@pytest.mark.slow
def test_a_node_that_dies_while_shards_are_written_is_replaced_and_the_bits_are_the_same(tmp_path):
    recipe = write_recipe_file(tmp_path)
    killed_run(recipe, tmp_path / "through", *SHARDED, processes=2)
    deaths = ["node write part of optimizer:2@1"]
    assert train_on_nodes(recipe, tmp_path / "run", *SHARDED, processes=1, deaths=deaths, timeout=300) == deaths
    equal_weights(tmp_path / "through", tmp_path / "run")
    assert (tmp_path / "run" / "README.md").exists()  # the last thing that the command writes


@pytest.mark.slow
@pytest.mark.parametrize(("numbers", "changes"), [((1, 2), ()), ((2, 1, 2), SHARDED)], ids=["whole", "sharded"])
def test_another_number_of_processes_goes_on_to_the_same_losses(tmp_path, numbers, changes):
    recipe = write_recipe_file(tmp_path)
    kills = ["after rename:1@0"] * (len(numbers) - 1)
    killed_run(recipe, tmp_path / "through", *changes, *EQUAL_ROWS, processes=2)
    killed_run(recipe, tmp_path / "run", *changes, *EQUAL_ROWS, processes=numbers, kills=kills)
    through, run = (loss_rows(tmp_path / name) for name in ("through", "run"))
    assert len(run) == 8 and max(abs(one - other) for one, other in zip(through, run, strict=True)) < 1e-5


def test_a_head_that_shares_the_weight_of_the_embeddings_is_not_sharded():
    tied, untied = (LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=is_tied)) for is_tied in (True, False))
    check_shardable(untied)
    with pytest.raises(ConfigError, match="shares the weight of the embeddings.*tie_word_embeddings=false"):
        check_shardable(tied)


WORKER = """
import os, time
os.environ["TORCHELASTIC_RUN_ID"] = "run"
from kansformer.training.processes import end_with_launcher
end_with_launcher()
print(os.getpid(), flush=True)
time.sleep(60)
"""
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, which signals a parent's death")
def test_a_process_dies_with_its_launcher():
    command = [sys.executable, "-c", LAUNCHER, WORKER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as launcher:
        worker = int(launcher.stdout.readline())
        launcher.kill()
    deadline = time.monotonic() + 10
    while _is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(worker)


def _is_alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # nobody may reap an orphan
    except FileNotFoundError:
        return False


def test_a_launcher_that_would_restart_into_an_old_store_is_refused(monkeypatch):
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(ConfigError, match="processes of 2 nodes.*TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on every node"):
        check_launcher()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    check_launcher()
    monkeypatch.undo()
    check_launcher()


def test_nodes_that_do_not_share_the_folder_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)

    def gather(names, name):
        names[:] = [name, "none"]

    monkeypatch.setattr(dist, "all_gather_object", gather)
    with pytest.raises(CheckpointError, match="different checkpoints in '.*': checkpoint-4, none, by rank"):
        check_same_checkpoint(tmp_path / "checkpoint-4", tmp_path)
    check_same_checkpoint(None, tmp_path)
