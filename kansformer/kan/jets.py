"""First and second derivatives of a network by its inputs, and the derivatives of these by its parameters.

A jet is a number with its derivatives along the D inputs of the network: value, D first and D second ones. Curves are
linear in their coefficients, and so are the jets behind them.

Shape letters: N points, I inputs and O outputs of a layer, D inputs of the network, J = 1 + 2D, F features, E edges,
R residuals of a point, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.basis import elementwise_derivatives
from kansformer.kan.linearize import Inputs, higher_features

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

HIGHEST = 3


@dataclass
class LayerJets:
    """A layer at some points.

    Args:
        inputs: jets of the inputs, (N, I, J).
        features: σ and the basis, and their derivatives, (4, N, I, F).
        weights: of the features, (I, O, F).
        formulas: the edges that are formulas and their derivatives, (4, N, E); None without any.
        sums: jets of the outputs, (N, O, J).
    """

    inputs: Tensor
    features: Tensor
    weights: Tensor
    formulas: Tensor | None
    sums: Tensor


class InputJets:
    """Points (N, D) at which a network is evaluated repeatedly, and their jets."""

    def __init__(self, points: Tensor) -> None:
        first = torch.eye(points.shape[1]).to(points).expand(len(points), -1, -1)
        self.jets = torch.cat([points.unsqueeze(-1), first, torch.zeros_like(first)], dim=-1)
        self.cache = Inputs(points, lambda layer, x: higher_features(layer, x, HIGHEST))


def network_jets(model: KAN, inputs: InputJets) -> tuple[Tensor, list[LayerJets]]:
    """Jets of the outputs, (N, K, J), and every layer on the way."""
    layers, jets = [], inputs.jets
    for index, layer in enumerate(model.layers):
        layers.append(_layer_jets(model, index, jets, None if index else inputs.cache.features(layer)))
        jets = _node_jets(model, index, layers[-1].sums)
    return jets, layers


@torch.no_grad()
def jacobian(model: KAN, layers: list[LayerJets], slope_NRKJ: Tensor) -> Tensor:
    """Derivatives of residuals by the vector of `Parameters`, (N, R, P), from those by the jets of the outputs."""
    blocks: list[Tensor] = []
    for index in reversed(range(len(layers))):
        layer, formulas = layers[index], model.formulas[index]
        slope_NROJ = _before_products(model, index, layer.sums, slope_NRKJ)
        i, o = model.curved(index).nonzero(as_tuple=True)
        jets = _through(layer.features[:3], layer.inputs)[:, i]
        at_edges = torch.einsum("nrej,nejf->nref", slope_NROJ[:, :, o], jets)
        parts = [at_edges.flatten(2), slope_NROJ[..., 0]]
        if layer.formulas is not None:
            partials = elementwise_derivatives(formulas.partials, layer.inputs[:, :, 0], 2)  # (3, N, E, 4)
            jets = _through(partials, layer.inputs[:, formulas.inputs])
            parts.append(torch.einsum("nrej,nejf->nref", slope_NROJ[:, :, formulas.outputs_of], jets).flatten(2))
        blocks = parts + blocks
        if index:
            slope_NRKJ = _before_curves(model, index, layer, slope_NROJ)
    return torch.cat(blocks, dim=-1)


@torch.no_grad()
def _layer_jets(model: KAN, index: int, jets: Tensor, features: Tensor | None) -> LayerJets:
    layer, formulas = model.layers[index], model.formulas[index]
    x = jets[..., 0]
    features = higher_features(layer, x, HIGHEST) if features is None else features
    weights = torch.cat([layer.weight.mT.unsqueeze(-1), layer.coefficients.mT], dim=-1)
    sums = torch.einsum("nijf,iof->noj", _through(features[:3], jets), weights)
    sums[..., 0] += layer.bias
    values = None
    if len(formulas):
        values = elementwise_derivatives(formulas.values, x, HIGHEST)
        own = _through(values[:3].unsqueeze(-1), jets[:, formulas.inputs])[..., 0]
        sums = sums.index_add(1, formulas.outputs_of, own)
    return LayerJets(jets, features, weights, values, sums)


def _through(functions: Tensor, jets: Tensor) -> Tensor:
    """Jets (N, I, J, F) of functions (3, N, I, F) applied to jets (N, I, J)."""
    value, slope, bend = functions.unsqueeze(3)
    first, second = jets[..., 1:].unsqueeze(-1).chunk(2, dim=2)
    return torch.cat([value, slope * first, bend * first.square() + slope * second], dim=2)


def _before_curves(model: KAN, index: int, layer: LayerJets, slope_NROJ: Tensor) -> Tensor:
    """Derivatives by the jets of a layer's inputs, from those by its outputs', (N, R, I, J)."""
    by_value, by_first, by_second = _parts(slope_NROJ)
    formulas = model.formulas[index]
    _, slope, bend, third = torch.einsum("dnif,iof->dnio", layer.features, layer.weights)
    if layer.formulas is not None:
        for function, values in zip((slope, bend, third), layer.formulas[1:], strict=True):
            function[:, formulas.inputs, formulas.outputs_of] += values
    first, second = (part.unsqueeze(1) for part in layer.inputs[..., 1:].chunk(2, dim=-1))  # (N, 1, I, D)

    def back(factor_NIO: Tensor, slopes: Tensor) -> Tensor:
        return torch.einsum("nio,nro...->nri...", factor_NIO, slopes)

    value = back(slope, by_value) + (
        back(bend, by_first) * first + back(third, by_second) * first.square() + back(bend, by_second) * second
    ).sum(dim=-1)
    slopes = back(slope, by_first) + 2 * back(bend, by_second) * first
    return torch.cat([value.unsqueeze(-1), slopes, back(slope, by_second)], dim=-1)


def _node_jets(model: KAN, index: int, sums: Tensor) -> Tensor:
    plain, products = model.width[index + 1]
    if not products:
        return sums
    (a, a1, a2), (b, b1, b2) = map(_parts, sums[:, plain:].unflatten(1, (products, 2)).unbind(dim=2))
    a, b = a.unsqueeze(-1), b.unsqueeze(-1)
    jets = torch.cat([a * b, a1 * b + a * b1, a2 * b + 2 * a1 * b1 + a * b2], dim=-1)
    return torch.cat([sums[:, :plain], jets], dim=1)


def _before_products(model: KAN, index: int, sums: Tensor, slope_NRKJ: Tensor) -> Tensor:
    """Derivatives by the jets of a layer's outputs, from those by the nodes' behind it."""
    plain, products = model.width[index + 1]
    if not products:
        return slope_NRKJ
    by_value, by_first, by_second = _parts(slope_NRKJ[:, :, plain:])
    other, other1, other2 = _parts(sums[:, plain:].unflatten(1, (products, 2)).flip(2))  # each factor's partner
    other, other1, other2 = (part.unsqueeze(1) for part in (other.unsqueeze(-1), other1, other2))
    by_value, by_first, by_second = by_value.unsqueeze(3), by_first.unsqueeze(3), by_second.unsqueeze(3)
    value = by_value * other[..., 0] + (by_first * other1 + by_second * other2).sum(dim=-1)
    factors = torch.cat([value.unsqueeze(-1), by_first * other + 2 * by_second * other1, by_second * other], dim=-1)
    return torch.cat([slope_NRKJ[:, :, :plain], factors.flatten(2, 3)], dim=2)


def _parts(jets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, first and second derivatives."""
    first, second = jets[..., 1:].chunk(2, dim=-1)
    return jets[..., 0], first, second
