"""The loop around every optimizer: errors, progress, grids that move, and when to end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.figure import figure_class
from kansformer.nn.grid import move_grids, width_for
from kansformer.progress import Progress

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from kansformer.kan.network import KAN

# Grids move in this share of the steps, so that the last ones fit on fixed grids.
MOVING = 0.6
GRID_MARGIN = 0.05
# A fit ends when this many steps together improve the error by less than the tolerance.
PATIENCE = 4
# Numbers of a Jacobian from which several threads pay.
SHARED_WORK = 2**20


COLUMNS = ("train_error", "test_error", "seconds")


@contextmanager
def few_threads(work: int) -> Iterator[None]:
    """One thread for work that is too small to share: waiting for others would take longer than doing it."""
    before = torch.get_num_threads()
    if work < SHARED_WORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class FitHistory:
    """Errors after every step, and the seconds since the beginning.

    Args:
        train_error, test_error: of training and test samples; the latter are NaN without any.
        seconds: since the fit began.
        stopped: why it ended before its last step, or None.
        measure: the kind of error, `RMSE` or `cross entropy`.
        metrics: the values after every step of the metrics that `fit` was given, by name.
        smoothness: the weight of the curvature, given or chosen.

    Examples:
        >>> from kansformer.kan import KAN
        >>> x = torch.linspace(-1, 1, 50).unsqueeze(-1)
        >>> history = KAN([1, 1]).fit((x, x.sin()), steps=5, progress=False)
        >>> list(history.to_pandas().columns), history.train_error[-1] < 1e-3
        (['train_error', 'test_error', 'seconds'], True)
    """

    train_error: list[float] = field(default_factory=list)
    test_error: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stopped: str | None = None
    measure: str = "RMSE"
    metrics: dict[str, list[float]] = field(default_factory=dict)
    smoothness: float = 0.0

    def __len__(self) -> int:
        return len(self.train_error)

    def __str__(self) -> str:
        end = f" Ended early: {self.stopped}." if self.stopped else ""
        if not len(self):
            return f"No step was made.{end}"
        test = "" if math.isnan(self.test_error[-1]) else f", test {self.test_error[-1]:.3g}"
        return f"{len(self)} steps in {self.seconds[-1]:.2f} s: {self.measure} {self.train_error[-1]:.3g}{test}.{end}"

    def to_pandas(self) -> pandas.DataFrame:
        """One row per step: train_error, test_error, seconds, and the metrics."""
        import pandas

        return pandas.DataFrame({name: vars(self)[name] for name in COLUMNS} | self.metrics)

    def plot(self) -> Figure:
        """Draw the errors by step, and the metrics, dashed, with an axis of their own.

        Raises:
            ConfigError: matplotlib is not installed.
        """
        figure = figure_class()(figsize=(4.2, 3.0), layout="constrained")
        axes = figure.subplots()
        for values, label in ((self.train_error, "train"), (self.test_error, "test")):
            if not all(map(math.isnan, values)):
                axes.semilogy(values, label=label)
        axes.set(xlabel="step", ylabel=self.measure)
        axes.grid(alpha=0.3)
        axes.legend()
        if self.metrics:
            twin = axes.twinx()
            for name, values in self.metrics.items():
                twin.plot(values, "--", label=name)
            twin.legend(loc="lower left")
        return figure


@dataclass
class Run:
    """State shared by the loops of all optimizers: grids move to `points`, (N, I), and `record` logs errors.

    After every step `watch` is called with the history.
    """

    model: KAN
    points: Tensor
    steps: int
    report: Progress
    grid_update_every: int
    tolerance: float
    test: Callable[[], float] | None = None
    history: FitHistory = field(default_factory=FitHistory)
    objectives: list[float] = field(default_factory=list)
    watch: Callable[[FitHistory], None] | None = None
    begin: float = field(default_factory=time.perf_counter)

    def grids_move(self, step: int) -> bool:
        """Whether grids may still move after this step."""
        return bool(self.grid_update_every) and step < MOVING * self.steps

    def update_grids(self, step: int) -> bool:
        """Move the grids if they are due at this step; whether they moved."""
        every = self.grid_update_every
        due = bool(every) and step % every == 0 and step <= MOVING * self.steps
        if due:
            fixed = [layer for layer in self.model.layers if not layer.coefficients.requires_grad]
            before = [(layer.coefficients.detach().clone(), layer.domain.clone()) for layer in fixed]
            move_grids(self.model, self.points, margin=GRID_MARGIN, min_width=width_for(self.model.layers[0].domain))
            with torch.no_grad():
                for layer, (coefficients, domain) in zip(fixed, before, strict=True):
                    layer.coefficients.copy_(coefficients)
                    layer.domain.copy_(domain)
        return due

    @torch.no_grad()
    def record(self, train_error: float, objective: float | None = None) -> bool:
        """Record the errors after a step; whether the fit may end here, by the objective or else by the error."""
        history, test = self.history, float("nan") if self.test is None else self.test()
        history.train_error.append(train_error)
        history.test_error.append(test)
        history.seconds.append(time.perf_counter() - self.begin)
        if self.watch is not None:
            self.watch(history)
        self.report("fit", len(history), self.steps, f"{history.measure} {train_error:.2e}, test {test:.2e}")
        self.objectives.append(train_error if objective is None else objective)
        recent = self.objectives[-PATIENCE - 1 :]
        moving = MOVING * self.steps if self.grid_update_every else 0  # grids that move may raise the error
        settled = len(history) > moving + PATIENCE
        return settled and recent[0] - recent[-1] < self.tolerance * recent[0]
