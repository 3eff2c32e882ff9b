"""The transposed linear layer of GPT-2 with curves on its edges.

Shape letters: `...` any, I inputs, O outputs.
"""

from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kansformer.nn.curves import (
    CurveSpec,
    apply_curve,
    attach_curves,
    copy_as,
    curve_dtype,
    detach_curves,
    forward_with_curves,
)
from kansformer.nn.optim_check import watch_curves


class KANConv1D(Conv1D):
    """`KANLinear` for transformers' `Conv1D`, whose weight is (I, O). Made by `from_conv1d` only.

    Attributes: as in `KANLinear`, but `weight` (I, O).
    """

    in_features: int
    out_features: int
    curves: CurveSpec
    coefficients: nn.Parameter
    domain: Tensor
    denominator: nn.Parameter | None
    mix: nn.Parameter | None

    @classmethod
    def from_conv1d(cls, layer: Conv1D, spec: CurveSpec) -> "KANConv1D":
        """A layer with straight edges around an existing one's own weight and bias, which it shares."""
        module = copy_as(cls, layer)
        module.in_features, module.out_features = layer.nx, layer.nf
        weight = layer.weight
        attach_curves(module, spec, layer.nx, layer.nf, device=weight.device, dtype=curve_dtype(weight))
        return module

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        watch_curves(self)  # a copy

    def without_curves(self) -> Conv1D:
        """The plain layer with this layer's own weight and bias, without the curves."""
        layer = copy_as(Conv1D, self)
        detach_curves(layer)
        del layer.in_features, layer.out_features
        return layer

    def activate(self, x: Tensor) -> Tensor:
        """What the linear part is applied to: x, with the curves if they are per channel, both (..., I)."""
        return apply_curve(self, x, x) if self.curves.is_per_channel else x

    def project(self, activated: Tensor) -> Tensor:
        """The linear part: activated (..., I) to (..., O)."""
        return Conv1D.forward(self, activated)

    def forward(self, x: Tensor, *, linear_part: bool = False) -> Tensor:
        """x (..., I) to (..., O); with `linear_part`, `project` of an activated x (see `nn/adapted.py`)."""
        if linear_part:
            return self.project(x)
        return forward_with_curves(self, x)
