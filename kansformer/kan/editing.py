"""Removing edges and nodes by hand.

Shape letters: I inputs, O outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.checks import check_integer
from kansformer.errors import DataError, SlotError
from kansformer.kan.constraints import hold
from kansformer.kan.data import Samples, Table, inputs_of
from kansformer.kan.edges import EdgeLike, check_edge, cut_edges, only_edge
from kansformer.kan.linearize import levels
from kansformer.kan.pruning import drop_dead_nodes, edge_values

if TYPE_CHECKING:
    from kansformer.kan.network import KAN


@torch.no_grad()
def remove_edge(model: KAN, edge: EdgeLike, data: Samples | Table | None = None) -> KAN:
    """Remove one edge, curve or formula, in place; nodes that lead nowhere afterwards go with it.

    Args:
        model: the network.
        edge: which.
        data: samples, or inputs (N, I), on which the mean of the edge is taken, which moves into the bias of its node;
            None removes the edge with its mean.

    Returns:
        The network.

    Raises:
        SlotError: the edge does not exist.
        ShapeError, DataError: the data do not fit the network or are not finite, or the edge is not finite there.
    """
    edge = check_edge(model, edge)
    _remove(model, edge.layer, only_edge(model, edge), data)
    return model


@torch.no_grad()
def remove_node(model: KAN, layer: int, node: int, data: Samples | Table | None = None) -> KAN:
    """Remove a hidden node, or all edges of an input, in place; nodes that lead nowhere afterwards go with it.

    Args:
        model: the network; it keeps its number of inputs.
        layer: of the node: 0 for the inputs, 1 for the first hidden nodes, and so on.
        node: its number in the layer; product nodes come after the sums.
        data: samples, or inputs (N, I), on which the means of the edges that leave it are taken, which move into the
            biases of their nodes; None removes the edges with their means.

    Returns:
        The network.

    Raises:
        SlotError: the node does not exist, is an output, or has no edge.
        ShapeError, DataError: the data do not fit the network or are not finite, or an edge is not finite there.
    """
    last = len(model.layers) - 1
    if not 0 <= check_integer("layer", layer) <= last:
        end = "The outputs stay. " if layer == last + 1 else ""
        raise SlotError(f"There is no layer {layer} of nodes to remove. {end}Choose from 0, the inputs, to {last}.")
    count = sum(model.width[layer])
    if not 0 <= check_integer("node", node) < count:
        raise SlotError(f"There is no node {node} in layer {layer}: choose from 0 to {count - 1}.")
    gone_IO = torch.zeros_like(model.alive[layer])
    gone_IO[node] = model.alive[layer][node]
    if not gone_IO.any():
        raise SlotError(f"The node {node} of layer {layer} has no edge that could be removed.")
    _remove(model, layer, gone_IO, data)
    return model


def _remove(model: KAN, index: int, gone_IO: Tensor, data: Samples | Table | None) -> None:
    if data is not None:
        x = list(levels(model, inputs_of(model, data)))[index]
        mean_O = edge_values(model, index, x)[1].mean(dim=0).where(gone_IO, 0.0).sum(dim=0)
        if not mean_O.isfinite().all():
            raise DataError(f"Edges of layer {index} are not finite on these data, so they have no mean for the bias.")
        model.layers[index].bias.add_(mean_O)
    cut_edges(model, index, gone_IO)
    widths = None
    while widths != model.width:  # a node that goes may leave one before it without a way on
        widths = list(model.width)
        drop_dead_nodes(model)
    hold(model)
