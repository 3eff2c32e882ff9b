"""What the kernels compute, in plain PyTorch: any device, any floating dtype, differentiable any number of times.

16-bit inputs are computed in float32. Slow, and meant to be: tests compare with it, and second derivatives take it.

Shape letters: N tokens, I inputs, O outputs, C coefficients per curve, P curves, D denominator parameters; `...` any.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .bases import MAX_DISTANCE

BASE_FUNCTIONS = {
    "identity": lambda x: x,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
    "zero": torch.zeros_like,
}
"""The functions σ that the kernels know by name."""


def learned_activation(
    x: Tensor,
    coefficients_PC: Tensor,
    domain_P2: Tensor,
    *,
    basis: str,
    grid_size: int,
    order: int,
    extrapolation: str = "linear",
    denominator: Tensor | None = None,
    base: str | Tensor = "identity",
    factor: Tensor | None = None,
) -> Tensor:
    """(σ(x) + ψ(x)) · factor, each of σ, sum and product rounded once to x's dtype; see `activation.py`."""
    size = x.shape[-1] // len(coefficients_PC)
    compute = _compute_dtype(x)
    curves = [
        None if t is None else t.to(compute).repeat_interleave(size, 0)
        for t in (coefficients_PC, domain_P2, denominator)
    ]
    coefficients_IC, domain_I2, denominator_ID = curves
    values = basis_values(x.to(compute), domain_I2, basis, grid_size, order, extrapolation, denominator_ID)
    psi = (values * coefficients_IC).sum(-1)
    sigma = BASE_FUNCTIONS[base](x) if isinstance(base, str) else base
    activated = (sigma.to(compute) + psi).to(x.dtype)
    return activated if factor is None else activated * factor


def sum_edges(
    x_NI: Tensor,
    coefficients_ICO: Tensor,
    domain_I2: Tensor,
    *,
    basis: str,
    grid_size: int,
    order: int,
    extrapolation: str = "linear",
    denominator: Tensor | None = None,
) -> Tensor:
    """Σ_i Σ_c a_ico B_c(x_i), (N, O) in float32, or float64 where x is."""
    compute = _compute_dtype(x_NI)
    denominator_ID = None if denominator is None else denominator.to(compute)
    values_NIC = basis_values(
        x_NI.to(compute), domain_I2.to(compute), basis, grid_size, order, extrapolation, denominator_ID
    )
    return values_NIC.flatten(1) @ coefficients_ICO.to(compute).flatten(0, 1)


def basis_values(
    x: Tensor,
    domain: Tensor,
    basis: str,
    grid_size: int,
    order: int,
    extrapolation: str = "linear",
    denominator: Tensor | None = None,
) -> Tensor:
    """All B_c(x), (..., C), of x (..., I) with `domain` (I, 2) and, for `rational`, `denominator` (I, D)."""
    lower, upper = domain.unbind(-1)
    unit = ((x - lower) / (upper - lower)).clamp(-MAX_DISTANCE.value, MAX_DISTANCE.value)
    # Not clamp, whose derivative at the ends is 0 since torch 2.15.
    inside = torch.where(unit < 0, 0.0, torch.where(unit > 1, 1.0, unit))
    if basis == "bspline":
        values, slopes = _bspline(inside, grid_size, order)
    elif basis == "chebyshev":
        values, slopes = _chebyshev(2 * inside - 1, order)
    else:
        values, slopes = _rational(2 * inside - 1, order, denominator)
    if extrapolation == "linear":
        return values + slopes * (unit - inside).unsqueeze(-1)
    if extrapolation == "zero":
        return values * (unit == inside).unsqueeze(-1)
    return values


def _bspline(inside: Tensor, grid_size: int, order: int) -> tuple[Tensor, Tensor]:
    """Cox-de Boor on the knots …, -1, 0, 1, …; function c starts at knot c - K. Slopes are by the unit coordinate."""
    scaled = (inside * grid_size).unsqueeze(-1)
    interval = scaled.detach().floor().nan_to_num(nan=0.0).clamp(0, grid_size - 1)
    start = torch.arange(-order, grid_size + order, device=inside.device, dtype=inside.dtype)
    values = (interval == start).to(inside.dtype)
    for degree in range(1, order + 1):
        below = values
        start = start[:-1]
        values = ((scaled - start) * below[..., :-1] + (start + degree + 1 - scaled) * below[..., 1:]) / degree
    return values, (below[..., :-1] - below[..., 1:]) * grid_size


def _chebyshev(z: Tensor, order: int) -> tuple[Tensor, Tensor]:
    values, slopes = [torch.ones_like(z), z], [torch.zeros_like(z), torch.ones_like(z)]
    for _ in range(2, order + 1):
        slopes.append(2 * values[-1] + 2 * z * slopes[-1] - slopes[-2])
        values.append(2 * z * values[-1] - values[-2])
    return torch.stack(values, -1), 2 * torch.stack(slopes, -1)


def _rational(z: Tensor, order: int, denominator_ID: Tensor) -> tuple[Tensor, Tensor]:
    powers = torch.stack([torch.ones_like(z), *(z**c for c in range(1, order + 1))], -1)
    number = torch.arange(order + 1, device=z.device, dtype=z.dtype)
    power_slopes = number * torch.cat([torch.zeros_like(powers[..., :1]), powers[..., :-1]], -1)
    count = denominator_ID.shape[-1]
    q = (powers[..., 1 : count + 1] * denominator_ID).sum(-1, keepdim=True)
    q_slope = (power_slopes[..., 1 : count + 1] * denominator_ID).sum(-1, keepdim=True)
    scale, scale_slope = 1 + q.abs(), q.sign() * q_slope
    return powers / scale, 2 * (power_slopes / scale - powers * scale_slope / scale**2)


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
