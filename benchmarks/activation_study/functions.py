"""The activations that take part, as plain modules. Those with a name of their own quote where they come from.

Shape letters: `...` any, I channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class SquaredReLU(nn.Module):
    """relu(x)² (So et al., Primer, 2021); below 0 it is (slope·x)²."""

    def __init__(self, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(x, self.slope).square()


class GrowingCosine(nn.Module):
    """x cos x (Noel et al., Growing Cosine Unit, 2021)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.cos(x)


class Snake(nn.Module):
    """x + sin²(a x)/a with a learned a, 1 at the start (Liu et al., Neural Networks Fail to Learn Periodic Functions,
    2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.frequency * x).square() / self.frequency


class PolyNorm(nn.Module):
    """Σ_k w_k x^k / rms(x^k) + b, k = 1, 2, 3 (Zhuo et al., Polynomial Composition Activations, 2024)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 1 / 3))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        powers = (x, x.square(), x.pow(3))
        normed = (p * torch.rsqrt(p.square().mean(-1, keepdim=True) + 1e-6) for p in powers)
        return sum((w * p for w, p in zip(self.weight, normed, strict=True)), start=self.bias)


class XIELU(nn.Module):
    """α_p x² + x/2 above 0, α_n (e^x - 1 - x) + x/2 below, both α learned and 0.8 at the start (Huang & Schlag,
    Deriving Activation Functions Using Integration, 2024)."""

    def __init__(self) -> None:
        super().__init__()
        self.positive = nn.Parameter(torch.tensor(math.log(math.expm1(0.8))))
        self.negative = nn.Parameter(torch.tensor(math.log(math.expm1(0.8 - 0.5))))

    def forward(self, x: Tensor) -> Tensor:
        above = functional.softplus(self.positive) * x.square()
        below = (0.5 + functional.softplus(self.negative)) * (torch.expm1(x.clamp(max=0.0)) - x)
        return torch.where(x > 0, above, below) + 0.5 * x


class LearnedMix(nn.Module):
    """w_1 SiLU + w_2 GELU + w_3 ReLU² + w_4 x, all weights learned and a quarter at the start (a mix of fixed
    activations as in arXiv 2605.26647; its own initial weights may differ)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        functions = (functional.silu(x), functional.gelu(x), functional.relu(x).square(), x)
        return sum((w * f for w, f in zip(self.weight, functions, strict=True)), start=x.new_zeros(()))


class ScaleShift(nn.Module):
    """a·SiLU(b x + c) + d with learned numbers, SiLU at the start: Swish-β and more (Ramachandran et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.shift = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale[0] * functional.silu(self.scale[1] * x + self.shift[0]) + self.shift[1]


class OneSided(nn.Module):
    """SiLU(x) and what a form adds to it, the latter on one side only: at x clamped to it.

    Args:
        form: SiLU and what is added.
        low, high: ends of the side.
    """

    def __init__(self, form: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.form, self.low, self.high = form, low, high

    def forward(self, x: Tensor) -> Tensor:
        inside = x.clamp(self.low, self.high)
        return functional.silu(x) + self.form(inside) - functional.silu(inside)
