"""Nodes with one incoming edge, where only the composition of the curves before and after them is determined.

ψ(φ(x)) stays the same when φ is followed by an invertible function and ψ is preceded by its inverse, so a fit ends at
one of many pairs, none of which has a symbol. φ is replaced by the identity and ψ by the composition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.kan.edges import fit_layer_curves
from kansformer.kan.linearize import layer_features
from kansformer.kan.pruning import drop_dead_nodes
from kansformer.nn import KANLinear
from kansformer.symbolic import LIBRARY

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

SAMPLES_PER_COEFFICIENT = 8
MARGIN = 0.05


@torch.no_grad()
def straighten_single_paths(model: KAN, x: Tensor) -> int:
    """Move the curve of an edge that enters a node alone into the edges that leave it, in place.

    The edge becomes the formula x, and the curves behind it are fitted to the compositions. Nodes that pass on the same
    input are merged.

    Args:
        model: the network.
        x: inputs, (N, I), on whose range the compositions are fitted.

    Returns:
        The number of such nodes.
    """
    count, passing = 0, dict[tuple[int, int], int]()
    for index in range(len(model.layers) - 1):
        inner, outer = model.layers[index], model.layers[index + 1]
        plain = model.width[index + 1][0]
        for node in range(plain):
            entering = model.alive[index][:, node].nonzero()[:, 0].tolist()
            leaving = model.curved(index + 1)[node]
            if len(entering) != 1 or not torch.equal(leaving, model.alive[index + 1][node]) or not leaving.any():
                continue
            i = entering[0]
            if model.formulas[index].find(i, node) is not None:
                continue
            lower, upper = x[:, i].aminmax()
            if lower == upper:
                continue
            room = MARGIN * (upper - lower)
            unit_S = torch.linspace(0, 1, SAMPLES_PER_COEFFICIENT * outer.coefficients.shape[1]).to(x)
            x_S = lower - room + (upper - lower + 2 * room) * unit_S
            middle_S = _edge(inner, i, torch.tensor([node]), x_S)[:, 0] + inner.bias[node]
            o = leaving.nonzero()[:, 0]
            together_SO = _edge(outer, node, o, middle_S)
            outer.domain[node] = torch.stack([x_S[0], x_S[-1]])
            outer.coefficients[node, :, o] = fit_layer_curves(outer, node, x_S, together_SO)
            outer.weight[o, node] = 0
            inner.weight[node, i], inner.coefficients[i, :, node], inner.bias[node] = 0, 0, 0
            model.formulas[index].add(i, node, LIBRARY.named("x"), (1.0, 0.0, 1.0, 0.0))
            count += 1
            first = passing.setdefault((index, i), node)
            if first != node:
                outer.coefficients[first] += outer.coefficients[node]
                model.alive[index + 1][first] |= model.alive[index + 1][node]
                gone_IO = torch.zeros_like(model.alive[index + 1])
                gone_IO[node] = True
                model.cut(index + 1, gone_IO)
                gone_IO = torch.zeros_like(model.alive[index])
                gone_IO[:, node] = True
                model.cut(index, gone_IO)
        x = model.nodes(index, model.sums(index, x))
    drop_dead_nodes(model)
    return count


def _edge(layer: KANLinear, input: int, outputs: Tensor, x_S: Tensor) -> Tensor:
    """Edges from one input of a layer at points, (S, O)."""
    whole = x_S.new_zeros(len(x_S), layer.in_features)
    whole[:, input] = x_S
    features_SF = layer_features(layer, whole)[0][:, input]
    weights_FO = torch.cat([layer.weight[outputs, input][None], layer.coefficients[input][:, outputs]])
    return features_SF @ weights_FO
