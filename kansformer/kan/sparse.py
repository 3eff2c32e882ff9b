"""The way from a network to the smallest one that explains its samples.

Shape letters: N samples, I inputs, O outputs, F features, S sample points.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.checks import check_number
from kansformer.kan.constraints import check_not_held
from kansformer.kan.data import Samples, dataset_for
from kansformer.kan.edge_symbols import SETTLED
from kansformer.kan.edges import cut_edges
from kansformer.kan.fitting import fit, num_curved, rmse
from kansformer.kan.history import few_threads
from kansformer.kan.linearize import fit_layer_curves, layer_features
from kansformer.kan.pruning import MAX_GROWTH, become, drop_dead_nodes, prune
from kansformer.nn import KANLinear, refine_grid
from kansformer.symbolic import LIBRARY, SCIENCE_LIBRARY

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

ROUNDING = 1e-16
# Deviation of an output relative to its size, below which it is constant.
VARIES = 1e-9
# Of the fit of a composition, on a range with this margin.
SAMPLES_PER_COEFFICIENT, MARGIN = 8, 0.05
# Structures that are tried as networks, up to this many times the error.
STRUCTURES, STRUCTURE_ERROR = 6, 30.0


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings of `find_formula` and `KAN.sparsify`; errors are relative to the targets' standard deviation.

    Args:
        sparsity: weight of the edges' sizes in the sparse fits.
        sparse_steps: steps of each sparse fit, after which the network is pruned.
        steps: of a fit after pruning.
        fine_steps: of a fit on a finer grid.
        grid_size, order: of the networks at first.
        fine_grids: grid sizes that follow.
        min_gain: a finer grid is kept if it reduces the error to this share; noise it follows only a little.
        noise_factor, max_noise: an edge may be off by the error of the whole network times this, up to this share.
        exact: error of a formula that is the function itself; of targets in float32, or rounded to a few digits, the
            rounding error where that is larger.
        close: curves with an error up to this are named at once, others when all shapes have been tried.
        named_later: the number of the latter that are named, the best ones.
        samples_per_number: samples that a network needs for each of its numbers.
        max_edges, max_error: edges are named one by one in networks up to this size and error.
        thresholds: scores below which edges are removed from networks with an error above `max_error`, in turn.
        explained: in noise, the search ends when the formula's error is at most this many times that of curves.
        patience: the search in noisy samples ends when this many more networks gave no better formula.

    Examples:
        >>> from kansformer.kan import KAN, SearchSettings
        >>> model, x = KAN([2, 1]), torch.rand(100, 2, dtype=torch.float64)
        >>> error = model.sparsify((x, x[:, :1].exp()), settings=SearchSettings(sparse_steps=(10,), max_error=1e-3))
        >>> error < 1e-3
        True
    """

    sparsity: float = 6e-3
    sparse_steps: tuple[int, ...] = (40, 15)
    steps: int = 10
    fine_steps: int = 15
    grid_size: int = 5
    order: int = 3
    fine_grids: tuple[int, ...] = (10, 20)
    min_gain: float = 0.5
    noise_factor: float = 3.0
    max_noise: float = 0.05
    exact: float = 1e-10
    close: float = 1e-4
    named_later: int = 2
    samples_per_number: float = 2.0
    max_edges: int = 16
    max_error: float = 1e-2
    thresholds: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    explained: float = 1.05
    patience: int = 12


def sparsify(model: KAN, data: Samples, *, settings: SearchSettings | None = None) -> float:
    """Fit, prune and refit a network until it is the smallest one that explains the samples, in place.

    Sparse fits and pruning alternate; nodes with one incoming edge pass their input on; as long as curves do not follow
    the samples closely, more edges are removed while the description of the samples gets shorter. For one output, sums
    of curves of inputs and their combinations are compared with the result (see `find_formula`), so that the network
    may end with product nodes, and with an outer function that is a formula.

    Args:
        model: the network; its curves, not its formulas, are changed.
        data: samples with targets.
        settings: None for the defaults.

    Returns:
        The root mean square error on the training samples.

    Raises:
        ConfigError: the weight of the sparsity is negative, or the network is held to constraints.
        ShapeError, DataError: the samples do not fit the network or are not finite.
    """
    check_not_held(model, "sparsify")
    settings = SearchSettings() if settings is None else settings
    check_number("sparsity", settings.sparsity, 0)
    dataset = dataset_for(model, data)
    x, y = dataset.train_input, dataset.train_target
    scale_O, size_O = y.std(dim=0, correction=0), y.abs().amax(dim=0)
    scale_O = torch.where(scale_O > VARIES * size_O, scale_O, torch.where(size_O > 0, size_O, 1.0))
    with few_threads(x.numel() * sum(p.numel() for p in model.parameters())):
        sparse = copy.deepcopy(model)
        if y.shape[1] > 1 and not model.width[-1][1]:  # errors are relative to each output's own deviation
            scale_outputs(sparse, 1 / scale_O)
            sparse, _ = sparsified(sparse, x, y / scale_O, settings)
            scale_outputs(sparse, scale_O)
            error = rmse(sparse, x, y)
        else:
            sparse, error = sparsified(sparse, x, y, settings, float(y.std(correction=0)) or 1.0)
        has_formulas = any(len(formulas) for formulas in model.formulas)
        if not has_formulas and y.shape[1] == 1:
            sparse, error = _smaller(sparse, error, x, y, settings)
    become(model, sparse)
    return error


