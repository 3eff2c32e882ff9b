"""The functions that a closed form is made of, with their derivatives and their source text.

Fixed bases are added to; elementary functions are the terms. Both are smooth (relu^2 and the base relu but for one
point) and defined everywhere, so that no input of a deployed model leaves the domain, and are few kernels of torch
that ONNX has. Roots, logarithms, poles and exponentials of the library are left out for that reason; sin is cos with a
shift, sigmoid is tanh, and gelu, mish, erf and arctan are shapes that silu and tanh reach within a few parts in a
thousand.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kansformer.ops.curves import ACTIVATIONS


@dataclass(frozen=True, kw_only=True)
class Elementary:
    """An elementary function f; `{z}` stands for its argument.

    Args:
        formula: in SymPy's spelling.
        source: in torch's spelling.
        value_: f, which may overwrite its argument.
        slope_: f', which may overwrite its argument.
        parity: 1 for an even function, -1 for an odd one, 0 for others.
        period: up to which a shift is known; half of it turns the sign. None for functions that do not repeat.
        is_monomial: whether scale and shift stay 1 and 0, since other terms take their part.
    """

    formula: str
    source: str
    value_: Callable[[Tensor], Tensor]
    slope_: Callable[[Tensor], Tensor]
    parity: int = 0
    period: float | None = None
    is_monomial: bool = False


def _silu_slope_(z: Tensor) -> Tensor:
    gate = torch.sigmoid(z)
    return torch.addcmul(gate, z.mul_(gate), 1 - gate)


ELEMENTARY: dict[str, Elementary] = {
    "cos": Elementary(formula="cos({z})", source="torch.cos({z})", value_=lambda z: z.cos_(),
                      slope_=lambda z: z.sin_().neg_(), parity=1, period=2 * math.pi),
    "x*cos": Elementary(formula="({z})*cos({z})", source="({z}) * torch.cos({z})", value_=lambda z: z.cos().mul_(z),
                        slope_=lambda z: z.cos().addcmul_(z, z.sin(), value=-1), parity=-1),
    "gaussian": Elementary(formula="exp(-({z})**2)", source="torch.exp(-torch.square({z}))",
                           value_=lambda z: z.square().neg_().exp_(),
                           slope_=lambda z: z.mul_(z.square().neg_().exp_()).mul_(-2), parity=1),
    "tanh": Elementary(formula="tanh({z})", source="torch.tanh({z})", value_=lambda z: z.tanh_(),
                       slope_=lambda z: z.tanh().square().neg_().add_(1), parity=-1),
    "silu": Elementary(formula="silu({z})", source="F.silu({z})", value_=F.silu, slope_=_silu_slope_),
    "softplus": Elementary(formula="log(1 + exp({z}))", source="F.softplus({z})", value_=F.softplus,
                           slope_=lambda z: z.sigmoid_()),
    "relu^2": Elementary(formula="Max({z}, 0)**2", source="torch.square(F.relu({z}))",
                         value_=lambda z: z.relu_().square(), slope_=lambda z: z.relu_().mul_(2)),
    "x^2": Elementary(formula="({z})**2", source="torch.square({z})", value_=lambda z: z.square(),
                      slope_=lambda z: z.mul_(2), is_monomial=True),
    "x^3": Elementary(formula="({z})**3", source="({z}) ** 3", value_=lambda z: z**3,
                      slope_=lambda z: z.square().mul_(3), is_monomial=True),
}  # fmt: skip
"""By the names of `kansformer.symbolic`."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A fixed activation σ that terms are added to.

    Args:
        formula: in SymPy's spelling.
        source: in torch's spelling, of x.
        backward: σ'(x) times a gradient, from both, in a tensor of its own.
    """

    formula: str
    source: str
    function: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


def _base(name: str, formula: str, source: str, backward: Callable[[Tensor, Tensor], Tensor]) -> Base:
    return Base(formula=formula, source=source, function=ACTIVATIONS[name], backward=backward)


_aten = torch.ops.aten
BASES: dict[str, Base] = {
    "silu": _base("silu", "silu(x)", "F.silu(x)", lambda g, x: _aten.silu_backward(g, x)),
    "gelu": _base("gelu", "gelu(x)", "F.gelu(x)", lambda g, x: _aten.gelu_backward(g, x)),
    "gelu_tanh": _base("gelu_tanh", "gelu_tanh(x)", 'F.gelu(x, approximate="tanh")',
                       lambda g, x: _aten.gelu_backward(g, x, approximate="tanh")),
    "relu": _base("relu", "Max(x, 0)", "F.relu(x)", lambda g, x: _aten.threshold_backward(g, x, 0)),
    "tanh": _base("tanh", "tanh(x)", "torch.tanh(x)", lambda g, x: _aten.tanh_backward(g, x.tanh())),
    "identity": _base("identity", "x", "x", lambda g, x: g.clone()),
    "zero": _base("zero", "0", "torch.zeros_like(x)", lambda g, x: torch.zeros_like(g)),
}  # fmt: skip
"""By the names of bases of learned curves."""
