"""What a run of a recipe returns, and what a finished one left on the disk."""

from dataclasses import asdict, dataclass
from pathlib import Path

from kansformer.conversion.measured import WEIGHTS
from kansformer.errors import CheckpointError
from kansformer.safe_io import read_json
from kansformer.training.resume import RESULT_FILE
from kansformer.wording import counted


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

    Examples:
        >>> from pathlib import Path
        >>> from kansformer.training import TrainingResult
        >>> result = TrainingResult(Path("run"), ((10, 4.1),), {"eval_loss": 4.2}, 10, 2.0, 5e3, 1000, 100, 100, {})
        >>> print(result)
        parameters    1,000, 100 of them in curves; 100 trained
        training      10 steps, 2 s, 5,000 per s
        last loss     4.1000
        eval_loss     4.2000
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
        return {k: v for k, v in asdict(self).items() if k not in ("output", "losses")}

    def __str__(self) -> str:
        curves = f", {self.curve_parameters:,} of them in curves" if self.curve_parameters else ""
        rows = {
            "parameters": f"{self.parameters:,}{curves}; {self.trainable:,} trained",
            "training": f"{counted(self.steps, 'step')}, {self.seconds:,.0f} s, {self.tokens_per_second:,.0f} per s",
        }
        if self.skipped_steps:
            rows["skipped"] = f"{counted(len(self.skipped_steps), 'non-finite step')}"
        if self.losses:
            rows["last loss"] = f"{self.losses[-1][1]:.4f}"
        rows |= {name: f"{value:.4f}" for name, value in self.evaluation.items()}
        return "\n".join(f"{name:13} {text}" for name, text in rows.items())


def read_result(output: Path) -> TrainingResult:
    """The result of a finished run, without losses: none are of this call."""
    values = read_json(output / RESULT_FILE)
    try:
        values.pop(WEIGHTS, None)
        return TrainingResult(output, (), **{**values, "skipped_steps": tuple(values.get("skipped_steps", ()))})
    except (AttributeError, TypeError):
        raise CheckpointError(f"{str(output / RESULT_FILE)!r} is not the result of a run.") from None
