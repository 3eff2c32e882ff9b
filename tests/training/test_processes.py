"""Two processes on CPUs: the losses of one process with accumulation, and FSDP2 over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from kansformer import is_converted

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent.parent
RECIPE = """
task: causal-lm
model:
  config: {{model_type: llama, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2,
    num_key_value_heads: 2, max_position_embeddings: 32, bos_token_id: null, eos_token_id: null}}
kan: {{groups: 4}}
data: {{files: {text}, tokenizer: characters, block: 16}}
training: {{max_steps: 8, per_device_train_batch_size: 4, learning_rate: 3e-3, logging_steps: 1}}
"""


@pytest.fixture
def recipe(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} green bottles hanging on the wall, and {i * i} more.\n" for i in range(150)))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(text=text))
    return path


def run(launcher, recipe, output, *changes):
    command = [sys.executable, *launcher, str(ROOT / "scripts" / "train.py"), "--config", str(recipe), *changes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--output", str(output)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = (output / "losses.csv").read_text().splitlines()[1:]
    losses = [float(row.split(",")[1]) for row in rows if row.split(",")[1]]
    return losses, json.loads((output / "training.json").read_text())


TWO = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "scripts" / "accelerate" / "two-cpu.yaml")]


def test_two_processes_train_as_one_with_accumulation(recipe, tmp_path):
    finer = "curves.refine_grid_at={4: 10}"  # new parameters, whose gradients are exchanged as well
    one, _ = run([], recipe, tmp_path / "one", "training.gradient_accumulation_steps=2", finer)
    two, facts = run(TWO, recipe, tmp_path / "two", finer)
    assert facts["facts"]["device"].startswith("2 x ")
    assert len(one) == len(two) == 8
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 2e-6


def test_fsdp2_over_gloo_trains_and_saves_a_plain_checkpoint(recipe, tmp_path):
    whole, _ = run(TWO, recipe, tmp_path / "whole")
    sharded, facts = run(TWO, recipe, tmp_path / "sharded", "shard=true")
    assert max(abs(a - b) for a, b in zip(whole, sharded, strict=True)) < 2e-6
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("whole", "sharded")]
    assert all(is_converted(model) for model in models)
    with torch.no_grad():
        a, b = (model(input_ids=torch.arange(16)[None]).logits for model in models)
    assert (a - b).abs().max() < 1e-4
    assert facts["parameters"] == sum(p.numel() for p in models[1].parameters())
