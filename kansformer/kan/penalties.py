"""Penalties that keep a network sparse and smooth: sizes of edges, their entropy, and the curvature of curves.

The size of an edge is the standard deviation of its values. The entropy, in bits, is that of the shares that edges have
at their node, and among those that leave their input, averaged over nodes; it concentrates the network on a few edges
(Liu et al., 2024).

The size has a kink where an edge is zero. Levenberg-Marquardt and L-BFGS, which model the loss by parabolas, get a
bound in its place that is a parabola in the edge's values and touches the size at the present one, renewed at every
step.

Shape letters: N samples, I inputs, O outputs, F features, E edges, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

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
        idle: a size that is added to every node's total before shares are taken, so that nodes with small edges only
            have little entropy; 1 in pykan.
    """

    sparsity: float
    entropy: float
    smoothness: float
    idle: float = 0.0

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

    def weights_of_variances(self, states: list[LayerState]) -> list[Tensor]:
        """W with W/2 times the edges' variances a bound of the sizes' penalty, up to a constant, (E,) for each layer.

        A size s is at most s²/2s₀ + s₀/2, where s₀ is the present one.
        """
        return [self._weights(state) for state in states]

    def bound(self, model: KAN, states: list[LayerState], weights: list[Tensor]) -> Tensor:
        """The penalty with the bound of these weights for that of the sizes, differentiable."""
        total = Penalties(0.0, 0.0, self.smoothness).of(model, states)
        for state, weight_E in zip(states, weights, strict=True):
            total = total + self.sparsity / 2 * (weight_E * _variances(state)).sum()
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
                weight_E11 = self._weights(state)[:, None, None]
                block_EFF = self.sparsity / 2 * weight_E11 * state.covariances[state.inputs]
            if self.smoothness:
                block_EFF = block_EFF + self.smoothness * bending(layer)[state.inputs]
            others = state.sums.shape[1] + formulas.affine.numel()  # biases and formulas cost nothing
            blocks += [*block_EFF, state.sums.new_zeros(others, others)]
        return torch.block_diag(*blocks)

    def _of_sizes(self, sizes_E: Tensor, state: LayerState) -> Tensor:
        if not len(sizes_E):
            return sizes_E.sum()
        entropy = _entropy(sizes_E, state.inputs, self.idle) + _entropy(sizes_E, state.outputs_of, self.idle)
        return sizes_E.sum() + self.entropy * entropy

    def _weights(self, state: LayerState) -> Tensor:
        sizes_E = _sizes(state).detach()
        with torch.enable_grad():
            leaf = sizes_E.clone().requires_grad_()
            (slope_E,) = torch.autograd.grad(self._of_sizes(leaf, state), leaf)
        return slope_E.clamp(min=MIN_SLOPE) / (sizes_E + MIN_SIZE)


def bending(layer: KANLinear) -> Tensor:
    """B with wᵀBw the mean square of a curve's second derivative on its domain, in halves of it, (I, F, F).

    It is kept until the layer's grid changes: a fit asks for it at every step.
    """
    if layer.denominator is not None:  # which training changes
        return _bending(layer)
    grid = (layer.curves.basis, layer.base, layer.domain.dtype, layer.domain.device)
    known = _KNOWN.get(layer)
    if known is None or known[0] != grid or not torch.equal(known[1], layer.domain):
        known = _KNOWN[layer] = (grid, layer.domain.clone(), _bending(layer))
    return known[2]


_KNOWN: WeakKeyDictionary[KANLinear, tuple[tuple, Tensor, Tensor]] = WeakKeyDictionary()


@torch.inference_mode(False)
@torch.no_grad()
def _bending(layer: KANLinear) -> Tensor:
    domain_I2 = layer.domain
    unit_S = torch.linspace(0, 1, POINTS).to(domain_I2)
    x_SI = domain_I2[:, 0] + (domain_I2[:, 1] - domain_I2[:, 0]) * unit_S.unsqueeze(-1)
    half_I = (domain_I2[:, 1] - domain_I2[:, 0]) / 2
    second_SIF = higher_features(layer, x_SI, 2)[2] * half_I.square().unsqueeze(-1)
    return torch.einsum("sif,sig->ifg", second_SIF, second_SIF) / POINTS


def _sizes(state: LayerState) -> Tensor:
    return (_variances(state).clamp(min=0) + TINY).sqrt()


def _variances(state: LayerState) -> Tensor:
    weights_EF = state.weights[state.inputs, state.outputs_of]
    return torch.einsum("ef,efg,eg->e", weights_EF, state.covariances[state.inputs], weights_EF)


def _entropy(sizes_E: Tensor, nodes_E: Tensor, idle: float) -> Tensor:
    """Mean over nodes of the entropy of their edges' shares, in bits."""
    count = int(nodes_E.max()) + 1
    totals = sizes_E.new_zeros(count).index_add(0, nodes_E, sizes_E)
    share_E = sizes_E / (totals[nodes_E] + idle + TINY)
    return -(share_E * (share_E + MIN_SIZE).log2()).sum() / len(nodes_E.unique())
