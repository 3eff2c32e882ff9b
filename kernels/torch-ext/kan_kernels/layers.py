"""Forward methods for kansformer's layers, by their names, as `kernels.kernelize(model)` puts them in place.

They have no state of their own: every attribute is the layer's that takes the method over.
"""

from torch import Tensor, nn

from .activation import learned_activation
from .edges import sum_edges

__all__ = ["KANLinear", "LearnedActivation"]


def _curves(layer: nn.Module) -> dict[str, Tensor | str | int | None]:
    """A layer's curves, as the operations take them."""
    basis = layer.curves.basis
    return dict(
        coefficients=layer.coefficients,
        domain=layer.domain,
        basis=basis.name,
        grid_size=basis.grid_size,
        order=basis.order,
        extrapolation=basis.extrapolation,
        denominator=layer.denominator,
    )


class LearnedActivation(nn.Module):
    """σ(x) + ψ_i(x), for `kansformer.LearnedActivation`."""

    has_backward = True
    can_torch_compile = False

    def forward(self, x: Tensor) -> Tensor:
        return learned_activation(x, **_curves(self), base=self.base(x))


class KANLinear(nn.Module):
    """W x + b + Σ_i s_oi(x_i), for `kansformer.KANLinear` with a curve on every edge and a straight base."""

    has_backward = True
    can_torch_compile = False

    def forward(self, x: Tensor, *, linear_part: bool = False) -> Tensor:
        if linear_part:  # asked by an adapter around the layer
            return self.project(x)
        base = self.project(x)  # in another dtype under autocast
        return sum_edges(x.to(base.dtype), **_curves(self), base=base)
