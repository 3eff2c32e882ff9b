"""A linear layer whose edges carry learned curves.

Shape letters: `...` any, I inputs, O outputs, C coefficients, R rank, P curves of the input axis.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kansformer.basis import Basis
from kansformer.nn.base import base_function
from kansformer.nn.curves import (
    CurveSpec,
    add_edges,
    apply_curve,
    attach_curves,
    check_input,
    copy_as,
    curve_dtype,
    detach_curves,
    forward_with_curves,
    has_hub_kernel,
    reset_curves,
    wide_domain,
)
from kansformer.nn.optim_check import watch_curves
from kansformer.nn.recompute import recomputed_linear


def _has_hub_kernel(layer: "KANLinear") -> bool:
    return has_hub_kernel(layer) and layer.curves.edges == "full" and layer.base == "identity"


class KANLinear(nn.Linear):
    """y_o = b_o + Σ_i W_oi·σ(x_i) + s_oi(x_i), a Kolmogorov-Arnold layer (Liu et al., 2024) in place of `nn.Linear`.

    It is an `nn.Linear`, so whatever looks for linear layers (adapters, quantisers, tensor-parallel plans) finds its
    weight and bias under their usual names.

    Args:
        in_features: I.
        out_features: O.
        basis: `bspline`, `chebyshev`, `rbf`, `fourier` or `rational`.
        grid_size: grid intervals in the domain.
        order: polynomial degree.
        domain: interval that the grid covers, in units of the input.
        edges: `full`, `low_rank`, `channel` or `group`; see `CurveSpec`.
        rank: of `low_rank` edges.
        groups: of `group` curves.
        extrapolation: outside the domain, `linear`, `clamp` or `zero`.
        base: σ, one of `identity`, `silu`, `gelu`, `relu`, `tanh`, `zero`.
        bias: whether b is learned; without it b = 0.
        device, dtype: of all parameters.

    Attributes:
        weight: W, (O, I).
        coefficients: (I, C, O) for `full`, (I, C, R) for `low_rank`, (P, C) for `channel` and `group`.
        mix: U, (R, O), only for `low_rank`.
        denominator: (P, D), only for `rational`; the edges of one input share it.
        domain: (P, 2), a buffer, never narrower than float32.

    Raises:
        ConfigError: an argument is not among its choices.
        ShapeError: in `forward`, the last axis is not I long.

    Examples:
        >>> from kansformer import KANLinear
        >>> layer = KANLinear(4, 3, grid_size=5, order=3)
        >>> layer(torch.randn(2, 4)).shape
        torch.Size([2, 3])
        >>> layer.coefficients.shape  # I, C = grid_size + order, O
        torch.Size([4, 8, 3])
    """

    linear_class: type[nn.Linear] = nn.Linear
    """Whose forward the linear part runs: the class of the layer that `from_linear` took over."""

    kernel_layer_name = "KANLinear"
    kernel_condition = staticmethod(_has_hub_kernel)
    """By which `kernels.kernelize` finds a forward of a Hub kernel."""

    curves: CurveSpec
    coefficients: nn.Parameter
    domain: Tensor
    denominator: nn.Parameter | None
    mix: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        basis: str = "bspline",
        grid_size: int = 5,
        order: int = 3,
        domain: tuple[float, float] = (-1.0, 1.0),
        edges: str = "full",
        rank: int = 16,
        groups: int = 8,
        extrapolation: str = "linear",
        base: str = "silu",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        base_function(base)
        spec = CurveSpec(
            basis=Basis(name=basis, grid_size=grid_size, order=order, extrapolation=extrapolation),
            edges=edges,
            domain=domain,
            rank=rank,
            groups=groups,
        )
        super().__init__(in_features, out_features, bias=bias, device="meta", dtype=dtype)
        attach_curves(self, spec, in_features, out_features, device="meta", dtype=dtype)
        self.base = base
        if device is None:
            device = torch.get_default_device()
        self.to_empty(device=device)
        self.reset_parameters()

    @classmethod
    def from_linear(cls, linear: nn.Linear, spec: CurveSpec) -> "KANLinear":
        """A KAN layer with straight edges around an existing layer's own weight and bias, which it shares.

        Its curves are not yet initialised; `reset_curves` makes them zero. A subclass's own forward is kept, and may
        use the weight and bias; it runs on this class, so that `super()` does not reach its parent.
        """
        module = copy_as(cls, linear)
        module.linear_class = type(linear)
        module.base = "identity"
        weight = linear.weight
        attach_curves(
            module, spec, linear.in_features, linear.out_features, device=weight.device, dtype=curve_dtype(weight)
        )
        return module

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        watch_curves(self)  # a copy

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "KANLinear":
        with wide_domain(self):
            super()._apply(fn, recurse)
        return self

    def without_curves(self) -> nn.Linear:
        """The plain layer with this layer's own weight and bias, without the curves."""
        linear = copy_as(self.linear_class, self)
        detach_curves(linear)
        for name in ("linear_class", "base"):
            linear.__dict__.pop(name, None)
        return linear

    def reset_parameters(self) -> None:
        """Weights as in `nn.Linear`; edge curves start as small noise, input curves straight."""
        if self.weight.is_meta:
            return
        super().reset_parameters()
        noise = 0.0 if self.curves.is_per_channel else 0.1 * self.in_features**-0.5
        reset_curves(self, noise=noise)

    def activate(self, x: Tensor) -> Tensor:
        """What the linear part is applied to: σ(x), with the curves if they are per channel, all (..., I)."""
        activated = base_function(self.base)(x)
        return apply_curve(self, x, activated) if self.curves.is_per_channel else activated

    def project(self, activated: Tensor) -> Tensor:
        """The linear part: activated (..., I) to (..., O)."""
        return self.linear_class.forward(self, activated)

    def forward(self, x: Tensor, *, linear_part: bool = False) -> Tensor:
        """x (..., I) to (..., O); with `linear_part`, `project` of an activated x (see `adapted.py`)."""
        if linear_part:
            return self.project(x)
        if x.shape[-1:] != (self.in_features,):  # asked here, since a call costs a generated token time
            check_input(self, x)
        if self.base == "identity":
            return forward_with_curves(self, x)
        if self.curves.is_per_channel:
            return self.project(self.activate(x))
        if self.linear_class is not nn.Linear:
            return add_edges(self, x, self.project(self.activate(x)))
        return add_edges(self, x, recomputed_linear(base_function(self.base), x, self.weight, self.bias))

    def extra_repr(self) -> str:
        basis = self.curves.basis
        return (
            f"{super().extra_repr()}, edges={self.curves.edges!r}, basis={basis.name!r}, "
            f"grid_size={basis.grid_size}, order={basis.order}, base={self.base!r}"
        )
