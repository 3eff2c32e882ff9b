"""The first coefficients of a stand-alone network.

Shape letters: N samples, I inputs, O outputs, C coefficients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kansformer.basis import fit_curves
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
def draw_curves(layer: KANLinear, generator: torch.Generator) -> None:
    """Random lines with a little noise; the base at zero. Nothing on the meta device."""
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
    layer.coefficients.copy_(slopes_IO * inputs**-0.5 * lines_IC1 + NOISE * noise)
    layer.weight.zero_()
    layer.bias.zero_()


def restart(model: KAN, seed: int) -> None:
    """Draw new first coefficients for all curves that are left; formulas stay."""
    generator = torch.Generator().manual_seed(seed)
    for index, layer in enumerate(model.layers):
        draw_curves(layer, generator)
        clear_edges(layer, ~model.curved(index))
