"""Checkpoints that must not be served, and the sentence that says so."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

CURVE = "model.layers.1.mlp.act_fn.coefficients"


@dataclass(frozen=True)
class Refusal:
    """A damaged copy of a checkpoint.

    Args:
        change: of its settings and tensors, in place.
        sentence: that must be in the engine's output.
        checkpoint: what is copied.
        ranks: of the engine.
        environment: of the engine's process.
    """

    change: Callable[[dict[str, Any], dict[str, Tensor]], object]
    sentence: str
    checkpoint: str = "embedded.act"
    ranks: int = 1
    environment: dict[str, str] = field(default_factory=dict)


def _without_digest(settings: dict[str, Any]) -> dict[str, Any]:
    settings.pop("digest", None)
    return settings


REFUSALS = {
    "missing curve": Refusal(
        lambda settings, tensors: tensors.pop(CURVE), "layers.1.mlp.act_fn.coefficients is missing"
    ),
    "newer format": Refusal(
        lambda settings, tensors: settings.update(format_version=99), "has kansformer format version 99"
    ),
    "curves of another width": Refusal(
        lambda settings, tensors: tensors.update({CURVE: tensors[CURVE][:100].clone()}),
        f"{CURVE} has shape (100, 8) instead of (432, 8)",
    ),
    "settings of another width": Refusal(
        lambda settings, tensors: _without_digest(settings)["sites"][1].update(features=400),
        "has curves for 400 channels at layers.1.mlp.act_fn, where this model has 432",
    ),
    "settings changed": Refusal(
        lambda settings, tensors: settings.update(domain=[-2.0, 2.0]), "settings were changed after it was saved"
    ),
    "curves changed": Refusal(
        lambda settings, tensors: tensors[CURVE].mul_(2), "curves are not those that were saved with its"
    ),
    "curves without a slot": Refusal(
        lambda settings, tensors: _without_digest(settings)["sites"].pop(), "does not belong to a slot of the config"
    ),
    "groups among ranks": Refusal(
        lambda settings, tensors: None, "do not divide among 2 tensor-parallel ranks", "llama.act-one-group", ranks=2
    ),
    "plug-in absent": Refusal(
        lambda settings, tensors: None,
        "Unknown quantization method: kansformer",
        environment={"VLLM_PLUGINS": "lora_filesystem_resolver"},
    ),
}


def damage(folder: Path, name: str) -> Path:
    """Write the damaged copy beside the checkpoint it is made from."""
    refusal = REFUSALS[name]
    target = folder / f"refused.{name.replace(' ', '-')}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder / refusal.checkpoint, target)
    config = json.loads((target / "config.json").read_text())
    tensors = load_file(target / "model.safetensors")
    refusal.change(config["quantization_config"], tensors)
    (target / "config.json").write_text(json.dumps(config))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target
