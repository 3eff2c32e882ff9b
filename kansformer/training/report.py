"""What the loops of this package tell a caller while they run."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StepReport:
    """Where a loop stands after a step.

    Args:
        step: steps done, from 1.
        steps: steps in all.
        loss: of this step when training; of everything so far when evaluating. In nats per token.
        tokens_per_second: since the loop began.
    """

    step: int
    steps: int
    loss: float
    tokens_per_second: float


Progress = Callable[[StepReport], None]
