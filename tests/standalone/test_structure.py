"""Separability and symmetries of functions, networks and samples."""

import pytest
import torch

from kansformer.errors import ConfigError, DataError, ShapeError
from kansformer.kan import KAN, create_dataset
from kansformer.kan.structure import find_separability, find_symmetries


def inputs(count=3):
    return 0.5 + torch.rand(300, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "additive", "multiplicative"),
    [
        (lambda x: x[:, 0] * x[:, 1] + x[:, 2], [[0, 1], [2]], [[0, 1, 2]]),
        (lambda x: x[:, 0].exp() + x[:, 1] + x[:, 2] ** 2, [[0], [1], [2]], [[0, 1, 2]]),
        (lambda x: x[:, 0] / (x[:, 1] + x[:, 2]), [[0, 1, 2]], [[0], [1, 2]]),
        (lambda x: x[:, [0]] * x[:, [1]] / x[:, [2]], [[0, 1, 2]], [[0], [1], [2]]),
        (lambda x: torch.sin(2 * x[:, 0] * x[:, 1] * x[:, 2]), [[0, 1, 2]], [[0, 1, 2]]),
    ],
)
def test_groups(function, additive, multiplicative):
    result = find_separability(function, inputs())
    assert result.additive == additive and result.multiplicative == multiplicative
    assert ("sum of" in str(result)) == (len(additive) > 1)


@pytest.mark.parametrize(
    ("function", "kinds"),
    [
        (lambda x: torch.exp(-((x[:, 0] - x[:, 1]) ** 2)) * x[:, 2], {((0, 1), "difference")}),
        (lambda x: torch.log(x[:, 0] + x[:, 2]) + x[:, 1], {((0, 2), "sum")}),
        (lambda x: torch.sin(x[:, 1] * x[:, 2]) / x[:, 0] ** 2, {((1, 2), "product")}),
        (lambda x: torch.sqrt(1 + (x[:, 0] / x[:, 1]) ** 2) + x[:, 2] ** 3, {((0, 1), "ratio")}),
        (lambda x: x[:, 0] * x[:, 1] ** 2 + x[:, 2], set()),
        (lambda x: x[:, 0], set()),
    ],
)
def test_symmetries(function, kinds):
    assert {(symmetry.inputs, symmetry.kind) for symmetry in find_symmetries(function, inputs())} == kinds


def test_the_order_of_rows_does_not_matter():
    grid = torch.linspace(1, 3, 60, dtype=torch.float64)
    x = torch.cartesian_prod(grid, grid)
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))]
    for table in (x, shuffled):
        result = find_separability(lambda x: x[:, 0] * x[:, 1] ** 2 + torch.sin(x[:, 0] * x[:, 1]), table)
        assert result.additive == result.multiplicative == [[0, 1]]


def test_of_networks_and_of_samples():
    data = create_dataset(lambda x: torch.sin(x[:, [0]] - x[:, [1]]) + x[:, [2]] ** 2, 3, num_train=400)
    model = KAN([3, 4, 1])
    model.fit(data, steps=30, progress=False)
    for given in (model, None):
        assert find_separability(given, data).additive == [[0, 1], [2]]
        closest = find_symmetries(given, data)[0]
        assert str(closest).startswith("difference of inputs 0 and 1")


def test_whole_numbers():
    x = torch.randint(1, 9, (50, 2), generator=torch.Generator().manual_seed(0))
    assert find_separability(lambda x: x[:, 0] ** 2 + x[:, 1], x).additive == [[0], [1]]
    assert [found.inputs for found in find_symmetries(lambda x: (x[:, 0] + x[:, 1]) ** 2, x)]


def test_bad_input():
    x = inputs()
    with pytest.raises(ConfigError, match="tolerance must be a finite number above 0, got 0"):
        find_separability(torch.sum, x, tolerance=0)
    with pytest.raises(ShapeError, match=r"Two samples or more are needed, .* got \(1, 3\)"):
        find_separability(lambda x: x, x[:1])
    with pytest.raises(ShapeError, match="There is no output 3: the function has 3"):
        find_symmetries(lambda x: x, x, output=3)
    with pytest.raises(DataError, match="Without a model, data must have targets"):
        find_symmetries(None, x)
    with pytest.raises(DataError, match="The function is not finite at all samples"):
        find_separability(lambda x: (x[:, 0] - 1).log(), x)
