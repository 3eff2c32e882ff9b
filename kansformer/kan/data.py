"""Tables of inputs and targets for stand-alone networks.

Shape letters: N samples, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from kansformer.checks import check_integer, check_seed
from kansformer.errors import ConfigError, DataError, ShapeError
from kansformer.kan.names import given_names, symbol_name

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

# Of a box around samples: how far it reaches beyond them, in ranges; random points in it; and inputs up to which all
# corners are points.
BOX_MARGIN, BOX_POINTS, MAX_CORNERS = 0.01, 200, 8


@dataclass(frozen=True)
class Dataset:
    """Inputs and targets to train and to test on.

    Args:
        train_input: (N, I).
        train_target: (N, O), or (N,) for one output.
        test_input, test_target: the same for other samples, or empty tables of I and O columns.

    Raises:
        ShapeError: they are not tables, or not of the same number of rows.
        DataError: a number is not finite.

    Examples:
        >>> from kansformer.kan import KAN, Dataset
        >>> x = torch.linspace(-1, 1, 50).unsqueeze(-1)
        >>> data = Dataset(x[::2], x[::2].sin(), x[1::2], x[1::2].sin())
        >>> KAN([1, 1]).fit(data, steps=5, progress=False).test_error[-1] < 1e-3
        True
    """

    train_input: Tensor
    train_target: Tensor
    test_input: Tensor
    test_target: Tensor

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            object.__setattr__(self, name, tensor_of(values, name.replace("_", " ") + "s"))
        for name in ("train", "test"):
            x, y = vars(self)[f"{name}_input"], vars(self)[f"{name}_target"]
            if x.ndim == 2 and y.ndim == 1:
                y = y.unsqueeze(-1)
                object.__setattr__(self, f"{name}_target", y)
            if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
                raise ShapeError(
                    f"The {name} inputs and targets must be tables (samples, inputs) and (samples, outputs) with the "
                    f"same number of rows, got {tuple(x.shape)} and {tuple(y.shape)}."
                )
            _check_finite(x, f"{name} inputs")
            _check_finite(y, f"{name} targets")

    def like(self, tensor: Tensor) -> Dataset:
        """The samples in a tensor's dtype and on its device, without the graph that made them."""
        return Dataset(*(own.detach().to(tensor) for own in vars(self).values()))


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
        (lower, upper), y = data.train_input.aminmax(dim=0), data.train_target
        sizes = ((upper - lower) / 2, y.std(dim=0, correction=0))
        half, spread = (torch.where(size > 0, size, 1.0) for size in sizes)
        return cls((lower + upper) / 2, half, y.mean(dim=0), spread)

    def apply(self, data: Dataset) -> Dataset:
        """The samples, scaled."""
        x, y, test_x, test_y = vars(data).values()
        middle, half, mean, spread = vars(self).values()
        return Dataset((x - middle) / half, (y - mean) / spread, (test_x - middle) / half, (test_y - mean) / spread)

    @torch.no_grad()
    def undo(self, model: KAN) -> None:
        """Make a network of scaled columns, without bases and products at the end, one of the columns, in place."""
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

    Returns:
        The samples; test samples are other points of the same ranges.

    Raises:
        ConfigError: a range or a number is impossible.
        DataError: the function is not finite somewhere.

    Examples:
        >>> from kansformer.kan import create_dataset
        >>> data = create_dataset(lambda x: x[:, 0] * x[:, 1], num_inputs=2, num_train=100, num_test=20, ranges=(0, 3))
        >>> data.train_input.shape, data.train_target.shape, data.test_input.shape
        (torch.Size([100, 2]), torch.Size([100, 1]), torch.Size([20, 2]))
    """
    check_integer("num_inputs", num_inputs, 1)
    check_integer("num_train", num_train, 1)
    check_integer("num_test", num_test, 0)
    range_I2 = torch.tensor(ranges, dtype=torch.float64, device="cpu")
    if range_I2.shape == (2,):
        range_I2 = range_I2.expand(num_inputs, 2)
    if range_I2.shape != (num_inputs, 2) or not (range_I2[:, 0] < range_I2[:, 1]).all():
        raise ConfigError(f"ranges must be one (lower, upper) for all {num_inputs} inputs or one for each.")
    x = random_points(range_I2, num_train + num_test, seed).to(dtype)
    y = function(x)
    y = (y.unsqueeze(-1) if y.ndim == 1 else y).to(dtype)
    return Dataset(x[:num_train], y[:num_train], x[num_train:], y[num_train:])


def random_points(range_I2: Tensor, count: int, seed: int) -> Tensor:
    """Random points in ranges, (N, I), float64."""
    generator = torch.Generator().manual_seed(check_seed(seed))
    unit_NI = torch.rand(count, len(range_I2), generator=generator, dtype=torch.float64, device="cpu")
    return range_I2[:, 0] + (range_I2[:, 1] - range_I2[:, 0]) * unit_NI


def even_points(range_I2: Tensor, count: int) -> Tensor:
    """Evenly spaced points from end to end of ranges, (I, N)."""
    unit_N = torch.linspace(0, 1, count, dtype=range_I2.dtype, device=range_I2.device)
    return range_I2[:, :1] + (range_I2[:, 1:] - range_I2[:, :1]) * unit_N


def points_around(x: Tensor) -> Tensor:
    """The corners of a box a little larger than samples (N, I), for few inputs, and random points in it."""
    lower, upper = x.aminmax(dim=0)
    ends = torch.stack([lower, upper]) + BOX_MARGIN * (upper - lower) * x.new_tensor([[-1.0], [1.0]])
    inside = random_points(ends.T.double().cpu(), BOX_POINTS, seed=0).to(x)
    if x.shape[1] > MAX_CORNERS:
        return torch.cat([ends, inside])
    return torch.cat([torch.cartesian_prod(*ends.T).reshape(-1, x.shape[1]), inside])


def as_dataset(data: Samples) -> Dataset:
    """Samples of any accepted kind as a `Dataset`; a ShapeError or DataError if they are not finite tables."""
    if isinstance(data, Mapping):
        data = of_mapping(data)
    if isinstance(data, TensorDataset):
        data = cast("Pair", data.tensors)
    if not isinstance(data, Dataset):
        pairs = list(map(_tensors, [data] if is_pair(data) else data))
        if not pairs:
            raise DataError("There are no samples to train on.")
        x, y = (torch.cat(column) for column in zip(*pairs, strict=True))
        data = Dataset(x, y, x[:0], y[:0])
    if not len(data.train_input):
        raise DataError("There are no samples to train on.")
    return data


def of_mapping(data: Mapping[str, object]) -> Dataset:
    """The samples in a dictionary with pykan's keys; a DataError if it has others."""
    names = ("train_input", "train_label", "test_input", "test_label")
    if not {*names[:2]} <= {*data} <= {*names}:
        raise DataError(f"A dictionary of samples has pykan's keys, {', '.join(names)}; got {list(data)!r:.200}.")
    tensors = {name: tensor_of(values, name.replace("_", " ")) for name, values in data.items()}
    x, y = tensors["train_input"], tensors["train_label"]
    return Dataset(x, y, tensors.get("test_input", x[:0]), tensors.get("test_label", y[:0]))


