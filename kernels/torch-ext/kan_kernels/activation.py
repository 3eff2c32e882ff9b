"""The learned activation as a differentiable operator: `learned_activation` and its registration.

The formulas, and what lies where in memory, are on top of `activation_kernels.py`; the kernels' slow equal is
`definition.learned_activation`.

Shape letters: N tokens, I channels, P curves, C coefficients per curve, D denominator parameters, B token blocks;
`...` any.
"""

from functools import cache

import torch
import triton
from torch import Tensor

from . import definition
from .activation_kernels import activation_backward_kernel, activation_forward_kernel
from .activation_launch import BACKWARD_PROGRAMS, FORWARD_PROGRAMS, MAX_WIDTH, Launch, constants_of, curve_tensors
from .base_functions import BASE_FUNCTIONS, INTERPRETED
from .curve import Curve


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
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    _check(x, coefficients, domain, curve, denominator, base, factor)
    given = None if isinstance(base, str) else base
    channels = x.shape[-1]
    y = torch.ops.kan_kernels.learned_activation(
        x.reshape(-1, channels),
        coefficients,
        domain,
        denominator,
        None if given is None else given.reshape(-1, channels),
        None if factor is None else factor.reshape(-1, channels),
        base if isinstance(base, str) else "given",
        basis,
        grid_size,
        order,
        extrapolation,
    )
    return y.reshape(x.shape)


def _check(x, coefficients, domain, curve, denominator, base, factor) -> None:
    if isinstance(base, str) and base not in BASE_FUNCTIONS:
        raise ValueError(f"Unknown base {base!r}. Choose one of: {', '.join(BASE_FUNCTIONS)}; or give the tensor σ(x).")
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"x must be float16, bfloat16, float32 or float64, got {x.dtype}.")
    if x.dim() == 0 or coefficients.dim() != 2 or not len(coefficients) or x.shape[-1] % len(coefficients):
        raise ValueError(
            f"coefficients must be (P, C) where P divides the channels of x, got {tuple(coefficients.shape)} "
            f"with x {tuple(x.shape)}."
        )
    if (denominator is None) == bool(curve.num_denominator):
        needed = "a tensor" if curve.num_denominator else "None"
        raise ValueError(f"denominator must be {needed} for the basis {curve.basis!r}.")
    per_curve = {"coefficients": curve.num_coefficients, "domain": 2, "denominator": curve.num_denominator}
    for name, tensor in (("coefficients", coefficients), ("domain", domain), ("denominator", denominator)):
        shape = (len(coefficients), per_curve[name])
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have the shape {shape}, got {tuple(tensor.shape)}.")
    for name, tensor in (("base", base), ("factor", factor)):
        if isinstance(tensor, Tensor) and (tensor.shape != x.shape or tensor.dtype != x.dtype):
            raise ValueError(
                f"{name} must have x's shape {tuple(x.shape)} and dtype {x.dtype}, "
                f"got {tuple(tensor.shape)} and {tensor.dtype}."
            )
    if x.device.type == "cpu" and not INTERPRETED.value:
        raise RuntimeError("The kernels run on a CPU only with TRITON_INTERPRET=1; take kan_kernels.definition there.")


@torch.library.custom_op("kan_kernels::learned_activation", mutates_args=())
def _forward(
    x: Tensor,
    coefficients: Tensor,
    domain: Tensor,
    denominator: Tensor | None,
    given: Tensor | None,
    factor: Tensor | None,
    base: str,
    basis: str,
    grid_size: int,
    order: int,
    extrapolation: str,
) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not y.numel():
        return y
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    launch = Launch(x, FORWARD_PROGRAMS)
    x, given, factor = (launch.rows(t) for t in (x, given, factor))
    with launch.device():
        activation_forward_kernel[launch.grid](
            x,
            given if given is not None else x,
            factor if factor is not None else x,
            y,
            *curve_tensors(coefficients, domain, denominator),
            *launch.sizes(coefficients),
            x.stride(0),
            0 if given is None else given.stride(0),
            0 if factor is None else factor.stride(0),
            launch.tokens_per_program,
            **constants_of(x, curve, base, factor),
            **launch.tile_constants,
        )
    return y


