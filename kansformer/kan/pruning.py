"""Scores of edges and nodes, and the removal of those that matter least.

Shape letters: N samples, I inputs, O outputs.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import pairwise
from types import EllipsisType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kansformer.checks import check_choice, check_number
from kansformer.kan.constraints import hold
from kansformer.kan.data import Samples, Table, inputs_and_targets, inputs_of
from kansformer.kan.edges import Edge, cut_edges
from kansformer.kan.fitting import LOSSES, MEASURES, fit, num_curved
from kansformer.kan.history import few_threads
from kansformer.kan.linearize import LayerState, layer_state
from kansformer.nn import refine_grid

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

# Of edges and nodes, as shares of their output's variation.
THRESHOLD = 0.03
# Steps of a fit after edges were removed; it ends when four steps improve the error by less than the tolerance.
REFIT_STEPS, SETTLED = 20, 1e-2
# An error that a grid of twice the intervals lowers to MIN_GAIN is the grid's, not noise. It may grow to MAX_GROWTH.
MIN_GAIN, MAX_GROWTH = 0.5, 4.0
MIN_THRESHOLD = 1e-3
# Edges with higher scores are not tried one by one, nor any after PATIENCE edges in turn had to stay.
MAX_SCORE, PATIENCE = 0.35, 6
# Smaller variations, as shares of a node's values, are none.
ROUNDING = 1e-12


@dataclass(frozen=True)
class NodeScores:
    """How much of the outputs' variation passes through every edge and node.

    Args:
        edges: for each layer, (I, O).
        nodes: for the inputs and every layer's nodes, (nodes,).

    Examples:
        >>> from kansformer.kan import KAN
        >>> model, x = KAN([2, 1]), torch.rand(100, 2, dtype=torch.float64)
        >>> history = model.fit((x, x[:, :1] ** 2), steps=10, progress=False)
        >>> [scores.round().tolist() for scores in model.node_scores(x).nodes]
        [[1.0, 0.0], [1.0]]
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
        rmse_before, rmse_after: on the samples given, the mean cross entropy if that is the loss; None without targets.

    Examples:
        >>> from kansformer.kan import KAN
        >>> model, x = KAN([2, 1]), torch.rand(100, 2, dtype=torch.float64)
        >>> history = model.fit((x, x[:, :1] ** 2), steps=10, progress=False)
        >>> report = model.prune((x, x[:, :1] ** 2))
        >>> report.edges, report.removed
        ([Edge(layer=0, input=0, output=0)], 1)
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
        spread_IO, sums = values[index].std(dim=0, correction=0), states[index].sums
        total = sums.std(dim=0, correction=0) + ROUNDING * sums.abs().amax(dim=0)
        edge_IO = output * torch.where(total > 0, spread_IO / total, 0.0)
        node = edge_IO.sum(dim=1)
        edges.insert(0, edge_IO)
        nodes.insert(0, node)
    return NodeScores(edges, nodes), [value_NIO.mean(dim=0) for value_NIO in values]


def prune(
    model: KAN, data: Samples | Table, *, threshold: float = THRESHOLD, loss: str = "mse", smoothness: float = 0.0
) -> PruneReport:
    """Remove edges and hidden nodes that the samples do not need, in place.

    The mean of a removed edge moves into the bias of its node, and every output keeps its best path. With targets, the
    network is fitted for a few steps after each removal, and judged then: first without all edges whose scores are
    below the threshold, then without one more at a time, the lowest score first. What the error may rise by is what the
    numbers of the removed edges are worth (Schwarz, 1978); where a finer grid would lower it, to four times.

    Args:
        model: the network.
        data: samples, or inputs (N, I) for the scores alone.
        threshold: highest score of an edge that is removed together with others; 0 removes none.
        loss, smoothness: of the fits, as in `fit`.

    Returns:
        The edges left, and the errors before and after.

    Raises:
        ConfigError: the threshold or the smoothness is negative, or the loss unknown.
        ShapeError, DataError: the samples do not fit the network or are not finite.
    """
    check_number("threshold", threshold, 0)
    check_number("smoothness", smoothness, 0)
    check_choice("loss", loss, LOSSES)
    x, y = inputs_and_targets(model, data)
    count = sum(int(alive.sum()) for alive in model.alive)
    before = after = None
    if y is None:
        _cut_below(model, x, threshold)
    else:
        with few_threads(x.numel() * sum(p.numel() for p in model.parameters())):
            pruning = _Pruning(x, y, loss, smoothness)
            before = pruning.error(model)
            become(model, pruning.run(model, threshold))
            after = pruning.error(model)
    left = list(model.edges())
    return PruneReport(left, count - len(left), list(model.width), before, after)


def become(model: KAN, other: KAN) -> None:
    """Give a network the layers of another one, in place."""
    for index in range(len(other.layers), len(model.layers)):
        delattr(model, f"alive_{index}")
    model.width, model.layers, model.formulas = other.width, other.layers, other.formulas
    for index, alive_IO in enumerate(other.alive):
        model.register_buffer(f"alive_{index}", alive_IO)
    if not model.has_bias:
        for layer in model.layers:
            layer.bias.requires_grad_(False)


