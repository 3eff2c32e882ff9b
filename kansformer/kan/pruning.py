"""Scores of edges and nodes, and the removal of those that matter least.

Shape letters: N samples, I inputs, O outputs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise
from types import EllipsisType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kansformer.checks import check_number
from kansformer.kan.data import Samples, Table, inputs_and_targets, inputs_of
from kansformer.kan.edges import Edge, cut_edges
from kansformer.kan.fitting import rmse
from kansformer.kan.linearize import LayerState, layer_state

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

# Of edges and nodes, as shares of their output's variation.
THRESHOLD = 0.03
# Pruning may raise the error by this share; edges beyond that stay.
MAX_LOSS = 0.2
ROUNDING = 1e-12


@dataclass(frozen=True)
class NodeScores:
    """How much of the outputs' variation passes through every edge and node.

    Args:
        edges: for each layer, (I, O).
        nodes: for the inputs and every layer's nodes, (nodes,).
    """

    edges: list[Tensor]
    nodes: list[Tensor]


@dataclass(frozen=True)
class PruneReport:
    """Result of `KAN.prune`.

    Args:
        edges: those that are left.
        removed: the number of edges removed.
        width: of the network now.
        rmse_before, rmse_after: on the samples given; None without targets.
    """

    edges: list[Edge]
    removed: int
    width: list[tuple[int, int]]
    rmse_before: float | None
    rmse_after: float | None


@torch.no_grad()
def node_scores(model: KAN, data: Samples | Table) -> NodeScores:
    """Attribute every output's variation to edges and nodes (Liu et al., 2024).

    A node's score is divided among the edges that enter it by the standard deviations of their values; an edge passes
    its score on to its input. All outputs count the same.

    Args:
        model: the network.
        data: samples, or inputs (N, I).
    """
    return _scores_and_means(model, inputs_of(model, data))[0]


def _scores_and_means(model: KAN, x: Tensor) -> tuple[NodeScores, list[Tensor]]:
    """Scores of all edges and nodes at inputs (N, I), and the mean of every edge, (I, O) for each layer."""
    states, values = [], []
    for index in range(len(model.layers)):
        state, value_NIO = edge_values(model, index, x)
        states.append(state)
        values.append(value_NIO)
        x = model.nodes(index, state.sums)
    node = x.new_ones(sum(model.width[-1])) / sum(model.width[-1])
    edges, nodes = list[Tensor](), [node]
    for index in reversed(range(len(states))):
        output = _outputs_of_nodes(model, index, node)
        spread_IO = values[index].std(dim=0, correction=0)
        edge_IO = output * spread_IO / (states[index].sums.std(dim=0, correction=0) + ROUNDING)
        node = edge_IO.sum(dim=1)
        edges.insert(0, edge_IO)
        nodes.insert(0, node)
    return NodeScores(edges, nodes), [value_NIO.mean(dim=0) for value_NIO in values]


@torch.no_grad()
def prune(model: KAN, data: Samples | Table, *, threshold: float = THRESHOLD) -> PruneReport:
    """Remove edges and hidden nodes with low scores, in place.

    The mean of a removed edge moves into the bias of its node. Every output keeps its best path. With targets, edges
    are kept, the best first, until the error is at most 20 % higher than before.

    Args:
        model: the network.
        data: samples, or inputs (N, I), for the scores.
        threshold: highest score of an edge that is removed.

    Returns:
        The edges left, and the errors before and after.

    Raises:
        ConfigError: the threshold is negative.
        ShapeError, DataError: the samples do not fit the network or are not finite.
    """
    check_number("threshold", threshold, 0)
    x, y = inputs_and_targets(model, data)
    before = None if y is None else rmse(model, x, y)
    count = sum(int(alive.sum()) for alive in model.alive)
    scores, means = _scores_and_means(model, x)
    everything = torch.cat([score[alive] for score, alive in zip(scores.edges, model.alive, strict=True)])
    candidates = everything[everything <= threshold].sort().values
    going = len(candidates)
    while True:
        kept = _kept_above(model, scores, float(candidates[going - 1]) if going else -1.0)
        if y is None or before is None or not going:
            break
        _cut_to(trial := copy.deepcopy(model), kept, means)
        if rmse(trial, x, y) <= (1 + MAX_LOSS) * before:
            break
        going -= max(1, going // 8)
    _cut_to(model, kept, means)
    drop_dead_nodes(model)
    after = None if y is None else rmse(model, x, y)
    left = list(model.edges())
    return PruneReport(left, count - len(left), list(model.width), before, after)


@torch.no_grad()
def prune_inputs(model: KAN, data: Samples | Table, *, threshold: float = THRESHOLD) -> list[int]:
    """Cut the edges of inputs with low scores, in place; the network keeps its number of inputs.

    Args:
        model: the network.
        data: samples, or inputs (N, I), for the scores.
        threshold: highest score of an input that is cut.

    Returns:
        The inputs that are left.
    """
    scores, means = _scores_and_means(model, inputs_of(model, data))
    gone_I = scores.nodes[0] <= min(threshold, float(scores.nodes[0].max()) / 2)
    _cut_to(model, [model.alive[0] & ~gone_I.unsqueeze(1)], means)
    return (~gone_I).nonzero()[:, 0].tolist()


def edge_values(model: KAN, index: int, x: Tensor) -> tuple[LayerState, Tensor]:
    """A layer's state at inputs (N, I), and the values of its edges, (N, I, O)."""
    state, formulas = layer_state(model, index, x), model.formulas[index]
    value_NIO = torch.einsum("nif,iof->nio", state.features, state.weights)
    if len(formulas):
        value_NIO[:, formulas.inputs, formulas.outputs_of] += formulas.values(x)
    return state, value_NIO


