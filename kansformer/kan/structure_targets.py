"""The transformations of a target that one linear fit tries together.

Shape letters: N samples, R transformed targets.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from kansformer.kan.structures import TRANSFORMATIONS, Column, Structure, cost_of, operations_in


class Targets:
    """The transformed targets of structures, and the errors of fits of them.

    Args:
        structures: of which the transformations, factors and signs matter.
        y: the target, (N,).
    """

    def __init__(self, structures: Sequence[Structure], y: Tensor) -> None:
        alone = [replace(structure, columns=(), product=None) for structure in structures]
        self.structures, self._y = sorted(alone, key=_place), y
        self._deviation = float(y.std(correction=0)) or 1.0
        groups = itertools.groupby(self.structures, key=lambda s: s.transformation)
        self._groups = [(transformation, len(list(group))) for transformation, group in groups]
        self.values_NR = torch.stack([structure.target(y) for structure in self.structures], dim=1)
        self._lower_R, self._upper_R = self.values_NR.aminmax(dim=0)
        self._sign_R = y.new_tensor([structure.sign for structure in self.structures])
        factors = [structure.factor for structure in self.structures]
        ones = torch.ones_like(y)
        self._factor_RN = torch.stack([ones if f is None else f.values for f in factors]) if any(factors) else None

    @cached_property
    def weights(self) -> Tensor:
        """Errors of targets for one of the transformed ones, (N, R)."""
        return torch.stack([structure.weights(self._y) for structure in self.structures], dim=1)

    def errors(self, fitted_NR: Tensor, numbers: int) -> list[float]:
        """RMSE of fits of the transformed targets, as by cross-validation (Golub et al., 1979), relative."""
        fitted_RN = fitted_NR.clamp(self._lower_R, self._upper_R).mT.contiguous()
        sizes = [number for _, number in self._groups]
        parts = [
            transformation.inverse(part)
            for (transformation, _), part in zip(self._groups, fitted_RN.split(sizes), strict=True)
        ]
        values_RN = torch.cat(parts) * self._sign_R.unsqueeze(-1)
        if self._factor_RN is not None:
            values_RN = values_RN / self._factor_RN
        squares = (values_RN - self._y).square().mean(dim=1).tolist()
        scale = len(self._y) / max(len(self._y) - numbers, 1) / self._deviation
        return [square**0.5 * scale if math.isfinite(square) else math.inf for square in squares]

    def ranked(self, columns: tuple[Column, ...], errors: Sequence[float], count: int | None = None) -> list[Structure]:
        """The structures with these columns and errors that are finite, at most this number, the lowest cost first."""
        operations = operations_in(columns)
        costs = [cost_of(e, operations + s.other_operations) for s, e in zip(self.structures, errors, strict=True)]
        best = sorted((n for n, error in enumerate(errors) if math.isfinite(error)), key=costs.__getitem__)[:count]
        return [replace(self.structures[n], columns=columns, error=errors[n]) for n in best]


def _place(structure: Structure) -> int:
    return TRANSFORMATIONS.index(structure.transformation)
