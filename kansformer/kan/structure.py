"""Tests of a function's structure: sums and products of groups of variables, and symmetries of pairs.

    from kansformer.kan.structure import find_separability, find_symmetries

    find_separability(model, data)  # x_1 | x_2, x_3 as a sum
    find_symmetries(model, data)    # depends on x_1 - x_2 only

They are judged at the samples by a fitted network or any other function. Separability is a statement about values: f is
a sum of g(x_i, …) and h(x_j, …) if f(x) - f(x with x_i') - f(x with x_j') + f(x with both) is 0, and a product if
f(x)·f(x with both) - f(x with x_i')·f(x with x_j') is. Symmetry is one about slopes: f depends on x_i - x_j only if
∂f/∂x_i + ∂f/∂x_j is 0, and on x_i·x_j only if x_i·∂f/∂x_i - x_j·∂f/∂x_j is.

Shape letters: N samples, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from kansformer.checks import check_integer, check_number
from kansformer.errors import DataError, ShapeError
from kansformer.kan.data import Samples, Table, as_dataset, inputs_of
from kansformer.kan.fitting import fit
from kansformer.kan.network import KAN

Function: TypeAlias = "KAN | Callable[[Tensor], Tensor]"

# Pairs of samples whose values are swapped.
MAX_SAMPLES = 2000
TOLERANCE = 0.05
STEPS = 40
# An error may be this many times that of the other kind of separability.
CLOSER, ROUNDING = 3.0, 1e-6


@dataclass(frozen=True)
class Separability:
    """Groups of inputs that a function does not mix.

    Args:
        additive, multiplicative: the groups of which the function is the sum, or the product; one group of all inputs
            if it is not separable.
        additive_error, multiplicative_error: for every pair of inputs what a sum or product of functions of the one and
            of the other would miss, relative to the function's own variation or size, (I, I).
    """

    additive: list[list[int]]
    multiplicative: list[list[int]]
    additive_error: Tensor
    multiplicative_error: Tensor

    def __str__(self) -> str:
        parts = []
        for name, groups in (("sum", self.additive), ("product", self.multiplicative)):
            if len(groups) > 1:
                parts.append(f"{name} of functions of " + " | ".join(", ".join(map(str, group)) for group in groups))
        return "; ".join(parts) or "neither a sum nor a product of functions of fewer inputs"


@dataclass(frozen=True)
class Symmetry:
    """A function depends on two inputs only by one combination of them.

    Args:
        inputs: i and j.
        kind: `difference`, `sum`, `product` or `ratio`.
        error: of the slopes, relative to their size.
    """

    inputs: tuple[int, int]
    kind: str
    error: float

    def __str__(self) -> str:
        return f"{self.kind} of inputs {self.inputs[0]} and {self.inputs[1]}, error {self.error:.2g}"


@torch.no_grad()
def find_separability(
    model: Function | None, data: Samples | Table, *, output: int = 0, tolerance: float = TOLERANCE
) -> Separability:
    """Find groups of inputs of whose functions a function is the sum or the product.

    Args:
        model: a fitted network, or a function from (N, I) to (N, O) or (N,); None fits a network to the samples.
        data: samples, or inputs (N, I) if there is a model; values of the columns are swapped between them.
        output: which output is judged.
        tolerance: highest error of a pair of inputs that counts as separate.

    Raises:
        ConfigError: the tolerance is not positive.
        ShapeError, DataError: the samples do not fit the network, are fewer than two, or the function is not finite.

    Examples:
        >>> from kansformer.kan.structure import find_separability
        >>> x = torch.rand(200, 3)
        >>> find_separability(lambda x: x[:, 0] * x[:, 1] + x[:, 2], x).additive
        [[0, 1], [2]]
    """
    check_number("tolerance", tolerance, above=0)
    function, x = _function_and_inputs(model, data, output)
    other = x.roll(1, dims=0)  # each sample meets another one, at random
    whole_N = _finite(function(x))
    inputs = x.shape[1]
    size, spread = whole_N.square().mean().sqrt(), whole_N.std(correction=0).clamp(min=torch.finfo(x.dtype).tiny)
    additive, multiplicative = torch.zeros(inputs, inputs), torch.zeros(inputs, inputs)
    swapped = [_finite(function(_swapped(x, other, [i]))) for i in range(inputs)]
    for i, j in combinations(range(inputs), 2):
        both_N = _finite(function(_swapped(x, other, [i, j])))
        missed = (whole_N - swapped[i] - swapped[j] + both_N).square().mean().sqrt() / (2 * spread)
        additive[i, j] = additive[j, i] = missed
        missed = (whole_N * both_N - swapped[i] * swapped[j]).square().mean().sqrt()
        multiplicative[i, j] = multiplicative[j, i] = missed / (2 * size * spread)
    # A sum whose parts vary little is nearly a product too, and the other way round: the closer one counts.
    mixed = [
        (error > tolerance) | (error > CLOSER * other + ROUNDING)
        for error, other in ((additive, multiplicative), (multiplicative, additive))
    ]
    return Separability(_groups(mixed[0]), _groups(mixed[1]), additive, multiplicative)


def find_symmetries(
    model: Function | None, data: Samples | Table, *, output: int = 0, tolerance: float = TOLERANCE
) -> list[Symmetry]:
    """Find pairs of inputs on which a function depends by their difference, sum, product or ratio only.

    Args:
        model: a fitted network, or a differentiable function from (N, I) to (N, O) or (N,); None fits a network.
        data: samples, or inputs (N, I) if there is a model.
        output: which output is judged.
        tolerance: highest error of the slopes.

    Returns:
        The symmetries, the closest first.

    Raises:
        ConfigError: the tolerance is not positive.
        ShapeError, DataError: the samples do not fit the network, are fewer than two, or the slopes are not finite.

    Examples:
        >>> from kansformer.kan.structure import find_symmetries
        >>> x = torch.rand(200, 2)
        >>> [symmetry.kind for symmetry in find_symmetries(lambda x: torch.sin(x[:, 0] - x[:, 1]), x)]
        ['difference']
    """
    check_number("tolerance", tolerance, above=0)
    function, x = _function_and_inputs(model, data, output)
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        (slope_NI,) = torch.autograd.grad(function(leaf).sum(), leaf, materialize_grads=True, allow_unused=True)
    slope_NI = _finite(slope_NI)
    symmetries = []
    for i, j in combinations(range(x.shape[1]), 2):
        first, second = slope_NI[:, i], slope_NI[:, j]
        for kind, (a, b) in {
            "difference": (first, second),
            "sum": (first, -second),
            "product": (x[:, i] * first, -x[:, j] * second),
            "ratio": (x[:, i] * first, x[:, j] * second),
        }.items():
            size = min(float(a.square().mean()), float(b.square().mean())) ** 0.5
            error = float((a + b).square().mean().sqrt()) / size if size else float("inf")
            if error <= tolerance:
                symmetries.append(Symmetry((i, j), kind, error))
    return sorted(symmetries, key=lambda symmetry: symmetry.error)


def _function_and_inputs(
    model: Function | None, data: Samples | Table, output: int
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A function of one output, and samples in random order: next to each other, those of tables hardly differ."""
    output = check_integer("output", output, 0)
    if model is None:
        model = _fitted(data)
    if isinstance(model, KAN):
        x = inputs_of(model, data)
    else:
        is_table = isinstance(data, (Tensor, np.ndarray))
        x = torch.as_tensor(data) if is_table else as_dataset(cast("Samples", data)).train_input
    if x.ndim != 2 or len(x) < 2:
        raise ShapeError(f"Two samples or more are needed, as a table (samples, inputs); got {tuple(x.shape)}.")
    x = x if x.is_floating_point() else x.double()
    called = model

    def function(x: Tensor) -> Tensor:
        values = called(x)
        values = values.unsqueeze(-1) if values.ndim == 1 else values
        if output >= values.shape[-1]:
            raise ShapeError(f"There is no output {output}: the function has {values.shape[-1]}.")
        return values[:, output]

    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0), device="cpu")[:MAX_SAMPLES]
    return function, x[rows].detach()


def _fitted(data: Samples | Table) -> KAN:
    """A network for samples of an unknown function."""
    if isinstance(data, (Tensor, np.ndarray)):
        raise DataError("Without a model, data must have targets: a Dataset, or a pair (inputs, targets).")
    dataset = as_dataset(data)
    inputs = dataset.train_input.shape[1]
    model = KAN([inputs, 2 * inputs + 1, dataset.train_target.shape[1]])
    fit(model, dataset, steps=STEPS, starts=3, progress=False)
    return model


def _swapped(x: Tensor, other: Tensor, columns: list[int]) -> Tensor:
    mixed = x.clone()
    mixed[:, columns] = other[:, columns]
    return mixed


def _finite(values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise DataError("The function is not finite at all samples, or where their columns are mixed.")
    return values


def _groups(mixed_II: Tensor) -> list[list[int]]:
    """Connected inputs."""
    groups: list[list[int]] = []
    left = set(range(len(mixed_II)))
    while left:
        group, border = set[int](), {min(left)}
        while border:
            group |= border
            border = {j for i in border for j in mixed_II[i].nonzero()[:, 0].tolist()} - group
        left -= group
        groups.append(sorted(group))
    return groups
