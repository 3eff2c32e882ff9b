"""Tables of inputs and targets for stand-alone networks.

Shape letters: N samples, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from kansformer.checks import check_integer
from kansformer.errors import ConfigError, DataError, ShapeError

if TYPE_CHECKING:
    from kansformer.kan.network import KAN


@dataclass(frozen=True)
class Dataset:
    """Inputs (N, I) and targets (N, O) to train and to test on; without test samples those are empty."""

    train_input: Tensor
    train_target: Tensor
    test_input: Tensor
    test_target: Tensor

    def __post_init__(self) -> None:
        check_table(self.train_input, self.train_target, "train")
        check_table(self.test_input, self.test_target, "test")

    def like(self, tensor: Tensor) -> Dataset:
        """The samples in a tensor's dtype and on its device."""
        return Dataset(*(own.to(tensor) for own in vars(self).values()))


Table: TypeAlias = Tensor | np.ndarray
Pair: TypeAlias = tuple[Table, Table]
Samples: TypeAlias = Dataset | Pair | Iterable[Pair]
"""Samples to fit a network to: a data set, inputs and targets, or an iterable of these, such as a DataLoader."""


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
    check_integer("num_inputs", num_inputs, 1)
    check_integer("num_train", num_train, 1)
    check_integer("num_test", num_test, 0)
    pairs = torch.tensor(ranges, dtype=torch.float64)
    if pairs.shape == (2,):
        pairs = pairs.expand(num_inputs, 2)
    if pairs.shape != (num_inputs, 2) or not (pairs[:, 0] < pairs[:, 1]).all():
        raise ConfigError(f"ranges must be one (lower, upper) for all {num_inputs} inputs or one for each.")
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(num_train + num_test, num_inputs, generator=generator, dtype=torch.float64)
    x = (pairs[:, 0] + (pairs[:, 1] - pairs[:, 0]) * unit).to(dtype)
    y = function(x)
    y = (y.unsqueeze(-1) if y.ndim == 1 else y).to(dtype)
    return Dataset(x[:num_train], y[:num_train], x[num_train:], y[num_train:])


def as_dataset(data: Samples) -> Dataset:
    """Samples of any accepted kind as a `Dataset`.

    Raises:
        ShapeError, DataError: there are none, or they are not finite tables of inputs and targets.
    """
    if not isinstance(data, Dataset):
        pairs = [(torch.as_tensor(x), torch.as_tensor(y)) for x, y in ([data] if is_pair(data) else data)]
        if not pairs:
            raise DataError("There are no samples to train on.")
        x, y = (torch.cat(column) for column in zip(*pairs, strict=True))
        check_table(x, y, "train")
        data = Dataset(x, y, x[:0], y[:0])
    if not len(data.train_input):
        raise DataError("There are no samples to train on.")
    return data


def dataset_for(model: KAN, data: Samples) -> Dataset:
    """Samples as a `Dataset` in a network's dtype and on its device.

    Raises:
        ShapeError, DataError: they do not fit the network, or are not finite.
    """
    data = as_dataset(data)
    inputs, outputs = sum(model.width[0]), sum(model.width[-1])
    if data.train_input.shape[1] != inputs or data.train_target.shape[1] != outputs:
        raise ShapeError(
            f"The network has {inputs} inputs and {outputs} outputs, the samples {data.train_input.shape[1]} and "
            f"{data.train_target.shape[1]}."
        )
    return data.like(model.layers[0].weight)


def inputs_and_targets(model: KAN, data: Samples | Table) -> tuple[Tensor, Tensor | None]:
    """Training inputs (N, I) and targets (N, O), None if `data` is a table of inputs, as `dataset_for` returns them."""
    if isinstance(data, (Tensor, np.ndarray)):
        return check_inputs(model, data), None
    dataset = dataset_for(model, data)
    return dataset.train_input, dataset.train_target


def inputs_of(model: KAN, data: Samples | Table) -> Tensor:
    """The training inputs in `data`, or `data` itself if it is a table of inputs."""
    return inputs_and_targets(model, data)[0]


def is_pair(data: object) -> bool:
    """Whether data is one pair of inputs and targets rather than an iterable of pairs."""
    return isinstance(data, (tuple, list)) and len(data) == 2 and not any(isinstance(d, (tuple, list)) for d in data)


def variable_names(names: Sequence[str] | None, default: Sequence[str], kind: str) -> list[str]:
    """Names of a network's inputs or outputs, or the default ones.

    Raises:
        ConfigError: there is not one for each.
    """
    if names is None:
        return list(default)
    if len(names) != len(default):
        raise ConfigError(f"The network has {len(default)} {kind}, and {len(names)} names were given: {list(names)}.")
    return list(names)


def check_inputs(model: KAN, x: Table) -> Tensor:
    """Inputs as a network takes them: a finite table (N, I) with at least one row, in its dtype and on its device.

    Raises:
        ShapeError, DataError: they are not such a table.
    """
    x = torch.as_tensor(x).to(model.layers[0].weight)
    inputs = sum(model.width[0])
    if x.ndim != 2 or x.shape[1] != inputs:
        raise ShapeError(f"The network has {inputs} inputs, so x must be (samples, {inputs}), got {tuple(x.shape)}.")
    if not len(x):
        raise DataError("There are no samples.")
    _check_finite(x, "inputs")
    return x


def check_table(x: Tensor, y: Tensor, name: str) -> None:
    """Check that inputs and targets are two finite tables with a row for each sample.

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
            f"The {name} inputs and targets must be tables (samples, inputs) and (samples, outputs) with the same "
            f"number of rows, got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    _check_finite(x, f"{name} inputs")
    _check_finite(y, f"{name} targets")


def check_squares(values: Tensor, what: str) -> None:
    """Check that the sum of the squares of values is finite.

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
