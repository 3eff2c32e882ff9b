"""The two operators of the learned activation: their schemas, what they launch, and what they return to a compiler.

They are no part of a graph of autograd; `activation.py` puts a function around them. Where σ(x) is a tensor, `given`, the
name in `base` is `given`.

Shape letters: N tokens, I channels, P curves, C coefficients per curve, D denominator parameters, B token blocks;
`...` any.
"""

import torch
from torch import Tensor

from .activation_launch import Plan, make_plan, row_stride
from .base_functions import BASE_FUNCTIONS, INTERPRETED, VARIANTS
from .curve import Curve
from .exact_bases import fastest_variant, is_capturing

_TENSORS = "Tensor x, Tensor coefficients, Tensor domain, Tensor? denominator, Tensor? given, Tensor? factor"
_NAMES = "str base, str basis, int grid_size, int order, str extrapolation"

_LIBRARY = torch.library.Library("kan_kernels", "FRAGMENT")
_TAGS = (torch.Tag.pt2_compliant_tag,)
_LIBRARY.define(f"learned_activation({_TENSORS}, {_NAMES}) -> Tensor", tags=_TAGS)
_LIBRARY.define(
    f"learned_activation_backward(Tensor gradient, {_TENSORS}, {_NAMES}, bool sums) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=_TAGS,
)

PLANS: dict[tuple, Plan] = {}
"""By everything that a launch, or the check of its arguments, depends on, but for the number of tokens."""


def _forward(x, coefficients, domain, denominator, given, factor, base, basis, grid_size, order, extrapolation):
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    x, x_stride = _rows(x)
    given_stride = factor_stride = 0
    if given is not None:
        given, given_stride = _rows(given)
    if factor is not None:
        factor, factor_stride = _rows(factor)
    key = (
        *_kind(x, coefficients, domain, denominator, given, factor),
        *(x_stride, given_stride, factor_stride),
        *(base, basis, grid_size, order, extrapolation),
    )
    plan = PLANS.get(key)
    if plan is None:
        curve = check(x, coefficients, domain, denominator, given, factor, base, basis, grid_size, order, extrapolation)
    if not y.numel():
        return y
    channels = x.shape[-1]
    tokens = x.numel() // channels
    each, blocks = (tokens, 1) if plan is None else plan.split(tokens)
    arguments = (
        x,
        x if given is None else given,
        x if factor is None else factor,
        y,
        coefficients.contiguous(),
        domain.contiguous(),
        coefficients if denominator is None else denominator.contiguous(),
        tokens,
        channels,
        channels // len(coefficients),
        x_stride,
        given_stride,
        factor_stride,
    )
    if plan is None:
        plan = _plan_of(key, "activation_forward", x, curve, base, factor is not None, False, (*arguments, each))
        each, blocks = plan.split(tokens)
    plan.launch(blocks, (*arguments, each))
    return y


def _backward(
    gradient, x, coefficients, domain, denominator, given, factor, base, basis, grid_size, order, extrapolation, sums
):
    """Gradients of x, coefficients, denominator, given and factor; empty where there is none or `sums` is off."""
    results = _empty_gradients(x, coefficients, denominator, given, factor, sums)
    x_gradient, coefficients_gradient, denominator_gradient, given_gradient, factor_gradient = results
    if not x.numel():
        if sums:
            coefficients_gradient.zero_()
            denominator_gradient.zero_()
        return results
    gradient, gradient_stride = _rows(gradient)
    x, x_stride = _rows(x)
    given_stride = factor_stride = 0
    if given is not None:
        given, given_stride = _rows(given)
    if factor is not None:
        factor, factor_stride = _rows(factor)
    key = (
        *_kind(x, coefficients, domain, denominator, given, factor),
        *(gradient.dtype, gradient.shape == x.shape, gradient.data_ptr() % 16),
        *(gradient_stride, x_stride, given_stride, factor_stride),
        *(base, basis, grid_size, order, extrapolation, sums),
    )
    plan = PLANS.get(key)
    channels = x.shape[-1]
    tokens = x.numel() // channels
    curves, width = coefficients.shape
    depth = 0 if denominator is None else denominator.shape[1]

    def arguments(partial_BIC: Tensor, partial_BID: Tensor, each: int) -> tuple:
        return (
            gradient,
            x,
            x if given is None else given,
            x if factor is None else factor,
            coefficients.contiguous(),
            domain.contiguous(),
            coefficients if denominator is None else denominator.contiguous(),
            x_gradient,
            given_gradient,
            factor_gradient,
            partial_BIC,
            partial_BID,
            tokens,
            channels,
            channels // curves,
            gradient_stride,
            x_stride,
            given_stride,
            factor_stride,
            each,
        )

    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    if plan is None:
        curve = check(x, coefficients, domain, denominator, given, factor, base, basis, grid_size, order, extrapolation)
        if gradient.shape != x.shape or gradient.dtype != x.dtype:
            raise ValueError(
                f"gradient must have x's shape {tuple(x.shape)} and dtype {x.dtype}, got {tuple(gradient.shape)} and "
                f"{gradient.dtype}."
            )
        example = torch.empty((1, 1, 1), dtype=compute, device=x.device)
        first = arguments(example, example, tokens)
        plan = _plan_of(key, "activation_backward", x, curve, base, factor is not None, sums, first)
    each, blocks = plan.split(tokens)
    partial_BIC = torch.empty((blocks if sums else 0, channels, width), dtype=compute, device=x.device)
    partial_BID = partial_BIC
    if depth and sums:
        partial_BID = torch.empty((blocks, channels, depth), dtype=compute, device=x.device)
    plan.launch(blocks, arguments(partial_BIC, partial_BID, each))
    if sums:
        coefficients_gradient = _sum_per_curve(partial_BIC, curves).to(coefficients.dtype)
        if depth:
            denominator_gradient = _sum_per_curve(partial_BID, curves).to(denominator.dtype)
    return x_gradient, coefficients_gradient, denominator_gradient, given_gradient, factor_gradient


