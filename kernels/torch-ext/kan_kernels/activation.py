"""The learned activation as a differentiable function: `learned_activation`.

The formulas and the memory layout are on top of `activation_forward.py` and `activation_backward.py`; the definition in
plain PyTorch is `definition.learned_activation`; the operators, which check their arguments, are in
`activation_operators.py`.

Shape letters: I channels, P curves, C coefficients per curve, D denominator parameters; `...` any.
"""

import torch
from torch import Tensor

from . import definition
from .activation_operators import launch_backward, launch_forward

__all__ = ["learned_activation"]

_PLAIN_TYPES = frozenset({Tensor, torch.nn.Parameter, type(None), str, int, bool})


def learned_activation(
    x: Tensor,
    coefficients: Tensor,
    domain: Tensor,
    *,
    basis: str,
    grid_size: int,
    order: int,
    extrapolation: str = "linear",
    denominator: Tensor | None = None,
    base: str | Tensor = "identity",
    factor: Tensor | None = None,
) -> Tensor:
    """(σ(x) + ψ(x)) · factor with one curve ψ per channel or per group of neighbouring channels.

    Args:
        x: (..., I), float16, bfloat16, float32 or float64. Computed in float32, or float64 where x is.
        coefficients: (P, C), any floating dtype. P divides I; channel i takes curve i // (I // P).
        domain: (P, 2), lower and upper end of each curve's interval.
        basis: `bspline`, `chebyshev` or `rational`.
        grid_size: G, intervals of a B-spline; the others ignore it.
        order: K, polynomial degree.
        extrapolation: `linear`, `clamp` or `zero` outside the domain.
        denominator: (P, D) for `rational`, else None.
        base: name of σ, computed in the kernel (`identity`, `silu`, `gelu`, `gelu_tanh`, `relu`, `tanh`, `zero`),
            or the tensor σ(x) itself, (..., I) in x's dtype.
        factor: (..., I) in x's dtype, the other half of a gated unit; None for 1.

    Returns:
        (..., I) in x's dtype, contiguous. Differentiable twice, but not by the domain.

    Raises:
        ValueError: a name is not among the choices, or a shape or dtype does not fit.
        RuntimeError: x is on the CPU and Triton's interpreter is off.
    """
    given = None
    if not isinstance(base, str):
        given, base = base, "given"
    names = (base, basis, grid_size, order, extrapolation)
    if torch.is_grad_enabled() and (
        x.requires_grad
        or coefficients.requires_grad
        or (factor is not None and factor.requires_grad)
        or (given is not None and given.requires_grad)
        or (denominator is not None and denominator.requires_grad)
    ):
        return _LearnedActivation.apply(x, coefficients, domain, denominator, given, factor, names)
    return _forward(x, coefficients, domain, denominator, given, factor, *names)


def _forward(*arguments):
    operator = torch.ops.kan_kernels.learned_activation.default
    return operator(*arguments) if _is_dispatched(arguments) else launch_forward(*arguments)


def _backward(*arguments):
    if _is_dispatched(arguments):
        return torch.ops.kan_kernels.learned_activation_backward.default(*arguments)
    try:
        return launch_backward(*arguments)
    except RuntimeError:  # not asked before, which would cost every step
        if not torch._C._functorch.is_legacy_batchedtensor(arguments[0]):
            raise
        return _differentiate_definition(*arguments)  # the gradient stands for several, and has no memory


def _differentiate_definition(gradient, *arguments):
    *tensors, base, basis, grid_size, order, extrapolation, sums = arguments
    with torch.enable_grad():
        leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
        y, results = _definition(leaves, (base, basis, grid_size, order, extrapolation), sums)
    return list(torch.autograd.grad(y, results, gradient, materialize_grads=True))


def _definition(leaves, names, sums):
    """The result by the definition, and the leaves whose gradients are returned."""
    x, coefficients, domain, denominator, given, factor = leaves
    base, *settings = names
    y = definition.learned_activation(
        x,
        coefficients,
        domain.detach(),
        **dict(zip(("basis", "grid_size", "order", "extrapolation"), settings, strict=True)),
        denominator=denominator,
        base=base if given is None else given,
        factor=factor,
    )
    results = [x, coefficients if sums else None, denominator if sums else None, given, factor]
    return y, [t for t in results if t is not None]


def _is_dispatched(arguments: tuple) -> bool:
    """Whether anything but a launch may come of a call: a compiler, a mode or a subclass of tensors takes the operator.

    Otherwise the dispatcher would cost about half as much as everything else.
    """
    if torch.compiler.is_dynamo_compiling() or torch._C._len_torch_dispatch_stack():
        return True
    return not _PLAIN_TYPES.issuperset(map(type, arguments))


class _LearnedActivation(torch.autograd.Function):
    """The operator with its gradients, which can be differentiated again."""

    @staticmethod
    def forward(ctx, x, coefficients, domain, denominator, given, factor, names):
        ctx.save_for_backward(x, coefficients, domain, denominator, given, factor)
        ctx.names = names
        return _forward(x, coefficients, domain, denominator, given, factor, *names)

    @staticmethod
    def backward(ctx, gradient):
        tensors = ctx.saved_tensors
        _, _, _, denominator, given, factor = tensors
        sums = ctx.needs_input_grad[1] or ctx.needs_input_grad[3]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            gradients = iter(_Gradients.apply(gradient, *tensors, ctx.names, sums))
        else:
            gradients = iter(_backward(gradient, *tensors, *ctx.names, sums))
        x_gradient = next(gradients)
        coefficients_gradient = next(gradients) if sums else None
        denominator_gradient = next(gradients) if sums and denominator is not None else None
        given_gradient = next(gradients) if given is not None else None
        factor_gradient = next(gradients) if factor is not None else None
        return x_gradient, coefficients_gradient, None, denominator_gradient, given_gradient, factor_gradient, None


class _Gradients(torch.autograd.Function):
    """The gradients, as a function of what they depend on: second derivatives are rare, and those of the definition."""

    @staticmethod
    def forward(ctx, gradient, x, coefficients, domain, denominator, given, factor, names, sums):
        ctx.save_for_backward(gradient, x, coefficients, domain, denominator, given, factor)
        ctx.names, ctx.sums = names, sums
        return tuple(_backward(gradient, x, coefficients, domain, denominator, given, factor, *names, sums))

    @staticmethod
    def backward(ctx, *second_gradients):
        if torch.is_grad_enabled():
            raise RuntimeError("learned_activation has no third derivative; take kan_kernels.definition for it.")
        with torch.enable_grad():
            leaves = [None if t is None else t.detach().requires_grad_() for t in ctx.saved_tensors]
            gradient, _, _, domain, *_ = leaves
            y, results = _definition(leaves[1:], ctx.names, ctx.sums)
            pairs = list(zip(results, second_gradients, strict=True))
            first = torch.autograd.grad(y, [t for t, _ in pairs], gradient, create_graph=True, materialize_grads=True)
            parts = [(f, g) for f, (_, g) in zip(first, pairs, strict=True) if f.requires_grad]
        inputs = [t for t in leaves if t is not None and t is not domain]
        second = torch.autograd.grad([f for f, _ in parts], inputs, [g for _, g in parts], allow_unused=True)
        by_leaf = dict(zip(map(id, inputs), second, strict=True))
        return (*(by_leaf.get(id(leaf)) for leaf in leaves), None, None)
