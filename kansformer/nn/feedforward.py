"""Feed-forward networks for one's own transformer.

Shape letters: `...` any, D model width, M hidden width.
"""

from functools import partial

import torch
from torch import Tensor, nn

from kansformer.nn.activation import LearnedActivation
from kansformer.nn.fused_gate import gated_product
from kansformer.nn.linear import KANLinear


class KANFeedForward(nn.Module):
    """Two KAN layers, D → M → D. The activation is the base function of the second layer's edges.

    Args:
        features: D.
        hidden_features: M.
        bias: whether the layers have a bias.
        base: σ of the second layer; the first layer's edges are straight lines plus curves.
        basis, grid_size, order, domain, edges, rank, groups, extrapolation, device, dtype: as in `KANLinear`.

    Raises:
        ConfigError: an argument is not among its choices.

    Examples:
        >>> from kansformer import KANFeedForward
        >>> block = KANFeedForward(4, 8, edges="low_rank", rank=2)
        >>> block(torch.randn(2, 5, 4)).shape
        torch.Size([2, 5, 4])
    """

    def __init__(
        self,
        features: int,
        hidden_features: int,
        *,
        basis: str = "bspline",
        grid_size: int = 5,
        order: int = 3,
        domain: tuple[float, float] = (-4.0, 4.0),
        edges: str = "full",
        rank: int = 16,
        groups: int = 8,
        extrapolation: str = "linear",
        base: str = "silu",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        layer = partial(KANLinear, basis=basis, grid_size=grid_size, order=order, domain=domain, edges=edges, rank=rank)
        layer = partial(layer, groups=groups, extrapolation=extrapolation, bias=bias, device=device, dtype=dtype)
        self.up_proj = layer(features, hidden_features, base="identity")
        self.down_proj = layer(hidden_features, features, base=base)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) to (..., D)."""
        return self.down_proj(self.up_proj(x))


class GatedKANFeedForward(nn.Module):
    """A SwiGLU block (Shazeer, 2020) with a learned curve on the gate and one on the block's input, straight at first.

    h = (σ + ψ_gate)(W_gate x') · W_up x' with x' = x + ψ_in(x), and y = W_down h.

    Args:
        features: D.
        hidden_features: M.
        base: σ of the gate.
        bias: whether the three linear layers have a bias.
        basis, grid_size, order, domain, groups, extrapolation, device, dtype: as in `KANLinear`.
        edges: `channel` or `group`, for both curves.

    Raises:
        ConfigError: an argument is not among its choices.

    Examples:
        >>> from kansformer import GatedKANFeedForward
        >>> block, x = GatedKANFeedForward(4, 8), torch.randn(2, 5, 4)
        >>> swiglu = block.down_proj(torch.nn.functional.silu(block.gate_proj(x)) * block.up_proj(x))
        >>> torch.allclose(block(x), swiglu)  # until it is trained
        True
    """

    def __init__(
        self,
        features: int,
        hidden_features: int,
        *,
        basis: str = "bspline",
        grid_size: int = 8,
        order: int = 3,
        domain: tuple[float, float] = (-4.0, 4.0),
        edges: str = "channel",
        groups: int = 8,
        extrapolation: str = "linear",
        base: str = "silu",
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        curve = partial(LearnedActivation, basis=basis, grid_size=grid_size, order=order, domain=domain, edges=edges)
        curve = partial(curve, groups=groups, extrapolation=extrapolation, device=device, dtype=dtype)
        self.input_curve = curve(features, base="identity")
        self.gate_proj = nn.Linear(features, hidden_features, bias=bias, device=device, dtype=dtype)
        self.up_proj = nn.Linear(features, hidden_features, bias=bias, device=device, dtype=dtype)
        self.act_fn = curve(hidden_features, base=base)
        self.down_proj = nn.Linear(hidden_features, features, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) to (..., D)."""
        x = self.input_curve(x)
        return self.down_proj(gated_product(self.act_fn, self.gate_proj(x), self.up_proj(x)))