@_forward.register_fake
def _(x, coefficients, domain, denominator, given, factor, base, basis, grid_size, order, extrapolation):
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@torch.library.custom_op("kan_kernels::learned_activation_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    x: Tensor,
    coefficients: Tensor,
    domain: Tensor,
    denominator: Tensor | None,
    given: Tensor | None,
    factor: Tensor | None,
    base: str,
    basis: str,
    grid_size: int,
    order: int,
    extrapolation: str,
    sums: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, coefficients, denominator, given and factor; empty where there is none or `sums` is off."""
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    results = _empty_gradients(x, coefficients, denominator, given, factor, sums)
    x_gradient, _, _, given_gradient, factor_gradient = results
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    constants = constants_of(x, curve, base, factor)
    launch = Launch(x, BACKWARD_PROGRAMS)
    blocks = launch.grid[0] if x.numel() else 0
    partial_BIC = torch.empty((blocks, x.shape[1], constants["C"] if sums else 0), dtype=compute, device=x.device)
    partial_BID = torch.empty((blocks, x.shape[1], constants["D"] if sums else 0), dtype=compute, device=x.device)
    if x.numel():
        gradient, x, given, factor = (launch.rows(t) for t in (gradient, x, given, factor))
        width = min(constants["C"], MAX_WIDTH)
        with launch.device():
            activation_backward_kernel[(*launch.grid, triton.cdiv(constants["C"], width) if sums else 1)](
                gradient,
                x,
                given if given is not None else x,
                factor if factor is not None else x,
                *curve_tensors(coefficients, domain, denominator),
                x_gradient,
                given_gradient,
                factor_gradient,
                partial_BIC,
                partial_BID,
                *launch.sizes(coefficients),
                gradient.stride(0),
                x.stride(0),
                0 if given is None else given.stride(0),
                0 if factor is None else factor.stride(0),
                launch.tokens_per_program,
                SUMS=sums,
                WIDTH=width,
                **constants,
                **launch.tile_constants,
            )
    if sums:
        curves = len(coefficients)
        results[1] = _sum_per_curve(partial_BIC, curves).to(coefficients.dtype)
        if denominator is not None:
            results[2] = _sum_per_curve(partial_BID, curves).to(denominator.dtype)
    return tuple(results)


@_backward.register_fake
def _(gradient, x, coefficients, domain, denominator, given, factor, *names_and_sums):
    return tuple(_empty_gradients(x, coefficients, denominator, given, factor, names_and_sums[-1]))


def _empty_gradients(x, coefficients, denominator, given, factor, sums: bool) -> list[Tensor]:
    outputs = ((x, True), (coefficients, sums), (denominator, sums), (given, True), (factor, True))
    return [
        torch.empty(t.shape, dtype=t.dtype, device=x.device)
        if t is not None and want
        else torch.empty(0, dtype=x.dtype, device=x.device)
        for t, want in outputs
    ]


def _sum_per_curve(partial_BIC: Tensor, curves: int) -> Tensor:
    """(P, C): over the blocks first, then over the channels that share a curve."""
    sums_IC = partial_BIC.sum(0)
    return sums_IC.unflatten(0, (curves, -1)).sum(1)


def _setup_context(ctx, inputs, output) -> None:
    tensors, ctx.names = inputs[:6], inputs[6:]
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, gradient: Tensor):
    x, coefficients, domain, denominator, given, factor = ctx.saved_tensors
    sums = ctx.needs_input_grad[1] or ctx.needs_input_grad[3]
    x_gradient, coefficients_gradient, denominator_gradient, given_gradient, factor_gradient = (
        torch.ops.kan_kernels.learned_activation_backward(
            gradient, x, coefficients, domain, denominator, given, factor, *ctx.names, sums
        )
    )
    return (
        x_gradient,
        coefficients_gradient if sums else None,
        None,
        denominator_gradient if sums and denominator is not None else None,
        given_gradient if given is not None else None,
        factor_gradient if factor is not None else None,
        *(None,) * len(ctx.names),
    )


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _setup_second_context(ctx, inputs, output) -> None:
    tensors, ctx.names, ctx.sums = inputs[:7], inputs[7:-1], inputs[-1]
    ctx.save_for_backward(*tensors)


def _differentiate_twice(ctx, *second_gradients: Tensor):
    """Second derivatives, rare and slow: those of the definition."""
    if torch.is_grad_enabled():
        raise RuntimeError("learned_activation has no third derivative; take kan_kernels.definition for it.")
    base, *names = ctx.names
    with torch.enable_grad():
        leaves = [None if t is None else t.detach().requires_grad_() for t in ctx.saved_tensors]
        gradient, x, coefficients, domain, denominator, given, factor = leaves
        y = definition.learned_activation(
            x,
            coefficients,
            domain.detach(),
            **dict(zip(("basis", "grid_size", "order", "extrapolation"), names, strict=True)),
            denominator=denominator,
            base=base if given is None else given,
            factor=factor,
        )
        results = [x, coefficients if ctx.sums else None, denominator if ctx.sums else None, given, factor]
        pairs = [(t, g) for t, g in zip(results, second_gradients, strict=True) if t is not None]
        first = torch.autograd.grad(y, [t for t, _ in pairs], gradient, create_graph=True, materialize_grads=True)
        parts = [(f, g) for f, (_, g) in zip(first, pairs, strict=True) if f.requires_grad]
    inputs = [t for t in leaves if t is not None and t is not domain]
    second = torch.autograd.grad([f for f, _ in parts], inputs, [g for _, g in parts], allow_unused=True)
    by_leaf = dict(zip(map(id, inputs), second, strict=True))
    return (*(by_leaf.get(id(leaf)) for leaf in leaves), *(None,) * (len(ctx.names) + 1))


_backward.register_autograd(_differentiate_twice, setup_context=_setup_second_context)


@cache
def exact_bases(device: torch.device, dtype: torch.dtype) -> frozenset[str]:
    """Names of the base functions that the kernels compute exactly as PyTorch does on a device.

    For 16-bit dtypes all 65,536 values are tried once; NaN counts as equal to NaN, and -0 to 0. Other dtypes have too
    many values, so only functions without arithmetic are named. Waits for the device: call it outside a CUDA graph.

    Args:
        device: where to try.
        dtype: of x.

    Raises:
        RuntimeError: the device is the CPU and Triton's interpreter is off.
    """
    if dtype.itemsize != 2:
        return frozenset({"identity", "relu", "zero"})
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32, device=device).to(torch.int16).view(dtype).reshape(512, 128)
    coefficients = torch.zeros(1, 2, device=device)
    domain = torch.tensor([[-1.0, 1.0]], device=device)
    exact = set()
    for name, function in definition.BASE_FUNCTIONS.items():
        result = learned_activation(x, coefficients, domain, basis="chebyshev", grid_size=1, order=1, base=name)
        expected = torch.where(x.isnan(), x, function(x))  # the curve is NaN there
        if bool(((result == expected) | (result.isnan() & expected.isnan())).all()):
            exact.add(name)
    return frozenset(exact)
