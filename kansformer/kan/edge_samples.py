"""Points at which the edges of a network are looked at, and their values there.

Shape letters: N samples, I inputs, E edges, S points of an edge.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.kan.data import Samples, Table, even_points, inputs_of, random_points
from kansformer.kan.edges import Edge
from kansformer.kan.history import GRID_MARGIN
from kansformer.kan.linearize import layer_features, levels

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

POINTS, RANDOM_POINTS = 64, 256


def random_inputs(model: KAN) -> Tensor:
    """Random inputs of a network inside its first grids, (N, I), float64."""
    return random_points(model.layers[0].domain.double().cpu(), RANDOM_POINTS, seed=0)


def sampled_edges(model: KAN, data: Samples | Table | None) -> tuple[list[Edge], Tensor, Tensor]:
    """All edges that are curves, their points and values, (E, S) each; the values are all the same where an input is
    constant on the data."""
    edges, points, values = [], [], []
    inputs = repeat(None) if data is None else levels(model, inputs_of(model, data))
    for index, (layer, x) in enumerate(zip(model.layers, inputs, strict=False)):
        range_I2, constant_I = layer.domain, None
        if x is None:
            margin_I1 = GRID_MARGIN / (1 + 2 * GRID_MARGIN) * range_I2.diff(dim=-1)
            range_I2 = range_I2 + torch.cat([margin_I1, -margin_I1], dim=-1)
        else:
            lower, upper = x.aminmax(dim=0)
            constant_I = lower == upper
            range_I2 = torch.where(constant_I.unsqueeze(-1), range_I2, torch.stack([lower, upper], dim=-1))
        x_IS = even_points(range_I2, POINTS)
        seen_IS = x_IS if constant_I is None else torch.where(constant_I.unsqueeze(-1), lower.unsqueeze(-1), x_IS)
        features, _ = layer_features(layer, seen_IS.mT.contiguous())
        i, o = model.curved(index).nonzero(as_tuple=True)
        weights_EF = torch.cat([layer.weight[o, i].unsqueeze(-1), layer.coefficients[i, :, o]], dim=-1)
        points.append(x_IS[i])
        values.append(torch.einsum("sef,ef->es", features[:, i], weights_EF))
        edges += [Edge(index, *pair) for pair in zip(i.tolist(), o.tolist(), strict=True)]
    return edges, torch.cat(points), torch.cat(values)
