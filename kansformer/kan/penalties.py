"""Penalties that keep a network sparse and smooth: sizes of edges, their entropy, and the curvature of curves.

The size of an edge is the standard deviation of its values. The entropy, in bits, is that of the shares that edges have
at their node, and among those that leave their input, averaged over nodes; it concentrates the network on a few edges
(Liu et al., 2024).

Shape letters: N samples, I inputs, O outputs, F features, E edges, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.kan.linearize import LayerState, higher_features
from kansformer.nn import KANLinear

if TYPE_CHECKING:
    from kansformer.kan.network import KAN

TINY = 1e-12
POINTS = 64
MIN_SLOPE, MIN_SIZE = 0.05, 1e-4


@dataclass(frozen=True)
class Penalties:
    """Weights of the terms that are added to the loss.

    Args:
        sparsity: weight of the sizes of all edges plus `entropy` times their entropies.
        entropy: weight of the entropies in it.
        smoothness: weight of the sum over curves of the mean square of their second derivatives, by inputs in halves of
            the domain.
    """

    sparsity: float
    entropy: float
    smoothness: float

    def __bool__(self) -> bool:
        return bool(self.sparsity or self.smoothness)

    def of(self, model: KAN, states: list[LayerState]) -> Tensor:
        """The penalty, differentiable by the network's parameters."""
        total = torch.zeros(())
        if self.sparsity:
            total = self.sparsity * sum((self._of_sizes(_sizes(state), state) for state in states), total)
        if self.smoothness:
            for layer, state in zip(model.layers, states, strict=True):
                weights_EF, bending_EFF = state.weights[state.inputs, state.outputs_of], bending(layer)[state.inputs]
                total = total + self.smoothness * torch.einsum("ef,efg,eg->", weights_EF, bending_EFF, weights_EF)
        return total

    @torch.no_grad()
    def quadratic(self, model: KAN, states: list[LayerState]) -> Tensor | None:
        """Q with pᵀQp an upper bound of the penalty near p, up to a constant, (P, P); None if there is none."""
        if not self:
            return None
        blocks: list[Tensor] = []
        for layer, state, formulas in zip(model.layers, states, model.formulas, strict=True):
            block_EFF = torch.zeros((), device=state.sums.device)
            if self.sparsity:
                block_EFF = self.sparsity / 2 * self._bound_of_sizes(state)
            if self.smoothness:
                block_EFF = block_EFF + self.smoothness * bending(layer)[state.inputs]
            others = state.sums.shape[1] + formulas.affine.numel()  # biases and formulas cost nothing
            blocks += [*block_EFF, state.sums.new_zeros(others, others)]
        return torch.block_diag(*blocks)

    def _of_sizes(self, sizes_E: Tensor, state: LayerState) -> Tensor:
        if not len(sizes_E):
            return sizes_E.sum()
        entropy = _entropy(sizes_E, state.inputs) + _entropy(sizes_E, state.outputs_of)
        return sizes_E.sum() + self.entropy * entropy

    def _bound_of_sizes(self, state: LayerState) -> Tensor:
        """Twice a bound for every edge, (E, F, F): its size s is at most s²/2s₀ + s₀/2, where s₀ is the present one."""
        sizes_E = _sizes(state)
        with torch.enable_grad():
            leaf = sizes_E.detach().requires_grad_()
            (slope_E,) = torch.autograd.grad(self._of_sizes(leaf, state), leaf)
        weight_E = slope_E.clamp(min=MIN_SLOPE) / (sizes_E + MIN_SIZE)
        return weight_E[:, None, None] * _covariances(state)[state.inputs]


@torch.no_grad()
def bending(layer: KANLinear) -> Tensor:
    """B with wᵀBw the mean square of a curve's second derivative on its domain, in halves of it, (I, F, F)."""
    domain_I2 = layer.domain
    unit_S = torch.linspace(0, 1, POINTS).to(domain_I2)
    x_SI = domain_I2[:, 0] + (domain_I2[:, 1] - domain_I2[:, 0]) * unit_S.unsqueeze(-1)
    half_I = (domain_I2[:, 1] - domain_I2[:, 0]) / 2
    second_SIF = higher_features(layer, x_SI, 2)[2] * half_I.square().unsqueeze(-1)
    return torch.einsum("sif,sig->ifg", second_SIF, second_SIF) / POINTS


def _sizes(state: LayerState) -> Tensor:
    weights_EF = state.weights[state.inputs, state.outputs_of]
    variances_E = torch.einsum("ef,efg,eg->e", weights_EF, _covariances(state)[state.inputs], weights_EF)
    return (variances_E.clamp(min=0) + TINY).sqrt()


def _covariances(state: LayerState) -> Tensor:
    centred = state.features - state.features.mean(dim=0)
    return torch.einsum("nif,nig->ifg", centred, centred) / len(centred)


def _entropy(sizes_E: Tensor, nodes_E: Tensor) -> Tensor:
    """Mean over nodes of the entropy of their edges' shares, in bits."""
    count = int(nodes_E.max()) + 1
    totals = sizes_E.new_zeros(count).index_add(0, nodes_E, sizes_E)
    share_E = sizes_E / (totals[nodes_E] + TINY)
    return -(share_E * (share_E + MIN_SIZE).log2()).sum() / len(nodes_E.unique())
