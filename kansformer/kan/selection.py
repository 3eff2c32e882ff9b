"""Choice of a network's hidden layers, smoothness, sparsity and grid by cross-validation.

Simple settings come first. Another one is taken only if it is better on rows that were left out, by more than the
standard error of the differences row by row, so that few or noisy rows get a smooth and small network.

Shape letters: N samples, O outputs, P parameters.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kansformer.checks import check_seed
from kansformer.kan.data import Dataset
from kansformer.kan.init import restart
from kansformer.kan.linearize import layer_features
from kansformer.kan.penalties import bending
from kansformer.nn import KANLinear

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

Hidden: TypeAlias = tuple[int | Sequence[int], ...]

# Rows that are judged on at most, folds of up to FEW_ROWS rows and of more, and rows from which it is worth it.
MAX_ROWS, FEW_ROWS, FOLDS, FOLDS_OF_MANY, MIN_ROWS = 2000, 1000, 5, 3, 10
# Rows from which hidden nodes are tried, and the most parameters for a target, and multiplications in a step, N·P².
MIN_ROWS_OF_HIDDEN, MAX_PARAMETERS, MAX_WORK = 40, 3, 2e9
# All of them are tried where that is fast; else every other one from SMOOTHEST on, as long as that helps.
SMOOTHNESS = tuple(10 ** (-exponent / 2) for exponent in range(13))
SMOOTHEST = 2
# Finer grids are tried at this smoothness and below.
ROUGH = 1e-3
# Larger networks must be better by this number of standard errors, other settings by one.
CERTAIN = 2.0
# An error that no larger network has to improve.
NEGLIGIBLE = 1e-2
RIDGE = 1e-10


@dataclass(frozen=True)
class Setting:
    """The values that are chosen; `sparsity` is the weight of the edges' sizes."""

    hidden: Hidden
    grid_size: int
    smoothness: float
    sparsity: float


@dataclass(frozen=True)
class Choices:
    """The values to choose from, simplest first: hidden layers, grids, smoothness and sparsity."""

    hidden: Sequence[Hidden]
    grids: Sequence[int]
    smoothness: Sequence[float]
    sparsity: Sequence[float]

    @property
    def first(self) -> Setting:
        """The simplest setting."""
        return Setting(self.hidden[0], self.grids[0], self.smoothness[0], self.sparsity[0])

    @property
    def several(self) -> bool:
        """Whether there is anything to choose."""
        return any(len(values) > 1 for values in vars(self).values())


def make_folds(x: Tensor, y: Tensor, seed: int) -> list[Dataset]:
    """Samples to fit to and to judge on, of up to MAX_ROWS rows.

    Every fold has the same share of large and small targets, or of the classes; equal rows are in the same fold.
    """
    generator = torch.Generator().manual_seed(check_seed(seed))
    rows = torch.randperm(len(x), generator=generator, device="cpu")[:MAX_ROWS]
    x, y = x[rows], y[rows]
    count = FOLDS if y.shape[1] == 1 and len(x) <= FEW_ROWS else FOLDS_OF_MANY
    distinct, group_N = torch.cat([x, y], dim=1).unique(dim=0, return_inverse=True)
    if len(distinct) < MIN_ROWS:  # a table of few categories
        distinct, group_N = torch.cat([x, y], dim=1), torch.arange(len(x))
    targets = distinct[:, x.shape[1] :]
    key = targets[:, 0] if y.shape[1] == 1 else targets.argmax(dim=1)
    fold_of = torch.empty(len(distinct), dtype=torch.long)
    for block in key.cpu().argsort(stable=True).split(count):
        fold_of[block] = torch.randperm(count, generator=generator, device="cpu")[: len(block)]
    fold_N = fold_of[group_N.cpu()]
    return [Dataset(x[fold_N != k], y[fold_N != k], x[fold_N == k], y[fold_N == k]) for k in range(count)]


