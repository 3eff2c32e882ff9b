"""Columns as the estimators for scikit-learn see them: scaled to their ranges.

Shape letters: N samples, I inputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Values that differ by less than this share of the largest are one value, rounded.
ROUNDING = 10 * np.finfo(np.float64).eps
# A column's range is too wide if it is this many times that without one in 100 rows on each side.
MANY_ROWS, FAR = 100, 10.0


@dataclass(frozen=True)
class ScaledInputs:
    """How inputs are scaled: (x - center) / reach, each (I,), cut off at -1 and 1."""

    center: np.ndarray
    reach: np.ndarray

    @classmethod
    def of(cls, x_NI: np.ndarray) -> ScaledInputs:
        lower_I, upper_I = x_NI.min(axis=0), x_NI.max(axis=0)
        # Halved first: the difference of the largest numbers is infinite.
        return cls(upper_I / 2 + lower_I / 2, np.where(varies(x_NI), upper_I / 2 - lower_I / 2, np.inf))

    def scaled(self, x_NI: np.ndarray) -> Tensor:
        return torch.from_numpy(np.clip((x_NI - self.center) / self.reach, -1, 1))


def varies(columns: np.ndarray) -> np.ndarray:
    """Mask of the columns whose values differ by more than rounding."""
    return _half_range(columns) > ROUNDING / 2 * np.abs(columns).max(axis=0)


def warn_of_far_values(x_NI: np.ndarray, names: Sequence[str] | None) -> None:
    """Warn where a few values are so far from all others that these share a few knots of a curve; to be called by what
    a `fit` calls."""
    cut = len(x_NI) // MANY_ROWS
    if not cut:
        return
    inner = np.sort(x_NI, axis=0)[cut : len(x_NI) - cut]
    share_I = np.divide(_half_range(inner), _half_range(x_NI), out=np.ones(x_NI.shape[1]), where=varies(inner))
    column = int(share_I.argmin())
    if share_I[column] * FAR < 1:
        warnings.warn(
            f"All but a few values of column {column if names is None else repr(names[column])} lie in "
            f"{share_I[column]:.2g} of its range, where the curves have few knots. Take out values that are errors, or "
            "transform the column, for instance by its logarithm or sklearn.preprocessing.QuantileTransformer.",
            stacklevel=4,
        )


def _half_range(columns: np.ndarray) -> np.ndarray:
    return columns.max(axis=0) / 2 - columns.min(axis=0) / 2
