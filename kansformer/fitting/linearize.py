"""A network's outputs and their derivatives by all numbers that a fit may change, in closed form.

Shape letters: N samples, I inputs, O outputs of a layer, K outputs of the network, F features, E edges, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kansformer.fitting.network import KAN
from kansformer.nn.base import base_function


@dataclass
class LayerState:
    """A layer at some inputs.

    Args:
        inputs, outputs_of: the edges that are curves, (E,) each.
        x: (N, I).
        features: σ and the basis at x, and `slopes` their derivatives, (N, I, F).
        weights: what the features are multiplied with, (I, O, F).
        sums: what arrives at the layer's outputs, (N, O).
    """

    inputs: Tensor
    outputs_of: Tensor
    x: Tensor
    features: Tensor
    slopes: Tensor
    weights: Tensor
    sums: Tensor


class Parameters:
    """What a fit may change, as one vector: for each layer its curves edge by edge, the biases, its formulas."""

    def __init__(self, model: KAN) -> None:
        self.model = model
        self.edges = [model.curved(index).nonzero(as_tuple=True) for index in range(len(model.layers))]

    @torch.no_grad()
    def read(self) -> Tensor:
        """The vector, (P,)."""
        parts = []
        for (i, o), layer, formulas in self._layers():
            curves = torch.cat([layer.weight[o, i].unsqueeze(-1), layer.coefficients[i, :, o]], dim=-1)
            parts += [curves.flatten(), layer.bias, formulas.affine.flatten()]
        return torch.cat(parts).clone()

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

    def _layers(self) -> Any:
        return zip(self.edges, self.model.layers, self.model.formulas, strict=True)


@torch.no_grad()
def linearize(model: KAN, x: Tensor) -> tuple[Tensor, Tensor, list[LayerState]]:
    """Outputs (N, K), their derivatives by the vector of `Parameters` (N, K, P), and what was on the way."""
    states = []
    for index in range(len(model.layers)):
        states.append(layer_state(model, index, x))
        x = model.nodes(index, states[-1].sums)
    samples, width = x.shape
    slope_NKO = torch.eye(width, dtype=x.dtype, device=x.device).expand(samples, width, width)
    blocks: list[Tensor] = []
    for index in reversed(range(len(model.layers))):
        state, formulas = states[index], model.formulas[index]
        slope_NKO = _before_products(model, index, state.sums, slope_NKO)
        at_edges = slope_NKO[:, :, state.outputs_of].unsqueeze(-1) * state.features[:, state.inputs].unsqueeze(1)
        parts = [at_edges.flatten(2), slope_NKO]
        slopes_NIO = torch.einsum("nif,iof->nio", state.slopes, state.weights)
        if len(formulas):
            partials = slope_NKO[:, :, formulas.outputs_of].unsqueeze(-1) * formulas.partials(state.x).unsqueeze(1)
            parts.append(partials.flatten(2))
            slopes_NIO[:, formulas.inputs, formulas.outputs_of] += formulas.slopes(state.x)
        blocks = parts + blocks
        slope_NKO = torch.einsum("nko,nio->nki", slope_NKO, slopes_NIO)
    return x, torch.cat(blocks, dim=-1), states


def layer_state(model: KAN, index: int, x: Tensor) -> LayerState:
    """Everything about a layer at inputs (N, I); differentiable by its parameters."""
    layer: Any = model.layers[index]
    inputs, outputs_of = model.curved(index).nonzero(as_tuple=True)
    features, slopes = layer_features(layer, x)
    weights_IOF = torch.cat([layer.weight.mT.unsqueeze(-1), layer.coefficients.mT], dim=-1)
    sums = torch.einsum("nif,iof->no", features, weights_IOF) + layer.bias
    if len(model.formulas[index]):
        sums = sums + model.formulas[index](x)
    return LayerState(inputs, outputs_of, x, features, slopes, weights_IOF, sums)


def layer_features(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """σ and the basis at inputs of a `KANLinear`, and their derivatives, (N, I, F) each."""
    basis, denominator = layer.curves.basis, getattr(layer, "denominator", None)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        base = base_function(layer.base)(leaf)
        slope = torch.autograd.grad(base.sum(), leaf)[0] if base.requires_grad else torch.zeros_like(x)
    values, slopes = basis.values_and_derivatives(x, layer.domain, denominator)
    return (
        torch.cat([base.detach().unsqueeze(-1), values], dim=-1),
        torch.cat([slope.unsqueeze(-1), slopes], dim=-1),
    )


def _before_products(model: KAN, index: int, sums: Tensor, slope_NKO: Tensor) -> Tensor:
    """Derivatives by a layer's outputs, from those by the nodes behind it."""
    plain, products = model.width[index + 1]
    if not products:
        return slope_NKO
    factors = sums[:, plain:].unflatten(-1, (products, 2)).flip(-1)  # each output's partner
    slopes = slope_NKO[:, :, plain:].unsqueeze(-1) * factors.unsqueeze(1)
    return torch.cat([slope_NKO[:, :, :plain], slopes.flatten(2)], dim=-1)
