"""Two processes on CPUs: the losses of one process with accumulation, and FSDP2 over gloo."""

import json
import os

import pytest
import torch
from programs import Program
from tiny_run import LAUNCH, killed_run, loss_rows, write_recipe_file
from transformers import AutoModelForCausalLM

from kansformer import is_converted

pytestmark = pytest.mark.slow
PLAIN = ("model.config.attention_dropout=0.0", "curves.update_grid_at=[]", "training.save_strategy=no")


@pytest.fixture
def recipe(tmp_path):
    return write_recipe_file(tmp_path)


def run(recipe, output, *changes, processes=2):
    (start,) = killed_run(recipe, output, *PLAIN, *changes, processes=processes)
    assert start["codes"] == [0] * processes, output.with_suffix(".log").read_text()
    return loss_rows(output), json.loads((output / "training.json").read_text())


def launch(recipe, output, *changes):
    command = [*LAUNCH, "--config", str(recipe), *PLAIN, *changes, "--output", str(output)]
    log = output.with_suffix(".log")
    assert Program(command, log, {**os.environ, "OMP_NUM_THREADS": "1"}).wait(300) == 0, log.read_text()
    return loss_rows(output), json.loads((output / "training.json").read_text())


def test_two_processes_train_as_one_with_accumulation(recipe, tmp_path):
    finer = "curves.refine_grid_at={4: 10}"  # new parameters, whose gradients are exchanged as well
    one, _ = run(recipe, tmp_path / "one", "training.gradient_accumulation_steps=2", finer, processes=1)
    two, facts = launch(recipe, tmp_path / "two", finer)
    assert facts["facts"]["device"].startswith("2 x ")
    assert len(one) == len(two) == 8
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 2e-6


def test_fsdp2_over_gloo_trains_and_saves_a_plain_checkpoint(recipe, tmp_path):
    whole, _ = run(recipe, tmp_path / "whole")
    sharded, facts = run(recipe, tmp_path / "sharded", "shard=true")
    assert max(abs(a - b) for a, b in zip(whole, sharded, strict=True)) < 2e-6
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("whole", "sharded")]
    assert all(is_converted(model) for model in models)
    with torch.no_grad():
        a, b = (model(input_ids=torch.arange(16)[None]).logits for model in models)
    assert (a - b).abs().max() < 1e-4
    assert facts["parameters"] == sum(p.numel() for p in models[1].parameters())
