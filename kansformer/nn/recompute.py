"""A linear layer behind an activation that keeps neither the activation's output nor its derivative for backward."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kansformer.ops.gradients import is_followed


def recomputed_linear(activation: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear(activation(x), weight, bias)`, which saves x only and applies the activation again in backward.

    Args:
        activation: elementwise, without parameters or randomness.
        x: (..., I).
        weight: (O, I).
        bias: (O,) or None.

    Returns:
        (..., O), the same bits as the plain call.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or is_followed():
        return F.linear(activation(x), weight, bias)
    return _RecomputedLinear.apply(activation, x, weight, bias)


class _RecomputedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, activation, x, weight, bias):
        ctx.activation = activation
        ctx.save_for_backward(x, weight, bias)
        return F.linear(activation(x), weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, bias = ctx.saved_tensors
        x_wanted, weight_wanted, bias_wanted = ctx.needs_input_grad[1:]
        twice = torch.is_grad_enabled()  # double backward wants the graph of what follows
        with torch.enable_grad():
            x = x.view_as(x) if twice else x.detach().requires_grad_(x_wanted)  # no hooks of x run here
            activated = ctx.activation(x)
        # Under autocast the gradient is narrower than what was saved.
        dx = dweight = dbias = None
        if x_wanted:
            dactivated = (gradient @ weight.to(gradient.dtype)).to(activated.dtype)
            if activated.requires_grad:
                (dx,) = torch.autograd.grad(activated, x, dactivated, create_graph=twice)
            else:  # a constant
                dx = torch.zeros_like(x)
        gradient_NO = gradient.reshape(-1, gradient.shape[-1])
        if weight_wanted:
            activated_NI = activated if twice else activated.detach()
            activated_NI = activated_NI.reshape(-1, activated.shape[-1]).to(gradient.dtype)
            dweight = (gradient_NO.t() @ activated_NI).to(weight.dtype)
        if bias_wanted:
            dbias = gradient_NO.sum(0).to(bias.dtype)
        return None, dx, dweight, dbias
