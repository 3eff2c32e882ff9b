"""The first coefficients of a stand-alone network.

Shape letters: N samples, I inputs, O outputs, C coefficients.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.basis import fit_curves
from kansformer.checks import check_seed
from kansformer.kan.constraints import hold, turn_towards
from kansformer.kan.data import even_points
from kansformer.kan.edges import clear_edges
from kansformer.kan.history import few_threads
from kansformer.nn import KANLinear

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

# Curves start as lines of this size at the ends of the domain, over the root of the number of inputs, plus noise.
SLOPE, NOISE = 1.0, 0.1
SAMPLES = 64


@torch.no_grad()
def draw_curves(layer: KANLinear, generator: torch.Generator, scale: float) -> None:
    """Random lines with a little noise, times the scale; the base at zero. Nothing on the meta device, and parameters
    that are not trained stay."""
    if layer.weight.is_meta:
        return
    inputs, domain = layer.in_features, layer.domain.double().cpu()
    line_IS1 = (2 * torch.linspace(0, 1, SAMPLES, dtype=torch.float64) - 1).expand(inputs, -1).unsqueeze(-1)
    denominator = None if layer.denominator is None else layer.denominator.double().cpu()
    with few_threads(0):  # a seed means the same network on any number of threads
        x_IS = even_points(domain, SAMPLES)
        lines_IC1 = fit_curves(x_IS, line_IS1, layer.curves.basis, domain, denominator_ID=denominator)
    slopes_IO = SLOPE * (2 * torch.rand(inputs, 1, layer.out_features, generator=generator, dtype=torch.float64) - 1)
    noise = torch.randn(layer.coefficients.shape, generator=generator, dtype=torch.float64)
    if layer.coefficients.requires_grad:
        layer.coefficients.copy_(scale * (slopes_IO * inputs**-0.5 * lines_IC1 + NOISE * noise))
    for parameter in (layer.weight, layer.bias):
        if parameter.requires_grad:
            parameter.zero_()


def draw_edges(inputs: int, outputs: int, density: float, generator: torch.Generator) -> Tensor:
    """A random mask of edges (I, O) with this share of them, or the fewest that leave no node without one."""
    rank_IO = torch.rand(inputs, outputs, generator=generator)
    mask_IO = torch.zeros(inputs, outputs).bool()
    long, short = max(inputs, outputs), min(inputs, outputs)
    pairs = torch.arange(long), torch.randperm(long, generator=generator) % short
    mask_IO[pairs if inputs >= outputs else pairs[::-1]] = True
    count = max(long, round(density * inputs * outputs))
    chosen = rank_IO.masked_fill(mask_IO, -1.0).flatten().topk(count, largest=False).indices
    return torch.zeros(inputs * outputs).bool().index_fill_(0, chosen, True).reshape(inputs, outputs)


def choose_start(model: KAN, starts: int, errors_of: Callable[[KAN], list[float]]) -> None:
    """Give a network the parameters and grids of the best of several fits from different first coefficients.

    Args:
        model: the network, which is also the first start.
        starts: number of networks; the others begin from the network's seed plus 1, 2, …
        errors_of: fits a copy for a few steps and returns its errors.
    """
    best_error, best = math.inf, model
    for seed in range(starts):
        trial = copy.deepcopy(model)
        if seed:
            restart(trial, (model.init_seed + seed) % 2**63)
        errors = errors_of(trial)
        if errors and errors[-1] < best_error:
            best_error, best = errors[-1], trial
    model.load_state_dict(best.state_dict())


def restart(model: KAN, seed: int) -> None:
    """Draw new first coefficients for all curves that are left; formulas stay."""
    generator = torch.Generator().manual_seed(check_seed(seed))
    for index, layer in enumerate(model.layers):
        draw_curves(layer, generator, model.init_scale)
        clear_edges(layer, ~model.curved(index))
    turn_towards(model)
    hold(model)
