"""A recipe whose run takes seconds and does everything: checkpoints, a moving grid, old checkpoints removed."""

import csv
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from programs import Program
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parent.parent
LLAMA = dict(
    model_type="llama", hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, max_position_embeddings=32, bos_token_id=None, eos_token_id=None,
)  # fmt: skip
BERT = dict(
    model_type="bert", hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
DOWN = "model.layers.0.mlp.down_proj.weight"
PRETRAINED = {"tokenizer": "model", "block": 16}
"""Data of a recipe that begins with a model in a folder."""
TEXT = "".join(f"{i} green bottles hanging on the wall, and {i * i} more.\n" for i in range(150))
LAUNCH = [sys.executable, str(ROOT / "tests" / "launcher.py"), "accelerate"]
LAUNCH += ["--config_file", str(ROOT / "scripts/accelerate/two-cpu.yaml"), str(ROOT / "scripts/train.py")]
"""`accelerate launch` of a training in two processes."""
RECIPE = """
task: causal-lm
model:
  config: {{model_type: llama, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2,
    num_key_value_heads: 2, max_position_embeddings: 32, bos_token_id: null,
    eos_token_id: null, attention_dropout: 0.1}}
kan: {{groups: 4}}
curves: {{update_grid_at: [1, 4, 7], quantile: 1.0}}
data: {{files: {text}, tokenizer: characters, block: 16}}
training: {{max_steps: 8, per_device_train_batch_size: 4, learning_rate: 3e-3, logging_steps: 1, save_strategy: steps,
  save_steps: 2, save_total_limit: 2}}
"""


def write_recipe_file(folder: Path) -> Path:
    text = folder / "text.txt"
    text.write_text(TEXT)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(text=text))
    return path


def killed_run(
    recipe_file: Path, output: Path, *changes: str, processes: int | Sequence[int] = 1, kills: Sequence[str] = ()
) -> list[dict]:
    """Train, killed at each of `kills` and resumed, in `processes` or in each of several numbers of them in turn.

    The last number holds for all further starts. `killed_run.py` says what kills there are; what processes print is in
    `output` with the suffix .log.

    Returns:
        The kill of every start, and the exit codes of its processes.
    """
    numbers = [processes] if isinstance(processes, int) else processes
    request = json.dumps([str(recipe_file), str(output), changes, numbers, kills])
    starts = output.with_suffix(".json")
    command = [sys.executable, str(ROOT / "tests" / "killed_run.py"), request, str(starts)]
    log = output.with_suffix(".log")
    assert Program(command, log, {**os.environ, "OMP_NUM_THREADS": "1"}).wait() == 0, log.read_text()[-3000:]
    return json.loads(starts.read_text())


def weights_of(folder: Path, kind: type = AutoModelForCausalLM) -> dict[str, torch.Tensor]:
    """The state of the model in a folder."""
    return kind.from_pretrained(folder).state_dict()


def equal_weights(one: Path, other: Path) -> None:
    """Check that two folders hold models with the same bits."""
    states = [weights_of(folder) for folder in (one, other)]
    assert list(states[0]) == list(states[1])
    different = [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
    assert not different, different


def log_rows(output: Path) -> list[dict[str, str]]:
    """What a run wrote in `losses.csv`."""
    with (output / "losses.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def loss_rows(output: Path) -> list[float]:
    """The training losses of a run, one for each logged step."""
    return [float(row["loss"]) for row in log_rows(output) if row["loss"]]
