"""A network's outputs and their derivatives by all parameters, in closed form.

Shape letters: N samples, I inputs, O outputs of a layer, K outputs of the network, F features, E edges, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from kansformer.basis import elementwise_derivatives, fit_curves
from kansformer.kan.constraints import without_base
from kansformer.kan.edges import SymbolicEdges
from kansformer.nn import KANLinear
from kansformer.nn.base import base_function

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

FirstOrder: TypeAlias = tuple[Tensor, Tensor]
Features = TypeVar("Features")


@dataclass
class LayerState:
    """A layer at some inputs.

    Args:
        curved: gives the mask of the edges that are curves, (I, O).
        x: (N, I).
        features: σ and the basis at x, and `slopes` their derivatives, (N, I, F).
        weights: of the features, (I, O, F).
        sums: the layer's outputs, (N, O).
    """

    curved: Callable[[], Tensor]
    x: Tensor
    features: Tensor
    slopes: Tensor
    weights: Tensor
    sums: Tensor

    @cached_property
    def edges(self) -> tuple[Tensor, ...]:
        """Inputs and outputs of the edges that are curves, (E,) each."""
        return self.curved().nonzero(as_tuple=True)

    @property
    def inputs(self) -> Tensor:
        return self.edges[0]

    @property
    def outputs_of(self) -> Tensor:
        return self.edges[1]

    @cached_property
    def covariances(self) -> Tensor:
        """Of the features of every input, (I, F, F)."""
        centred = self.features - self.features.mean(dim=0)
        return torch.einsum("nif,nig->ifg", centred, centred) / len(centred)


class Parameters:
    """A network's parameters as one vector: for each layer its curves edge by edge, the biases, its formulas.

    Attributes:
        free_P: mask of the entries that require gradients and are not numbers of frozen formulas, None if all are.
    """

    def __init__(self, model: KAN) -> None:
        self.model = model
        self.edges = [model.curved(index).nonzero(as_tuple=True) for index in range(len(model.layers))]
        free_P = self._vector(_is_free, [_is_free(f.affine) & ~f.frozen.unsqueeze(-1) for f in model.formulas])
        free_P &= self._may_move()
        self.free_P = None if free_P.all() else free_P

    def read(self) -> Tensor:
        """The vector, (P,)."""
        return self._vector(Tensor.detach, [formulas.affine.detach() for formulas in self.model.formulas])

    def groups(self) -> Tensor:
        """For every entry one in the same unit, (P,): the coefficients of a layer share one, others are their own."""
        parts, start = [], 0
        for (i, _), layer, formulas in self._layers():
            width = layer.coefficients.shape[1] + 1
            numbers, count = len(i) * width, len(layer.bias) + formulas.affine.numel()
            part = torch.arange(start, start + numbers + count, device=i.device)
            part[:numbers].view(-1, width)[:, 1:] = start + 1
            parts.append(part)
            start += len(part)
        return torch.cat(parts)

    def _may_move(self) -> Tensor:
        """False at the base weights and last biases that the constraints keep as they are, (P,)."""
        parts = []
        for index, ((i, o), layer, formulas) in enumerate(self._layers()):
            free = torch.ones(len(i), layer.coefficients.shape[1] + 1, dtype=torch.bool, device=i.device)
            free[:, 0] = ~without_base(self.model, index)[i, o]
            others = torch.ones(len(layer.bias) + formulas.affine.numel(), dtype=torch.bool, device=i.device)
            if index == len(self.edges) - 1 and self.model.constraints is not None:
                others[: len(layer.bias)] = not self.model.constraints.is_bounded  # what bounds of curves add to
            parts += [free.flatten(), others]
        return torch.cat(parts)

    def _vector(self, part: Callable[[Tensor], Tensor], affines: list[Tensor]) -> Tensor:
        parts = []
        for ((i, o), layer, _), affine in zip(self._layers(), affines, strict=True):
            curves = torch.cat([part(layer.weight)[o, i].unsqueeze(-1), part(layer.coefficients)[i, :, o]], dim=-1)
            parts += [curves.flatten(), part(layer.bias), affine.flatten()]
        return torch.cat(parts)

    @torch.no_grad()
    def write(self, vector_P: Tensor) -> None:
        """Put a vector into the model."""
        start = 0
        for (i, o), layer, formulas in self._layers():
            width = layer.coefficients.shape[1] + 1
            sizes = (len(i) * width, len(layer.bias), formulas.affine.numel())
            curves, bias, affine = vector_P[start : start + sum(sizes)].split(sizes)
            start += sum(sizes)
            curves = curves.reshape(-1, width)
            layer.weight[o, i], layer.coefficients[i, :, o] = curves[:, 0], curves[:, 1:]
            layer.bias.copy_(bias)
            formulas.affine.copy_(affine.reshape(-1, 4))

    def _layers(self) -> Iterator[tuple[tuple[Tensor, ...], KANLinear, SymbolicEdges]]:
        return zip(self.edges, self.model.layers, self.model.formulas, strict=True)


def _is_free(parameter: Tensor) -> Tensor:
    return torch.full_like(parameter, parameter.requires_grad, dtype=torch.bool)


class Inputs(Generic[Features]):
    """Points at which a network is evaluated repeatedly: the features of its first layer are cached.

    Args:
        x: (N, I).
        compute: the features of a layer at points.
    """

    def __init__(self, x: Tensor, compute: Callable[[KANLinear, Tensor], Features]) -> None:
        self.x, self._compute = x, compute
        self._cached: tuple[Tensor, int, Features] | None = None

    def features(self, layer: KANLinear) -> Features | None:
        """The features of the first layer; None if training changes them."""
        if layer.denominator is not None:
            return None
        width = layer.coefficients.shape[1]
        if self._cached is None or width != self._cached[1] or not torch.equal(layer.domain, self._cached[0]):
            self._cached = (layer.domain.clone(), width, self._compute(layer, self.x))
        return self._cached[2]


def network_states(model: KAN, inputs: Inputs[FirstOrder]) -> tuple[Tensor, list[LayerState]]:
    """Outputs (N, K), and every layer on the way."""
    states, x = [], inputs.x
    for index, layer in enumerate(model.layers):
        states.append(layer_state(model, index, x, None if index else inputs.features(layer)))
        x = model.nodes(index, states[-1].sums)
    return x, states


@torch.no_grad()
def jacobian(model: KAN, states: list[LayerState]) -> Tensor:
    """Derivatives of the outputs by the vector of `Parameters`, (N, K, P)."""
    samples, width = len(states[-1].sums), sum(model.width[-1])
    slope_NKO = torch.eye(width).to(states[-1].sums).expand(samples, width, width)
    blocks: list[Tensor] = []
    for index in reversed(range(len(states))):
        state, formulas = states[index], model.formulas[index]
        slope_NKO = _before_products(model, index, state.sums, slope_NKO)
        at_edges = slope_NKO[:, :, state.outputs_of].unsqueeze(-1) * state.features[:, state.inputs].unsqueeze(1)
        parts = [at_edges.flatten(2), slope_NKO]
        if len(formulas):
            partials = slope_NKO[:, :, formulas.outputs_of].unsqueeze(-1) * formulas.partials(state.x).unsqueeze(1)
            parts.append(partials.flatten(2))
        blocks = parts + blocks
        if index:
            slopes_NIO = torch.einsum("nif,iof->nio", state.slopes, state.weights)
            if len(formulas):
                slopes_NIO[:, formulas.inputs, formulas.outputs_of] += formulas.slopes(state.x)
            slope_NKO = torch.einsum("nko,nio->nki", slope_NKO, slopes_NIO)
    return torch.cat(blocks, dim=-1)


def layer_state(model: KAN, index: int, x: Tensor, features: FirstOrder | None = None) -> LayerState:
    """A layer at inputs (N, I), differentiable by its parameters; `features` of x if they are known."""
    layer = model.layers[index]
    values, slopes = layer_features(layer, x) if features is None else features
    weights_IOF = torch.cat([layer.weight.mT.unsqueeze(-1), layer.coefficients.mT], dim=-1)
    sums = torch.einsum("nif,iof->no", values, weights_IOF) + layer.bias
    if len(model.formulas[index]):
        sums = sums + model.formulas[index](x)
    return LayerState(partial(model.curved, index), x, values, slopes, weights_IOF, sums)


def layer_features(layer: KANLinear, x: Tensor) -> FirstOrder:
    """σ and the basis at inputs of a `KANLinear`, and their derivatives, (N, I, F) each; differentiable by x."""
    values, slopes = layer.curves.basis.values_and_derivatives(x, layer.domain, layer.denominator)
    base = base_function(layer.base)
    if layer.base == "silu":
        slope = torch.ops.aten.silu_backward(torch.ones_like(x), x.detach())
    else:
        slope = elementwise_derivatives(base, x, 1)[1]
    return torch.cat([base(x).unsqueeze(-1), values], dim=-1), torch.cat([slope.unsqueeze(-1), slopes], dim=-1)


@torch.no_grad()
def higher_features(layer: KANLinear, x: Tensor, highest: int) -> Tensor:
    """σ and the basis at inputs (N, I), and their derivatives up to the `highest`, (highest + 1, N, I, F)."""
    base = elementwise_derivatives(base_function(layer.base), x, highest)
    values = layer.curves.basis.values_and_higher_derivatives(x, layer.domain, highest, layer.denominator)
    return torch.cat([base.unsqueeze(-1), values], dim=-1)


def fit_layer_curves(layer: KANLinear, input: int, x_S: Tensor, y_SO: Tensor) -> Tensor:
    """Coefficients of the curves of one input through values at points, (C, O)."""
    row = slice(input, input + 1)
    denominator = None if layer.denominator is None else layer.denominator[row]
    basis, domain = layer.curves.basis, layer.domain[row]
    return fit_curves(x_S.unsqueeze(0), y_SO.unsqueeze(0), basis, domain, denominator_ID=denominator)[0]


def levels(model: KAN, x: Tensor) -> Iterator[Tensor]:
    """The inputs of every layer, and the outputs last."""
    yield x
    for index in range(len(model.layers)):
        x = model.nodes(index, model.sums(index, x))
        yield x


def _before_products(model: KAN, index: int, sums: Tensor, slope_NKO: Tensor) -> Tensor:
    """Derivatives by a layer's outputs, from those by the nodes behind it."""
    plain, products = model.width[index + 1]
    if not products:
        return slope_NKO
    factors = sums[:, plain:].unflatten(-1, (products, 2)).flip(-1)  # each output's partner
    slopes = slope_NKO[:, :, plain:].unsqueeze(-1) * factors.unsqueeze(1)
    return torch.cat([slope_NKO[:, :, :plain], slopes.flatten(2)], dim=-1)


def slopes_of_columns(columns_NK: Tensor, x: Tensor) -> Tensor:
    """Derivatives of columns by the rows of x (N, ...) that each row is made of, (N, K, ...)."""
    slopes = [
        torch.autograd.grad(column_N.sum(), x, retain_graph=True, materialize_grads=True)[0]
        for column_N in columns_NK.unbind(dim=1)
    ]
    return torch.stack(slopes, dim=1)
