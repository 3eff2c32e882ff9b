"""The figures of a training run, for its folder and a model card."""

import dataclasses
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import nn

from kansformer.nn.optim import curve_parameters
from kansformer.version import __version__


@dataclass(frozen=True)
class TrainingResult:
    """The figures of a run; `str(result)` is a table.

    Args:
        output: folder of the model, its recipe, its losses and this result.
        losses: (optimizer step, mean training loss since the last one), in nats; of this call.
        evaluation: of the final model; `eval_loss` in nats, for classification also `eval_accuracy`.
        steps: optimizer steps in all, those before a resume included.
        seconds: wall-clock time of the training loop of this call.
        tokens_per_second: tokens, or rows of a classification task, in all processes.
        parameters, trainable, curve_parameters: numbers of the model, each tensor counted once.
        facts: data, versions and device, for a model card.
        skipped_steps: whose loss or gradient was not finite; of this call.
    """

    output: Path
    losses: tuple[tuple[int, float], ...]
    evaluation: dict[str, float]
    steps: int
    seconds: float
    tokens_per_second: float
    parameters: int
    trainable: int
    curve_parameters: int
    facts: dict[str, object]
    skipped_steps: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """JSON-ready, without the folder and the losses, which have a file of their own."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in ("output", "losses")}

    def __str__(self) -> str:
        curves = f", {self.curve_parameters:,} of them in curves" if self.curve_parameters else ""
        lines = [
            f"{'parameters':13} {self.parameters:,}{curves}; {self.trainable:,} trained",
            f"{'training':13} {self.steps:,} steps, {self.seconds:,.0f} s, {self.tokens_per_second:,.0f} per s",
        ]
        if self.skipped_steps:
            lines.append(f"{'skipped':13} {len(self.skipped_steps):,} non-finite steps")
        if self.losses:
            lines.append(f"{'last loss':13} {self.losses[-1][1]:.4f}")
        return "\n".join(lines + [f"{name:13} {value:.4f}" for name, value in self.evaluation.items()])


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers of the model: all, those that are trained, and those of curves."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "curve_parameters": sum(p.numel() for _, p in curve_parameters(model)),
    }


def run_facts(data: dict[str, object], device: torch.device, processes: int) -> dict[str, object]:
    """Data, device and versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "data": data,
        "device": f"{processes} x {name}",
        "kansformer": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