@dataclass(frozen=True)
class _Pruning:
    """Samples, and how networks are fitted to them after a removal."""

    x: Tensor
    y: Tensor
    loss: str
    smoothness: float

    def error(self, model: KAN) -> float:
        return MEASURES[self.loss](model, self.x, self.y)

    def fitted(self, model: KAN) -> tuple[KAN, float]:
        """The network after a short fit, and its error."""
        fit(
            model, (self.x, self.y), optimizer="lm" if self.loss == "mse" else "lbfgs", loss=self.loss,
            steps=REFIT_STEPS, smoothness=self.smoothness, tolerance=SETTLED, progress=False,
        )  # fmt: skip
        return model, self.error(model)

    def run(self, model: KAN, threshold: float) -> KAN:
        """The smallest copy of the network that explains the samples."""
        start, whole = self.error(model), model
        model, error = self.fitted(copy.deepcopy(whole))
        judge = _Judge(self.loss, self.y.numel(), self._is_grid_error(model, error))
        while threshold > MIN_THRESHOLD:
            trial = copy.deepcopy(whole)
            if not _cut_below(trial, self.x, threshold):
                break
            trial, trial_error = self.fitted(trial)
            if trial_error <= max(start, judge.highest(error, _numbers(model) - _numbers(trial))):
                model, error = trial, trial_error
                break
            threshold /= 2
        stay = list[Edge]()
        while len(stay) < PATIENCE and (edge := _lowest(model, self.x, stay)) is not None:
            _cut_edge(trial := copy.deepcopy(model), self.x, edge)
            trial, trial_error = self.fitted(trial)
            if trial_error <= judge.highest(error, _numbers(model) - _numbers(trial)):
                stay = [] if trial.width != model.width else stay
                model, error = trial, min(error, trial_error) if judge.is_grid_error else trial_error
            else:
                stay.append(edge)
        return model

    def _is_grid_error(self, model: KAN, error: float) -> bool:
        """Whether a finer grid would lower the error by far, so that it is not noise."""
        finer = copy.deepcopy(model)
        refine_grid(finer, 2 * model.layers[0].curves.basis.grid_size)
        left = self.y.numel() - _numbers(finer)
        if left <= 0:
            return False
        degrees = (self.y.numel() - _numbers(model)) / left  # finer grids follow the samples' noise too
        return self.fitted(finer)[1] * degrees**0.5 < MIN_GAIN * error


@dataclass(frozen=True)
class _Judge:
    """How high the error may be without some numbers of a network."""

    loss: str
    samples: int
    is_grid_error: bool

    def highest(self, error: float, numbers: int) -> float:
        if self.is_grid_error:
            return MAX_GROWTH * error
        worth = numbers / 2 * math.log(self.samples) / self.samples
        return error + worth if self.loss == "cross_entropy" else error * math.exp(worth)


def _numbers(model: KAN) -> int:
    """The number of coefficients of a network's curves."""
    return num_curved(model) * model.layers[0].coefficients.shape[1]


@torch.no_grad()
def _cut_below(model: KAN, x: Tensor, threshold: float) -> bool:
    """Cut the edges with scores up to a threshold, in place; whether there were any."""
    scores, means = _scores_and_means(model, x)
    kept = [(score > threshold) & alive for score, alive in zip(scores.edges, model.alive, strict=True)]
    kept = _connected(model, scores, kept)
    changed = any((alive & ~keep).any() for alive, keep in zip(model.alive, kept, strict=True))
    _cut_to(model, kept, means)
    drop_dead_nodes(model)
    return changed


@torch.no_grad()
def _cut_edge(model: KAN, x: Tensor, edge: Edge) -> None:
    """Cut one edge and all that lead nowhere without it, in place."""
    scores, means = _scores_and_means(model, x)
    kept = [alive.clone() for alive in model.alive]
    kept[edge.layer][edge.input, edge.output] = False
    scores.edges[edge.layer][edge.input, edge.output] = -1.0  # the last choice for its output's best path
    _cut_to(model, _connected(model, scores, kept), means)
    drop_dead_nodes(model)


@torch.no_grad()
def _lowest(model: KAN, x: Tensor, stay: list[Edge]) -> Edge | None:
    """The edge with the lowest score that is not the only one into its output, and not among those that stay."""
    scores = node_scores(model, x).edges
    edges = [e for e in model.edges() if e not in stay and int(model.alive[e.layer][:, e.output].sum()) > 1]
    ranked = [(float(scores[edge.layer][edge.input, edge.output]), edge) for edge in edges]
    score, edge = min(ranked, key=lambda pair: pair[0], default=(math.inf, None))
    return edge if score <= MAX_SCORE else None


@torch.no_grad()
def prune_inputs(model: KAN, data: Samples | Table, *, threshold: float = THRESHOLD) -> list[int]:
    """Cut the edges of inputs with low scores, in place; the network keeps its number of inputs.

    Args:
        model: the network.
        data: samples, or inputs (N, I), for the scores.
        threshold: highest score of an input that is cut.

    Returns:
        The inputs that are left.

    Raises:
        ConfigError: the threshold is negative or no number.
    """
    check_number("threshold", threshold, 0)
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
    hold(model)


def _connected(model: KAN, scores: NodeScores, kept: list[Tensor]) -> list[Tensor]:
    """The masks `kept` with the best path to every output, and without edges that lead nowhere."""
    kept = [mask.clone() for mask in kept]
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
