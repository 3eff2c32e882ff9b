"""Scaling of columns for a fit, and its inverse on the fitted network.

Shape letters: N samples, I inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.kan.data import Dataset

if TYPE_CHECKING:
    from kansformer.kan.network import KAN


@dataclass(frozen=True)
class Scaling:
    """Inputs run from -1 to 1, targets have mean 0 and standard deviation 1.

    Args:
        middle, half: of the inputs' ranges, (I,); half is 1 for a constant.
        mean, spread: of the targets, (O,); spread is 1 for a constant.
    """

    middle: Tensor
    half: Tensor
    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, data: Dataset) -> Scaling:
        """From the training samples."""
        lower, upper = data.train_input.amin(dim=0), data.train_input.amax(dim=0)
        spread = data.train_target.std(dim=0, correction=0)
        return cls(
            (lower + upper) / 2,
            _or_one((upper - lower) / 2),
            data.train_target.mean(dim=0),
            _or_one(spread),
        )

    def apply(self, data: Dataset) -> Dataset:
        """The samples, scaled."""
        inputs = [(x - self.middle) / self.half for x in (data.train_input, data.test_input)]
        targets = [(y - self.mean) / self.spread for y in (data.train_target, data.test_target)]
        return Dataset(inputs[0], targets[0], inputs[1], targets[1])

    @torch.no_grad()
    def undo(self, model: KAN) -> None:
        """Make a network of scaled columns a network of the columns themselves, in place.

        The network's curves have no base, and its outputs are sums.
        """
        first, last = model.layers[0], model.layers[-1]
        assert first.base == "zero" and not model.width[-1][1]
        first.domain.mul_(self.half.unsqueeze(-1)).add_(self.middle.unsqueeze(-1))
        formulas = model.formulas[0]
        half, middle = self.half[formulas.inputs], self.middle[formulas.inputs]
        formulas.affine[:, 0] /= half
        formulas.affine[:, 1] -= formulas.affine[:, 0] * middle
        last.coefficients.mul_(self.spread)
        last.bias.mul_(self.spread).add_(self.mean)
        formulas = model.formulas[-1]
        formulas.affine[:, 2:] *= self.spread[formulas.outputs_of].unsqueeze(-1)


def _or_one(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, 1.0)
