"""Tables of inputs and targets for stand-alone networks.

Shape letters: N samples, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kansformer.errors import ConfigError, DataError, ShapeError


@dataclass(frozen=True)
class Dataset:
    """Inputs (N, I) and targets (N, O) to train and to test on; without test samples those are empty."""

    train_input: Tensor
    train_target: Tensor
    test_input: Tensor
    test_target: Tensor

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            check_table(getattr(self, f"{part}_input"), getattr(self, f"{part}_target"), part)

    def like(self, tensor: Tensor) -> Dataset:
        """The samples in a tensor's dtype and on its device."""
        return Dataset(*(own.to(tensor) for own in vars(self).values()))


def create_dataset(
    function: Callable[[Tensor], Tensor],
    num_inputs: int,
    *,
    num_train: int = 1000,
    num_test: int = 1000,
    ranges: tuple[float, float] | Sequence[tuple[float, float]] = (-1.0, 1.0),
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Dataset:
    """Sample a function at random points; torch's global random state is left alone.

    Args:
        function: from (N, I) to (N, O) or (N,).
        num_inputs: I.
        num_train, num_test: samples.
        ranges: of all inputs, or one pair for each.
        seed: of the points.
        dtype: of all tensors.

    Raises:
        ConfigError: a range or a number is impossible.
        DataError: the function is not finite somewhere.
    """
    pairs = torch.tensor(ranges, dtype=torch.float64)
    if pairs.shape == (2,):
        pairs = pairs.expand(num_inputs, 2)
    if num_inputs < 1 or num_train < 1 or num_test < 0:
        raise ConfigError(
            f"There must be 1 input and 1 training sample or more, got {num_inputs} inputs, {num_train} training and "
            f"{num_test} test samples."
        )
    if pairs.shape != (num_inputs, 2) or not (pairs[:, 0] < pairs[:, 1]).all():
        raise ConfigError(f"ranges must be one (lower, upper) for all {num_inputs} inputs or one for each.")
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(num_train + num_test, num_inputs, generator=generator, dtype=torch.float64)
    x = (pairs[:, 0] + (pairs[:, 1] - pairs[:, 0]) * unit).to(dtype)
    y = function(x)
    y = (y.unsqueeze(-1) if y.ndim == 1 else y).to(dtype)
    return Dataset(x[:num_train], y[:num_train], x[num_train:], y[num_train:])


def check_inputs(model: Any, x: Any) -> Tensor:
    """Inputs as a network takes them: a finite table (N, I) with a row, in its dtype and on its device.

    Raises:
        ShapeError, DataError: they are not such a table.
    """
    weight = model.layers[0].weight
    x = torch.as_tensor(x).to(weight)
    inputs = sum(model.width[0])
    if x.ndim != 2 or x.shape[1] != inputs:
        raise ShapeError(f"The network has {inputs} inputs, so x must be (samples, {inputs}), got {tuple(x.shape)}.")
    if not len(x):
        raise DataError("There are no samples.")
    _check_finite(x, "inputs")
    return x


def check_table(x: Tensor, y: Tensor, name: str) -> None:
    """See that inputs and targets are two finite tables with a row for each sample.

    Raises:
        ShapeError, DataError: they are not.
    """
    if y.ndim == 1:
        raise ShapeError(
            f"The {name} targets have the shape {tuple(y.shape)}, which would be read as one sample. "
            "Give them a column: targets.unsqueeze(-1); labels of classes are torch.nn.functional.one_hot(targets)."
        )
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ShapeError(
            f"The {name} inputs and targets must be tables (samples, inputs) and (samples, outputs) with as many rows, "
            f"got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    _check_finite(x, f"{name} inputs")
    _check_finite(y, f"{name} targets")


def check_squares(values: Tensor, what: str) -> None:
    """See that the sum of the squares of values is finite.

    Raises:
        DataError: it is not.
    """
    if not values.square().sum().isfinite():
        largest = float(values.abs().max())
        raise DataError(f"The {what} reach {largest:.3g}, whose squares are too large for {values.dtype}. Scale them.")


def _check_finite(values: Tensor, what: str) -> None:
    bad = ~values.isfinite()
    if bad.any():
        row, column = bad.nonzero()[0].tolist()
        raise DataError(f"The {what} are not finite in row {row}, column {column}: {values[row, column]}.")
