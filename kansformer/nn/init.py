"""Curves that start bent, as large as their layer can take them.

Shape letters: I inputs, C coefficients, S sample points.
"""

import torch
from torch import nn

from kansformer.checks import check_number
from kansformer.nn.curve_checks import check_not_fixed
from kansformer.nn.curves import curves_of, require_curves

SAMPLES = 512


@torch.no_grad()
def spread_curves(model: nn.Module, gain: float = 0.1, *, generator: torch.Generator | None = None) -> nn.Module:
    """Give every curve random coefficients: on inputs of N(0, 1), the curves of a layer add a variance of gain².

    The sum of a layer's I edges then has the standard deviation `gain` whatever the basis, the grid and I are (the rule
    of Glorot & Bengio, 2010, with the basis functions as the inputs); a `channel` or `group` curve has it on its own.
    For layers without other weights, gain 1 keeps the variance. Helps where a curve per edge is trained from scratch:
    edges that all start at zero learn alike. Curves beside pretrained weights should start straight.

    Args:
        model: any model with curves, in place.
        gain: standard deviation of what the curves add.
        generator: source of randomness; None uses torch's global one.

    Returns:
        The model.

    Raises:
        ConfigError: the model has no curves, or fixed ones, or the gain is not a number above 0.
    """
    check_number("gain", gain, above=0)
    check_not_fixed(model, "spread_curves")
    modules = require_curves(model, " to spread. Call kansformer.convert(model) first.")
    levels = (torch.arange(SAMPLES) + 0.5) / SAMPLES
    normal_S = torch.special.ndtri(levels.double()).float()
    for module in modules.values():
        device = module.coefficients.device
        _, domain, denominator, basis = curves_of(module).to(torch.float32)
        values = basis.values(normal_S.to(device).unsqueeze(1), domain, denominator)
        energy = values.square().sum(-1).mean()  # E Σ_c B_c(x)², the mean over all inputs
        summed = 1 if module.curves.is_per_channel else module.in_features
        module.coefficients.normal_(0.0, (gain**2 / (summed * energy.item())) ** 0.5, generator=generator)
    return model
