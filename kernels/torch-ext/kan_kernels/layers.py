"""Forward methods for kansformer's layers, by their names, as `kernels.kernelize(model)` puts them in place.

They have no state of their own: every attribute is the layer's that takes the method over.
"""

from torch import Tensor, nn

from .activation import learned_activation
from .edges import sum_edges

__all__ = ["KANLinear", "LearnedActivation"]


class LearnedActivation(nn.Module):
    """σ(x) + ψ_i(x), for `kansformer.LearnedActivation`."""

    has_backward = True
    can_torch_compile = False

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        basis = self.curves.basis
        return learned_activation(
            x,
            self.coefficients,
            self.domain,
            basis=basis.name,
            grid_size=basis.grid_size,
            order=basis.order,
            extrapolation=basis.extrapolation,
            denominator=getattr(self, "denominator", None),
            base=self.base(x),
            factor=factor,
        )


class KANLinear(nn.Module):
    """W x + b + Σ_i s_oi(x_i), for `kansformer.KANLinear` with a curve on every edge and a straight base."""

    has_backward = True
    can_torch_compile = False

    def forward(self, x: Tensor) -> Tensor:
        basis = self.curves.basis
        return sum_edges(
            x,
            self.coefficients,
            self.domain,
            basis=basis.name,
            grid_size=basis.grid_size,
            order=basis.order,
            extrapolation=basis.extrapolation,
            denominator=getattr(self, "denominator", None),
            base=self.project(x),
        )