def _tensors(pair: object) -> tuple[Tensor, Tensor]:
    try:
        x, y = cast("Pair", pair)
    except (TypeError, ValueError):
        raise DataError(
            "Samples are a Dataset, a pair (inputs, targets) of tensors or arrays, or an iterable of such pairs; "
            f"got {type(pair).__name__} in place of a pair. Lists of numbers become an array by numpy.asarray."
        ) from None
    return tensor_of(x, "inputs"), tensor_of(y, "targets")


def tensor_of(values: object, what: str) -> Tensor:
    """A tensor of the numbers in an array, data frame or nested list.

    Raises:
        DataError: one is not a number.
    """
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.dtype.kind in "mM":
        raise DataError(
            f"The {what} are dates or times. Give numbers, such as days: (dates - dates.min()) / "
            "pandas.Timedelta('1d')."
        )
    if array.dtype.kind in "biuf" and array.dtype.itemsize <= 8:
        return torch.as_tensor(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    if array.dtype.kind == "c":
        raise DataError(f"The {what} must be real numbers, got {array.dtype}.")
    try:
        return torch.as_tensor(array.astype(np.float64))
    except (TypeError, ValueError):
        place, value = next(
            (place, value) for place, value in np.ndenumerate(array) if not isinstance(value, (int, float))
        )
        raise DataError(
            f"The {what} must be numbers, got {value!s:.40} at {[*map(int, place)]}. Labels of classes are columns of "
            "torch.nn.functional.one_hot(numbers); KANClassifier takes texts as they are."
        ) from None


def dataset_for(model: KAN, data: Samples) -> Dataset:
    """Samples as a `Dataset` in a network's dtype and on its device; a ShapeError if they do not fit the network."""
    data = as_dataset(data)
    inputs, outputs = sum(model.width[0]), sum(model.width[-1])
    if data.train_input.shape[1] != inputs or data.train_target.shape[1] != outputs:
        raise ShapeError(
            f"The network has {inputs} inputs and {outputs} outputs, the samples {data.train_input.shape[1]} and "
            f"{data.train_target.shape[1]}. Labels of classes are columns of torch.nn.functional.one_hot(labels)."
        )
    return data.like(model.layers[0].weight)


def inputs_and_targets(model: KAN, data: Samples | Table) -> tuple[Tensor, Tensor | None]:
    """Training inputs (N, I) and targets (N, O) as of `dataset_for`; no targets if `data` is a table of inputs."""
    if not hasattr(data, "__array__"):  # a tensor, an array or a data frame has
        dataset = dataset_for(model, data)
        return dataset.train_input, dataset.train_target
    x, inputs = tensor_of(data, "inputs").to(model.layers[0].weight), sum(model.width[0])
    if x.ndim != 2 or x.shape[1] != inputs:
        raise ShapeError(f"The network has {inputs} inputs, so x must be (samples, {inputs}), got {tuple(x.shape)}.")
    if not len(x):
        raise DataError("There are no samples.")
    _check_finite(x, "inputs")
    return x, None


def inputs_of(model: KAN, data: Samples | Table) -> Tensor:
    """The training inputs in `data`, or `data` itself if it is a table of inputs."""
    return inputs_and_targets(model, data)[0]


def is_pair(data: object) -> bool:
    """Whether data is one pair of inputs and targets rather than an iterable of pairs."""
    return isinstance(data, (tuple, list)) and len(data) == 2 and not any(isinstance(d, (tuple, list)) for d in data)


def column_names(data: object) -> list[str] | None:
    """The names of the inputs in a pair whose first is a data frame, if they can be those of variables."""
    columns = getattr(data[0], "columns", None) if isinstance(data, (tuple, list)) and is_pair(data) else None
    names = None if columns is None else list(columns)
    can_be_variables = names and all(isinstance(name, str) and name.isidentifier() for name in names)
    return names if names and can_be_variables and len(set(names)) == len(names) else None


def variable_names(names: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    """Names of a network's inputs as symbols of formulas; a ConfigError if there is not one for each."""
    symbols = [symbol_name(name) for name in given_names(names, default, "inputs")]
    if len(set(symbols)) < len(symbols):
        raise ConfigError(f"Two inputs would have one name: {symbols}.")
    return symbols


def check_squares(values: Tensor, what: str) -> None:
    """Check that the sum of the squares of values is finite, or raise a DataError."""
    if not values.square().sum().isfinite():
        largest = float(values.abs().max())
        raise DataError(f"The {what} reach {largest:.3g}, whose squares are too large for {values.dtype}. Scale them.")


def _check_finite(values: Tensor, what: str) -> None:
    bad = ~values.isfinite()
    if bad.any():
        row, column = bad.nonzero()[0].tolist()
        raise DataError(f"The {what} are not finite in row {row}, column {column}: {values[row, column]}.")