class Search:
    """Settings of a network, judged on rows that were left out.

    Args:
        folds: samples to fit to and to judge on.
        make: makes a network with first coefficients.
        fit: fits a network to samples.
        loss: `mse` or `cross_entropy`.
        linear: whether networks without hidden layers are linear in their parameters, which is fast.
    """

    def __init__(
        self,
        folds: Sequence[Dataset],
        make: Callable[[Setting], KAN],
        fit: Callable[[KAN, Dataset, Setting], None],
        loss: str,
        linear: bool,
    ) -> None:
        self.folds, self.make, self.fit, self.loss, self.linear = folds, make, fit, loss, linear
        self._errors: dict[Setting, Tensor] = {}

    def errors(self, setting: Setting) -> Tensor:
        """The squared error or cross entropy of every row by a network that was fitted without it, (N,)."""
        if setting not in self._errors:
            if self.linear and not setting.hidden and not setting.sparsity:
                self._judge_additive(setting)
            else:
                self._errors[setting] = torch.cat([self._errors_of_fold(setting, fold) for fold in self.folds])
        return self._errors[setting]

    def mean(self, setting: Setting) -> float:
        """The mean error of all rows, infinite instead of NaN."""
        mean = self.errors(setting).mean().item()
        return mean if math.isfinite(mean) else math.inf

    def is_better(self, setting: Setting, than: Setting, by: float = 1.0) -> bool:
        """Whether errors are smaller by more than this multiple of the standard error of their difference."""
        less_N = self.errors(than) - self.errors(setting)
        if not less_N.isfinite().all():
            return bool(self.errors(setting).isfinite().all())
        return less_N.mean().item() > by * less_N.std().item() * len(less_N) ** -0.5

    def choose(self, choices: Choices) -> Setting:
        """The best setting."""
        candidates: list[Setting] = []
        for hidden in choices.hidden:
            if candidates and (self.mean(candidates[-1]) < NEGLIGIBLE or not self._is_affordable(hidden, choices)):
                break
            candidates.append(self._of_size(hidden, choices))
            if len(candidates) > 1 and self.mean(candidates[-1]) >= self.mean(candidates[-2]):
                break
        best = self._simplest(candidates, CERTAIN)
        for grid_size in choices.grids[1:] if best.smoothness <= ROUGH else ():
            finer = replace(best, grid_size=grid_size)
            if not self.is_better(finer, best):
                break
            best = finer
        return best

    def _of_size(self, hidden: Hidden, choices: Choices) -> Setting:
        """The best setting of a network with given hidden layers."""

        def at(smoothness: float) -> Setting:
            return Setting(hidden, choices.grids[0], smoothness, choices.sparsity[0])

        if self.linear and not hidden:
            tried = [at(smoothness) for smoothness in choices.smoothness]
        else:
            coarse = choices.smoothness[SMOOTHEST::2] or choices.smoothness
            tried = self._downhill([at(smoothness) for smoothness in coarse])
        best = self._simplest(tried)
        for sparsity in choices.sparsity[1:]:
            sparser = replace(best, sparsity=sparsity)
            if self.mean(sparser) >= self.mean(best):
                break
            best = sparser
        return best

    def _downhill(self, settings: list[Setting]) -> list[Setting]:
        """Those of several settings in a row that are on the way from the second to one without better neighbours."""
        first = last = min(1, len(settings) - 1)
        while last + 1 < len(settings) and self.mean(settings[last + 1]) < self.mean(settings[last]):
            last += 1
        while last == 1 and first and self.mean(settings[first - 1]) < self.mean(settings[first]):
            first -= 1
        return settings[first : last + 1]

    def _simplest(self, settings: list[Setting], by: float = 1.0) -> Setting:
        """The first of several that the best one of them is not better than."""
        best = min(settings, key=self.mean)
        return next(setting for setting in settings if setting == best or not self.is_better(best, setting, by))

    def _is_affordable(self, hidden: Hidden, choices: Choices) -> bool:
        (rows, outputs), model = self.folds[0].train_target.shape, self.make(replace(choices.first, hidden=hidden))
        parameters = sum(p.numel() for p in model.parameters())
        few = rows < MIN_ROWS_OF_HIDDEN or parameters > MAX_PARAMETERS * rows * outputs
        return not few and rows * parameters**2 <= MAX_WORK

    def _errors_of_fold(self, setting: Setting, fold: Dataset) -> Tensor:
        model, nothing = self.make(setting), (fold.test_input[:0], fold.test_target[:0])
        self.fit(model, Dataset(fold.train_input, fold.train_target, *nothing), setting)
        return self._loss_of_rows(model.predict(fold.test_input), fold.test_target)

    def _loss_of_rows(self, outputs_NO: Tensor, target_NO: Tensor) -> Tensor:
        if self.loss == "cross_entropy":
            return cross_entropy(outputs_NO, target_NO, reduction="none")
        return (outputs_NO - target_NO).square().mean(dim=1)

    def _judge_additive(self, setting: Setting) -> None:
        """Errors without hidden layers at every smoothness, by linear equations."""
        model = self.make(setting)
        outputs = len(model.layers[0].bias)
        per_smoothness = [replace(setting, smoothness=s) for s in SMOOTHNESS]
        if setting not in per_smoothness:
            per_smoothness.append(setting)
        bent = bending(model.layers[0])
        quadratic = torch.block_diag(*bent, bent.new_zeros(1, 1))  # the bias costs nothing
        parts: dict[Setting, list[Tensor]] = {each: [] for each in per_smoothness}
        for fold in self.folds:
            rows_NP, test_NP = (_columns(model.layers[0], x) for x in (fold.train_input, fold.test_input))
            matrix, right_PO = rows_NP.mT @ rows_NP / len(rows_NP), rows_NP.mT @ fold.train_target / len(rows_NP)
            ridge = RIDGE * torch.eye(len(matrix)).to(matrix)
            for each in per_smoothness:
                total = matrix + outputs * each.smoothness * quadratic + ridge
                factor, failed = torch.linalg.cholesky_ex(total)
                predicted = test_NP @ torch.cholesky_solve(right_PO, factor)
                errors_N = self._loss_of_rows(predicted, fold.test_target)
                parts[each].append(errors_N + math.inf if failed else errors_N)
        self._errors.update({each: torch.cat(errors) for each, errors in parts.items()})


def choose_smoothness(model: KAN, data: Dataset, fit: Callable[[KAN, Dataset, Setting], None], loss: str) -> float:
    """The best smoothness of a network, judged on copies with new first coefficients; formulas start as they are."""
    if len(data.train_input) < MIN_ROWS:
        return SMOOTHNESS[0]

    def make(setting: Setting) -> KAN:
        trial = copy.deepcopy(model)
        restart(trial, 0)
        return trial

    folds = make_folds(data.train_input, data.train_target, seed=0)
    choices = Choices(hidden=[()], grids=[0], smoothness=SMOOTHNESS, sparsity=[0.0])
    return Search(folds, make, fit, loss, linear=False).choose(choices).smoothness


@torch.no_grad()
def _columns(layer: KANLinear, x: Tensor) -> Tensor:
    """What a layer's outputs are linear combinations of, (N, P)."""
    return torch.cat([layer_features(layer, x)[0].flatten(1), x.new_ones(len(x), 1)], dim=1)
