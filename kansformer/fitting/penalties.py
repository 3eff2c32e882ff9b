"""What keeps a network sparse: the sizes of its edges, and how evenly they are spread.

The size of an edge is the standard deviation of what it adds at its node. The entropy, in bits, is that of the shares
that edges have at their node, and among those that leave their input, averaged over nodes; it drives a few edges to do
the work (Liu et al., 2024).

Shape letters: N samples, I inputs, O outputs, F features, E edges, P parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kansformer.fitting.linearize import LayerState

TINY = 1e-12
SMALLEST_SLOPE, SMALLEST_SIZE = 0.05, 1e-4


def penalty(states: list[LayerState], entropy: float) -> Tensor:
    """Sum of the sizes of all curves plus `entropy` times their entropies."""
    return sum((_of_sizes(_sizes(state), state, entropy) for state in states), torch.zeros(()))


@torch.no_grad()
def quadratic_penalty(states: list[LayerState], affine_sizes: list[int], entropy: float) -> Tensor:
    """Q with pᵀQp / 2 an upper bound of the penalty near p, up to a constant, (P, P): each size s by s²/2s₀ + s₀/2.

    Args:
        states: of all layers.
        affine_sizes: how many numbers the formulas of each layer have.
        entropy: as in `penalty`.
    """
    blocks = []
    for state, affine in zip(states, affine_sizes, strict=True):
        sizes_E = _sizes(state)
        with torch.enable_grad():
            leaf = sizes_E.detach().requires_grad_()
            (slope_E,) = torch.autograd.grad(_of_sizes(leaf, state, entropy), leaf)
        weight_E = slope_E.clamp(min=SMALLEST_SLOPE) / (sizes_E + SMALLEST_SIZE)
        blocks += list(weight_E[:, None, None] * _covariances(state)[state.inputs])
        blocks.append(torch.zeros(state.sums.shape[1] + affine, device=sizes_E.device).diag().to(sizes_E))
    return torch.block_diag(*blocks)


def _sizes(state: LayerState) -> Tensor:
    weights_EF = state.weights[state.inputs, state.outputs_of]
    variances_E = torch.einsum("ef,efg,eg->e", weights_EF, _covariances(state)[state.inputs], weights_EF)
    return (variances_E.clamp(min=0) + TINY).sqrt()


def _covariances(state: LayerState) -> Tensor:
    centred = state.features - state.features.mean(dim=0)
    return torch.einsum("nif,nig->ifg", centred, centred) / len(centred)


def _of_sizes(sizes_E: Tensor, state: LayerState, entropy: float) -> Tensor:
    if not len(sizes_E):
        return sizes_E.sum()
    entropies = [_entropy(sizes_E, nodes) for nodes in (state.inputs, state.outputs_of)]
    return sizes_E.sum() + entropy * (entropies[0] + entropies[1])


def _entropy(sizes_E: Tensor, nodes_E: Tensor) -> Tensor:
    """Mean over nodes of the entropy of their edges' shares, in bits."""
    count = int(nodes_E.max()) + 1
    totals = sizes_E.new_zeros(count).index_add(0, nodes_E, sizes_E)
    share_E = sizes_E / (totals[nodes_E] + TINY)
    return -(share_E * (share_E + SMALLEST_SIZE).log2()).sum() / len(nodes_E.unique())