@torch.no_grad()
def scale_outputs(model: KAN, factor_O: Tensor) -> None:
    """Multiply the outputs of a network without products at the end, in place."""
    last, formulas = model.layers[-1], model.formulas[-1]
    last.coefficients.mul_(factor_O)
    last.weight.mul_(factor_O.unsqueeze(-1))
    last.bias.mul_(factor_O)
    formulas.affine[:, 2:] *= factor_O[formulas.outputs_of].unsqueeze(-1)


def _smaller(model: KAN, error: float, x: Tensor, y: Tensor, settings: SearchSettings) -> tuple[KAN, float]:
    """The network, or a smaller one with the structure of a formula, and its RMSE."""
    from kansformer.kan.structure_networks import network_of
    from kansformer.kan.structure_search import find_structures

    names = [f"x_{index + 1}" for index in range(x.shape[1])]
    x_64, y_64 = x.double().cpu(), y[:, 0].double().cpu()

    def finer_error(model: KAN) -> float:
        """RMSE on a grid of twice the intervals."""
        finer = copy.deepcopy(model)
        refine_grid(finer, 2 * model.layers[0].curves.basis.grid_size)
        fit(finer, (x, y), steps=settings.fine_steps, tolerance=SETTLED, grid_update_every=0, progress=False)
        return rmse(finer, x, y)

    for structure in find_structures(x_64, y_64, names, SCIENCE_LIBRARY)[:STRUCTURES]:
        if structure.error * float(y.std(correction=0)) > STRUCTURE_ERROR * error:
            continue
        trial = network_of(structure.at(x_64, names), y_64, names, model)
        fit(trial, (x, y), steps=settings.fine_steps, tolerance=SETTLED, grid_update_every=0, progress=False)
        trial_error = rmse(trial, x, y)
        if _count(trial) < _count(model):
            is_good = trial_error <= MAX_GROWTH * error or finer_error(trial) <= MAX_GROWTH * finer_error(model)
        else:
            is_good = trial_error <= error / MAX_GROWTH
        if is_good:
            model, error = trial, trial_error
    return model, error


def _count(model: KAN) -> int:
    """The number of edges that are not just lines."""
    symbols = sum(symbol.name != "x" for formulas in model.formulas for symbol in formulas.symbols)
    return symbols + num_curved(model)


def sparsified(model: KAN, x: Tensor, y: Tensor, settings: SearchSettings, scale: float = 1.0) -> tuple[KAN, float]:
    """A sparse network and its RMSE, for targets of this scale; `model` itself is fitted and pruned on the way."""
    for steps in settings.sparse_steps:
        fit(model, (x, y), steps=steps, sparsity=settings.sparsity * scale, progress=False)
        prune(model, (x, y))
        straighten_single_paths(model, x)
    fit(model, (x, y), steps=settings.steps, tolerance=SETTLED, progress=False)
    error = rmse(model, x, y)
    if not error > settings.max_error * scale:
        return model, error

    def length_of(model: KAN, error: float) -> float:
        numbers = num_curved(model) * model.layers[0].curves.basis.num_coefficients
        return description_length(error / scale, numbers, len(y))

    best = (length_of(model, error), model, error)
    for threshold in settings.thresholds:
        model = copy.deepcopy(model)
        if not prune(model, x, threshold=threshold).removed:
            continue
        fit(model, (x, y), steps=settings.steps, tolerance=SETTLED, progress=False)
        error = rmse(model, x, y)
        best = min(best, (length_of(model, error), model, error), key=lambda tried: tried[0])
    return best[1:]


def description_length(error: float, numbers: int, samples: int) -> float:
    """Nats that encode samples by a model with this error and this number of parameters (Rissanen, 1978)."""
    if math.isnan(error):
        return float("inf")
    return samples * math.log(max(error, ROUNDING)) + numbers / 2 * math.log(samples)


@torch.no_grad()
def straighten_single_paths(model: KAN, x: Tensor) -> int:
    """Move the curve of an edge that enters a node alone into the edges that leave it, in place.

    There only the composition ψ(φ(x)) is determined: it stays the same when φ is followed by an invertible function and
    ψ is preceded by its inverse, so a fit ends at one of many pairs, none of which has a symbol. φ becomes the formula
    x, and ψ is fitted to the composition on the range of the inputs x (N, I). Nodes that pass on the same input are
    merged.

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
            lower, upper = x[:, i].aminmax()
            if lower == upper or model.formulas[index].find(i, node) is not None:
                continue
            room = MARGIN * (upper - lower)
            unit_S = torch.linspace(0, 1, SAMPLES_PER_COEFFICIENT * outer.coefficients.shape[1]).to(x)
            x_S = lower - room + (upper - lower + 2 * room) * unit_S
            middle_S = _edge_at(inner, i, torch.tensor([node]), x_S)[:, 0] + inner.bias[node]
            o = leaving.nonzero()[:, 0]
            together_SO = _edge_at(outer, node, o, middle_S)
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
                for level, merged in ((index, (slice(None), node)), (index + 1, node)):
                    gone_IO = torch.zeros_like(model.alive[level])
                    gone_IO[merged] = True
                    cut_edges(model, level, gone_IO)
        x = model.nodes(index, model.sums(index, x))
    drop_dead_nodes(model)
    return count


def _edge_at(layer: KANLinear, input: int, outputs: Tensor, x_S: Tensor) -> Tensor:
    """Edges from one input of a layer at points, (S, O)."""
    whole = x_S.new_zeros(len(x_S), layer.in_features)
    whole[:, input] = x_S
    features_SF = layer_features(layer, whole)[0][:, input]
    weights_FO = torch.cat([layer.weight[outputs, input][None], layer.coefficients[input][:, outputs]])
    return features_SF @ weights_FO