def _cut_to(model: KAN, kept: list[Tensor], means: list[Tensor]) -> None:
    """Keep the edges of these masks; the means of the others move into the biases."""
    for index, (keep_IO, mean_IO) in enumerate(zip(kept, means, strict=False)):
        gone_IO = model.alive[index] & ~keep_IO
        model.layers[index].bias.add_((mean_IO * gone_IO).sum(dim=0))
        cut_edges(model, index, gone_IO)


def _kept_above(model: KAN, scores: NodeScores, limit: float) -> list[Tensor]:
    """Masks of edges with scores above a limit and of the best path to every output, without any that lead nowhere."""
    kept = [(score > limit) & alive for score, alive in zip(scores.edges, model.alive, strict=True)]
    reached = torch.ones(sum(model.width[-1]), dtype=torch.bool)
    for index in reversed(range(len(kept))):
        outputs = _outputs_of_nodes(model, index, reached)
        score_IO = scores.edges[index].masked_fill(~model.alive[index], -1)
        for o in outputs.nonzero()[:, 0].tolist():
            if not kept[index][:, o].any() and model.alive[index][:, o].any():
                kept[index][score_IO[:, o].argmax(), o] = True
        reached = kept[index][:, outputs].any(dim=1)
    for index in range(len(kept) - 2, -1, -1):
        kept[index] &= _outputs_of_nodes(model, index, kept[index + 1].any(dim=1))
    for index in range(1, len(kept)):
        kept[index] &= _nodes_of_outputs(model, index - 1, kept[index - 1].any(dim=0)).unsqueeze(1)
    return kept


def _outputs_of_nodes(model: KAN, index: int, nodes: Tensor) -> Tensor:
    plain, products = model.width[index + 1]
    return torch.cat([nodes[:plain], nodes[plain:].repeat_interleave(2)]) if products else nodes


def _nodes_of_outputs(model: KAN, index: int, outputs: Tensor) -> Tensor:
    """A product node is entered if any factor is: the other one is a constant."""
    plain, products = model.width[index + 1]
    return torch.cat([outputs[:plain], outputs[plain:].unflatten(0, (products, 2)).any(dim=1)]) if products else outputs


@torch.no_grad()
def drop_dead_nodes(model: KAN) -> None:
    """Make the network as narrow as its live nodes; a network of constants keeps one node in every layer."""
    for index, (layer, following) in enumerate(pairwise(model.layers)):
        nodes = model.alive[index + 1].any(dim=1)
        if nodes.all():
            continue
        nodes[0] |= not nodes.any()
        outputs = _outputs_of_nodes(model, index, nodes)
        layer.out_features, following.in_features = int(outputs.sum()), int(nodes.sum())
        layer.weight, layer.bias = _part(layer.weight, outputs), _part(layer.bias, outputs)
        layer.coefficients = _part(layer.coefficients, (..., outputs))
        following.weight = _part(following.weight, (slice(None), nodes))
        following.coefficients = _part(following.coefficients, nodes)
        following.domain = following.domain[nodes]
        if following.denominator is not None:
            following.denominator = _part(following.denominator, nodes)
        model.register_buffer(f"alive_{index}", model.alive[index][:, outputs])
        model.register_buffer(f"alive_{index + 1}", model.alive[index + 1][nodes])
        model.formulas[index].renumber(outputs=outputs)
        model.formulas[index + 1].renumber(inputs=nodes)
        plain = model.width[index + 1][0]
        model.width[index + 1] = (int(nodes[:plain].sum()), int(nodes[plain:].sum()))


def _part(parameter: Tensor, index: Tensor | tuple[slice | EllipsisType | Tensor, ...]) -> nn.Parameter:
    """A part of a parameter, frozen if the parameter is."""
    return nn.Parameter(parameter.detach()[index], requires_grad=parameter.requires_grad)
