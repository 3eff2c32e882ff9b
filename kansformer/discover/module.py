"""A closed form as a module: plain operators of torch, and in eager training a backward that needs the input only.

y = σ(x) + Σ_t c_t·f_t(a_t·x + b_t) + m·x + n and dy/dx = σ'(x) + Σ_t c_t·a_t·f_t'(a_t·x + b_t) + m. Recorded operation
by operation, autograd would keep and read an intermediate result for each; a compiler fuses them itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kansformer.discover.activation import ActivationTerm, NamedActivation
from kansformer.discover.functions import BASES, ELEMENTARY
from kansformer.ops.gradients import is_followed

NARROW = (torch.float16, torch.bfloat16)


class ClosedFormActivation(nn.Module):
    """The module of a `NamedActivation`.

    Args:
        activation: what it computes.
    """

    def __init__(self, activation: NamedActivation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """x (...) to (...)."""
        if torch.is_grad_enabled() and x.requires_grad and not (torch.compiler.is_compiling() or is_followed()):
            return _KeepsInput.apply(x, self.activation)
        return values(self.activation, x)

    def extra_repr(self) -> str:
        return f"{self.activation.name}: {self.activation.formula}"


def values(activation: NamedActivation, x: Tensor) -> Tensor:
    """The activation at x, in the dtype of x; 16-bit inputs are rounded once, at the end."""
    wide = _wide(x)
    y = torch.full_like(wide, activation.constant)
    if activation.slope:
        y.add_(wide, alpha=activation.slope)
    for term in activation.terms:  # in place: memory passes are what an elementwise function costs
        y.add_(ELEMENTARY[term.function].value_(_argument(term, wide)), alpha=term.factor)
    return y.add_(BASES[activation.base].function(wide)).to(x.dtype)


def _argument(term: ActivationTerm, x: Tensor) -> Tensor:
    """scale·x + shift, a tensor of its own."""
    return x.mul(term.scale).add_(term.shift)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in NARROW else x


class _KeepsInput(torch.autograd.Function):
    """`values` with its derivative in closed form."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, activation: NamedActivation) -> Tensor:
        return values(activation, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, NamedActivation], output: Tensor) -> None:
        ctx.activation = inputs[1]
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        activation = ctx.activation
        if torch.is_grad_enabled():  # a second derivative will be asked for
            x = x.view_as(x)  # no hooks of x run here
            (result,) = torch.autograd.grad(values(activation, x), x, grad, create_graph=True)
            return result, None
        wide, grad = _wide(x), _wide(grad)
        result = BASES[activation.base].backward(grad, wide)
        for term in activation.terms:
            slope = ELEMENTARY[term.function].slope_(_argument(term, wide))
            result = result.addcmul_(slope, grad, value=term.factor * term.scale)
        result = result.add_(grad, alpha=activation.slope) if activation.slope else result
        return result.to(x.dtype), None
