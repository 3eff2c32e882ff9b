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
# Ranges are far away, and outputs large, at this many times the size.
FAR = 10.0


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
    model.init_seed = check_seed(seed)
    generator = torch.Generator().manual_seed(model.init_seed)
    with torch.device("cpu"):  # whose generator draws, whatever the default device
        for index, layer in enumerate(model.layers):
            draw_curves(layer, generator, model.init_scale)
            clear_edges(layer, ~model.curved(index))
    turn_towards(model)
    hold(model)


@torch.no_grad()
def draw_at_inputs(model: KAN, x: Tensor) -> None:
    """Draw curves that are still the first ones anew on the ranges of inputs (N, I) that are large or far away."""
    layer = model.layers[0]
    center_I, reach_I = _range(x.T)
    first_center_I, first_reach_I = _range(layer.domain)
    rounding_I = center_I.abs() * torch.finfo(x.dtype).eps ** 0.75
    reach_I = torch.where(reach_I > rounding_I, reach_I, torch.maximum(first_reach_I, rounding_I))  # else constant
    is_far_I = (reach_I > FAR * first_reach_I) | ((center_I - first_center_I).abs() > FAR * reach_I)
    if is_far_I.any() and layer.coefficients.requires_grad and _is_as_drawn(model):
        domain_I2 = torch.stack([center_I - reach_I, center_I + reach_I], dim=1)
        layer.domain.copy_(torch.where(is_far_I.unsqueeze(-1), domain_I2, layer.domain))
        restart(model, model.init_seed)


@torch.no_grad()
def start_at_targets(model: KAN, x: Tensor, y: Tensor) -> None:
    """Bring outputs of curves that are still the first ones to targets that vary far less, or are far from 0.

    Args:
        model: the network; the curves of its last layer shrink, and its last constants become the targets' means.
        x: inputs, (N, I).
        y: targets, (N, O).
    """
    layer, sums = model.layers[-1], model.width[-1][0]
    y, outputs = y[:, :sums], model(x)[:, :sums]
    mean_O, spread_O, size_O = y.mean(dim=0), _spread(y), _spread(outputs)
    is_large_O, is_shifted_O = size_O > FAR * spread_O, mean_O.abs() > FAR * spread_O
    if (is_large_O | is_shifted_O).any() and _is_as_drawn(model):
        if layer.coefficients.requires_grad:
            layer.coefficients[..., :sums] *= torch.where(is_large_O, spread_O / size_O, 1.0)
        if layer.bias.requires_grad and model.constraints is None:
            layer.bias[:sums] = torch.where(is_shifted_O, mean_O, layer.bias[:sums])
        hold(model)


def _range(values: Tensor) -> tuple[Tensor, Tensor]:
    """Center and half width of each row."""
    low, high = values.aminmax(dim=1)
    return (low + high) / 2, (high - low) / 2


def _spread(values: Tensor) -> Tensor:
    """Standard deviation of each column."""
    return values.std(dim=0, correction=0)


def _is_as_drawn(model: KAN) -> bool:
    drawn = copy.deepcopy(model)
    restart(drawn, model.init_seed)
    return all(map(torch.equal, model.state_dict().values(), drawn.state_dict().values()))
