"""The steps by hand, as the documentation shows them and as pykan's users know them, give the formula from any seed."""

import math
import re
from pathlib import Path

import pytest
import sympy
import torch

from kansformer.kan import KAN, create_dataset

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kan.md"
# The page's steps are fewer, so that a seed of either is one more for both.
SEEDS, SEEDS_OF_PAGE = (1, 2), (0,)
QUIET = {"progress": False}
X_1, X_2 = sympy.symbols("x_1 x_2")


@pytest.fixture(scope="module")
def quickstart():
    return create_dataset(lambda x: torch.exp(torch.sin(math.pi * x[:, [0]]) + x[:, [1]] ** 2), num_inputs=2)


def by_hand(data, width, seed, digits=4):
    network = KAN(width, seed=seed)
    network.fit(data, **QUIET)
    network.sparsify(data)
    network.fit_symbolic(data)
    network.fit(data, **QUIET)
    return network, network.formula(digits=digits)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_steps_with_all_defaults(quickstart, seed):
    network, formulas = by_hand(quickstart, [2, 5, 1], seed)
    assert str(formulas[0]) == "exp(x_2**2 + sin(3.142*x_1))"
    assert [nodes for nodes, products in network.width] == [2, 1, 1]
    error = (network(quickstart.test_input) - quickstart.test_target).square().mean().sqrt()
    assert error < 1e-12


@pytest.mark.parametrize("seed", SEEDS_OF_PAGE)
def test_the_block_of_the_page(quickstart, seed):
    """The block of docs/kan.md runs as it stands, but for the seed."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (block,) = [block for block in blocks if block.startswith("network = KAN([2, 5, 1]")]
    seeded = block.replace("KAN([2, 5, 1]", f"KAN([2, 5, 1], seed={seed}", 1)
    namespace = {"KAN": KAN, "data": quickstart}
    exec(compile(seeded, PAGE.name, "exec"), namespace)  # noqa: S102 - our own text
    network, data = namespace["network"], quickstart
    (formula,) = network.formula(digits=4)
    assert str(formula) == "exp(x_2**2 + sin(3.142*x_1))"
    assert (network(data.test_input) - data.test_target).square().mean().sqrt() < 1e-9


@pytest.mark.parametrize(
    ("width", "function", "expected"),
    [
        ([2, 3, 1], lambda x: torch.sin(2 * x[:, [0]]) + x[:, [1]] ** 2, sympy.sin(2 * X_1) + X_2**2),
        ([2, 3, 1], lambda x: torch.sqrt(x[:, [0]] ** 2 + x[:, [1]] ** 2 + 1), sympy.sqrt(X_1**2 + X_2**2 + 1)),
        ([1, 2, 1], lambda x: torch.exp(-(x**2)), sympy.exp(-(X_1**2))),
    ],
    ids=["a sum", "a root", "one variable"],
)
def test_other_formulas(width, function, expected):
    data = create_dataset(function, num_inputs=width[0], num_train=300)
    for seed in (0, 1):
        network, (formula,) = by_hand(data, width, seed, digits=6)
        points = dict(zip((X_1, X_2), (0.3, -0.7), strict=True))
        assert float(formula.subs(points)) == pytest.approx(float(expected.subs(points)), abs=1e-4)
        assert (network(data.test_input) - data.test_target).square().mean().sqrt() < 1e-9


def test_the_steps_in_noise(quickstart):
    noise = torch.randn(quickstart.train_target.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = quickstart.train_target
    network, (formula,) = by_hand((quickstart.train_input, y + 0.01 * y.std() * noise), [2, 5, 1], 0)
    error = (network(quickstart.test_input) - quickstart.test_target).square().mean().sqrt()
    assert error < 0.01 * y.std()
    assert {f.func for f in formula.atoms(sympy.Function)} == {sympy.exp, sympy.sin}