def _fake_forward(x, coefficients, domain, denominator, given, factor, *names):
    check(x, coefficients, domain, denominator, given, factor, *names)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _fake_backward(gradient, x, coefficients, domain, denominator, given, factor, *names_and_sums):
    return _empty_gradients(x, coefficients, denominator, given, factor, names_and_sums[-1])


for name, compute, fake in (
    ("learned_activation", _forward, _fake_forward),
    ("learned_activation_backward", _backward, _fake_backward),
):
    for key in ("CPU", "CUDA"):
        _LIBRARY.impl(name, compute, key)
    torch.library.register_fake(f"kan_kernels::{name}", fake, lib=_LIBRARY)


def check(
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
) -> Curve:
    """The family of curves.

    Raises:
        ValueError: a name is not among the choices, or a shape or dtype does not fit.
        RuntimeError: x is on the CPU and Triton's interpreter is off.
    """
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    variants = [variant for names in VARIANTS.values() for variant in names]
    if given is None and base not in BASE_FUNCTIONS and base not in variants:
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
    for name, tensor in (("base", given), ("factor", factor)):
        if tensor is not None and (tensor.shape != x.shape or tensor.dtype != x.dtype):
            raise ValueError(
                f"{name} must have x's shape {tuple(x.shape)} and dtype {x.dtype}, "
                f"got {tuple(tensor.shape)} and {tensor.dtype}."
            )
    if x.device.type == "cpu" and not INTERPRETED.value:
        raise RuntimeError("The kernels run on a CPU only with TRITON_INTERPRET=1; take kan_kernels.definition there.")
    return curve


def _kind(x, coefficients, domain, denominator, given, factor) -> tuple:
    """What the check and the compiled code depend on in a call's tensors, but for strides."""
    shape = x.shape
    return (
        *(x.device, x.dtype, shape[-1:], x.data_ptr() % 16),
        *(coefficients.dtype, coefficients.shape, domain.dtype, domain.shape),
        None if denominator is None else (denominator.dtype, denominator.shape),
        None if given is None else (given.dtype, given.shape == shape, given.data_ptr() % 16),
        None if factor is None else (factor.dtype, factor.shape == shape, factor.data_ptr() % 16),
        x.numel() >= 2**31,  # the number of tokens might need 64 bits
    )


def _plan_of(key, operation, x, curve, base, has_factor, sums, arguments) -> Plan:
    plan = make_plan(operation, x, curve, fastest_variant(base, x.device, x.dtype), has_factor, sums, arguments)
    if not is_capturing(x.device):  # while a graph is captured, no variant can be tried
        PLANS[key] = plan
    return plan


def _rows(tensor: Tensor) -> tuple[Tensor, int]:
    """The tensor, or a copy whose rows the kernels can step through, and the step."""
    if tensor.is_contiguous():
        return tensor, tensor.shape[-1] if tensor.dim() else 1
    stride = row_stride(tensor)
    return (tensor.contiguous(), tensor.shape[-1]) if stride is None else (tensor, stride)


def _empty_gradients(x, coefficients, denominator, given, factor, sums: bool) -> tuple[Tensor, ...]:
    outputs = ((x, True), (coefficients, sums), (denominator, sums), (given, True), (factor, True))
    return tuple(
        torch.empty(t.shape, dtype=t.dtype, device=x.device)
        if t is not None and want
        else torch.empty(0, dtype=x.dtype, device=x.device)
        for t, want in outputs
    )


def _sum_per_curve(partial_BIC: Tensor, curves: int) -> Tensor:
    """(P, C): over the blocks first, then over the channels that share a curve."""
    sums_IC = partial_BIC.sum(0)
    return sums_IC if len(sums_IC) == curves else sums_IC.unflatten(0, (curves, -1)).sum(1)
