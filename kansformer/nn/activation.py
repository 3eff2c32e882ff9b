"""An activation function that can be bent: one curve per channel, or per group of channels.

Shape letters: `...` any, I channels, C coefficients, P curves.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from kansformer.basis import Basis
from kansformer.errors import ConfigError
from kansformer.nn.base import base_function, kernel_name
from kansformer.nn.curves import (
    CurveSpec,
    apply_curve,
    attach_curves,
    has_hub_kernel,
    reset_curves,
    wide_domain,
)
from kansformer.nn.optim_check import watch_curves


class LearnedActivation(nn.Module):
    """y_i = σ(x_i) + ψ_i(x_i): a fixed activation and a learned curve, straight at the start.

    Args:
        features: I, channels on the last axis.
        base: σ by name (`identity`, `silu`, `gelu`, `relu`, `tanh`, `zero`), or any function or module of a tensor.
        basis, grid_size, order, domain, groups, extrapolation: as in `KANLinear`.
        edges: `channel` or `group`.
        device, dtype: of all parameters.

    Attributes:
        coefficients: (P, C).
        denominator: (P, D), only for `rational`.
        domain: (P, 2), a buffer, never narrower than float32.

    Raises:
        ConfigError: an argument is not among its choices.
        ShapeError: in `forward`, the last axis is not I long.

    Examples:
        >>> from kansformer import LearnedActivation
        >>> activation, x = LearnedActivation(4, base="gelu"), torch.randn(2, 4)
        >>> torch.equal(activation(x), torch.nn.functional.gelu(x))  # until it is trained
        True
        >>> activation.coefficients.shape  # P = 4 channels, C = grid_size + order
        torch.Size([4, 8])
    """

    kernel_layer_name = "LearnedActivation"
    kernel_condition = staticmethod(has_hub_kernel)
    """By which `kernels.kernelize` finds a forward of a Hub kernel."""

    activation: Callable[[Tensor], Tensor]
    curves: CurveSpec
    coefficients: nn.Parameter
    domain: Tensor
    denominator: nn.Parameter | None
    mix: nn.Parameter | None

    def __init__(
        self,
        features: int,
        *,
        base: str | Callable[[Tensor], Tensor] = "silu",
        basis: str = "bspline",
        grid_size: int = 5,
        order: int = 3,
        domain: tuple[float, float] = (-1.0, 1.0),
        edges: str = "channel",
        groups: int = 8,
        extrapolation: str = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        spec = CurveSpec(
            basis=Basis(name=basis, grid_size=grid_size, order=order, extrapolation=extrapolation),
            edges=edges,
            domain=domain,
            groups=groups,
        )
        function = base_function(base) if isinstance(base, str) else base
        self._build(features, function, spec, device, dtype)
        self.reset_parameters()

    @classmethod
    def from_activation(
        cls,
        activation: Callable[[Tensor], Tensor],
        features: int,
        spec: CurveSpec,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "LearnedActivation":
        """Curves around an existing activation. They are not yet initialised; `reset_curves` makes them zero.

        Raises:
            ConfigError: the activation has parameters or buffers in submodules of its own, whose names it cannot keep.
        """
        module = cls.__new__(cls)
        module._build(features, activation, spec, device, dtype)
        return module

    def _build(
        self,
        features: int,
        function: Callable[[Tensor], Tensor],
        spec: CurveSpec,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        nn.Module.__init__(self)
        self.in_features = features
        # Not a submodule: an activation that has parameters of its own (xIELU) keeps their names in the state dict.
        object.__setattr__(self, "activation", function)
        if isinstance(function, nn.Module):
            tensors = [*function.named_parameters(), *function.named_buffers()]
            if deeper := [name for name, _ in tensors if "." in name]:
                raise ConfigError(f"{type(function).__name__} keeps {deeper[0]!r} in its own submodules.")
            saved = function.state_dict()
            for name, tensor in tensors:
                if isinstance(tensor, nn.Parameter):
                    self.register_parameter(name, tensor)
                else:
                    self.register_buffer(name, tensor, persistent=name in saved)
            self.training = function.training
        self._owned = (*self._parameters, *self._buffers)
        attach_curves(self, spec, features, None, device=device, dtype=dtype)

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        watch_curves(self)  # a copy

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LearnedActivation":
        with wide_domain(self):
            super()._apply(fn, recurse)
        return self

    def without_curves(self) -> Callable[[Tensor], Tensor]:
        """The activation without its curve, with the current values of its own parameters."""
        if isinstance(self.activation, nn.Module):
            for name, tensor in self.own_tensors().items():
                parameters, buffers = self.activation._parameters, self.activation._buffers
                table: dict = parameters if name in parameters else buffers
                table[name] = tensor
        return self.activation

    def reset_parameters(self) -> None:
        """Straighten all curves."""
        if not self.coefficients.is_meta:
            reset_curves(self)

    def base(self, x: Tensor, *, wide: bool = False) -> Tensor:
        """σ(x) without the curve; `wide` brings the activation's own numbers to the dtype and the device of x."""
        parts = self.activation.modules() if isinstance(self.activation, nn.Module) else (self.activation,)
        is_in_place = any(getattr(part, "inplace", False) for part in parts)
        if is_in_place:
            x = x.clone()  # the curve needs the input, too
        is_tracked = not (is_in_place or is_dynamo_compiling() or x.is_inference())
        version = x._version if is_tracked else 0
        if self._owned and isinstance(self.activation, nn.Module):
            own = self.own_tensors()
            if wide:
                own = {name: tensor.to(x) if tensor.is_floating_point() else tensor for name, tensor in own.items()}
            y = torch.func.functional_call(self.activation, own, (x,))
        else:
            y = self.activation(x)
        if is_tracked and x._version != version:
            name = getattr(self.activation, "__name__", type(self.activation).__name__)
            raise ConfigError(
                f"The activation {name} changes its input in place, which the curve reads as well. Give a function "
                "that returns a new tensor."
            )
        return y

    def own_tensors(self) -> dict[str, Tensor]:
        """The activation's parameters and buffers, by name."""
        return {name: getattr(self, name) for name in self._owned}

    def train(self, mode: bool = True) -> "LearnedActivation":
        """Also the activation's mode, which is not a submodule: RReLU is random in training."""
        if isinstance(self.activation, nn.Module):
            self.activation.train(mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) to (..., I)."""
        return apply_curve(self, x, kernel_name(self.activation) or self.base(x))

    def gated(self, x: Tensor, factor: Tensor) -> Tensor:
        """`forward(x) * factor` in one pass, all (..., I). Hooks on this module do not run; see `fused_gate.py`."""
        return apply_curve(self, x, kernel_name(self.activation) or self.base(x), factor)

    def extra_repr(self) -> str:
        basis = self.curves.basis
        name = getattr(self.activation, "__name__", type(self.activation).__name__)
        return (
            f"{self.in_features}, base={name}, edges={self.curves.edges!r}, basis={basis.name!r}, "
            f"grid_size={basis.grid_size}, order={basis.order}"
        )
