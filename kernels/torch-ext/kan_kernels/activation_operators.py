"""The two operators of the learned activation: their schemas, what they launch, and what they return to a compiler.

They take no part in autograd; `activation.py` puts a function around them. Where σ(x) is a tensor, `given`, the name in
`base` is `given`.

Shape letters: N tokens, I channels, P curves, C coefficients per curve, D denominator parameters, B token blocks;
`...` any.
"""

import torch
from torch import Tensor

from .activation_launch import Plan, make_plan, row_stride, runs_on
from .base_functions import BASE_FUNCTIONS, VARIANTS
from .curve import Curve
from .exact_bases import fastest_variant, is_capturing

_TENSORS = "Tensor x, Tensor coefficients, Tensor domain, Tensor? denominator, Tensor? given, Tensor? factor"
_NAMES = "str base, str basis, int grid_size, int order, str extrapolation"

_LIBRARY = torch.library.Library("kan_kernels", "FRAGMENT")
_TAGS = (torch.Tag.pt2_compliant_tag,)
_LIBRARY.define(f"learned_activation({_TENSORS}, {_NAMES}) -> Tensor", tags=_TAGS)
_LIBRARY.define(
    f"learned_activation_backward(Tensor gradient, {_TENSORS}, {_NAMES}, bool sums) -> Tensor[]",
    tags=_TAGS,
)

PLANS: dict[tuple, Plan] = {}
"""By everything that a launch, or the check of its arguments, depends on, but for the number of tokens."""

_ABSENT = (None, 0, None)
_IS_HIP = torch.version.hip is not None
"""There Triton addresses with 32 bits in storages below 2 GiB, by code of its own."""


def launch_forward(x, coefficients, domain, denominator, given, factor, base, basis, grid_size, order, extrapolation):
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    shape = x.shape
    x, x_stride, x_kind = _rows(x, shape)
    given, given_stride, given_kind = _ABSENT if given is None else _rows(given, shape)
    factor, factor_stride, factor_kind = _ABSENT if factor is None else _rows(factor, shape)
    kinds = (x.nbytes >> 31, x_kind, given_kind, factor_kind, *_kinds(coefficients, domain, denominator))
    key = (base, basis, grid_size, order, extrapolation, *kinds)
    plan = PLANS.get(key)
    if plan is None:
        curve = check(x, coefficients, domain, denominator, given, factor, base, basis, grid_size, order, extrapolation)
    if not y.numel():
        return y
    channels = x.shape[-1]
    tokens = x.numel() // channels
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
        channels // coefficients.shape[0],
        x_stride,
        given_stride,
        factor_stride,
    )
    if plan is None:
        plan = _plan_of(key, "activation_forward", x, curve, base, factor is not None, False, (*arguments, tokens))
    each, blocks = plan.split(tokens)
    plan.launch(blocks, (*arguments, each))
    return y


def launch_backward(
    gradient, x, coefficients, domain, denominator, given, factor, base, basis, grid_size, order, extrapolation, sums
):
    """List of the gradients of x, of coefficients and denominator if `sums`, of given and of factor if there are."""
    if not x.numel():
        return [t.zero_() for t in _empty_gradients(x, coefficients, denominator, given, factor, sums)]
    x_gradient = torch.empty_like(x, memory_format=torch.contiguous_format)
    gradients = [x_gradient]
    given_gradient = None if given is None else torch.empty_like(x_gradient)
    factor_gradient = None if factor is None else torch.empty_like(x_gradient)
    shape = x.shape
    gradient, gradient_stride, gradient_kind = _rows(gradient, shape)
    x, x_stride, x_kind = _rows(x, shape)
    given, given_stride, given_kind = _ABSENT if given is None else _rows(given, shape)
    factor, factor_stride, factor_kind = _ABSENT if factor is None else _rows(factor, shape)
    tensor_kinds = (gradient_kind, x_kind, given_kind, factor_kind)
    kinds = (x.nbytes >> 31, *tensor_kinds, *_kinds(coefficients, domain, denominator))
    key = (base, basis, grid_size, order, extrapolation, sums, *kinds)
    plan = PLANS.get(key)
    channels = x.shape[-1]
    tokens = x.numel() // channels
    curves, width = coefficients.shape
    compute = torch.promote_types(x.dtype, torch.float32)

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
            x_gradient if given_gradient is None else given_gradient,
            x_gradient if factor_gradient is None else factor_gradient,
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

    if plan is None:
        curve = check(x, coefficients, domain, denominator, given, factor, base, basis, grid_size, order, extrapolation)
        if gradient.shape != x.shape or gradient.dtype != x.dtype:
            raise ValueError(
                f"gradient must have x's shape {tuple(x.shape)} and dtype {x.dtype}, got {tuple(gradient.shape)} and "
                f"{gradient.dtype}."
            )
        example = torch.empty((1, 1, 1), dtype=compute, device=x.device) if sums else x_gradient
        first = arguments(example, example, tokens)
        plan = _plan_of(key, "activation_backward", x, curve, base, factor is not None, sums, first)
    each, blocks = plan.split(tokens)
    partial_BIC = partial_BID = x_gradient  # addresses that nothing is written to
    if sums:
        partial_BIC = torch.empty((blocks, channels, width), dtype=compute, device=x.device)
        if denominator is not None:
            shape = (blocks, channels, denominator.shape[1])
            partial_BID = torch.empty(shape, dtype=compute, device=x.device)
    plan.launch(blocks, arguments(partial_BIC, partial_BID, each))
    if sums:
        gradients.append(_sum_per_curve(partial_BIC, curves, coefficients.dtype))
        if denominator is not None:
            gradients.append(_sum_per_curve(partial_BID, curves, denominator.dtype))
    if given_gradient is not None:
        gradients.append(given_gradient)
    if factor_gradient is not None:
        gradients.append(factor_gradient)
    return gradients


def _fake_forward(x, coefficients, domain, denominator, given, factor, *names):
    check(x, coefficients, domain, denominator, given, factor, *names)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _fake_backward(gradient, x, coefficients, domain, denominator, given, factor, *names_and_sums):
    return _empty_gradients(x, coefficients, denominator, given, factor, names_and_sums[-1])


for name, compute, fake in (
    ("learned_activation", launch_forward, _fake_forward),
    ("learned_activation_backward", launch_backward, _fake_backward),
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
    tensors = dict(coefficients=coefficients, domain=domain, denominator=denominator, base=given, factor=factor)
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, x on {x.device}. Move one to the other.")
    if not runs_on(x.device):
        raise RuntimeError("The kernels run on a CPU only with TRITON_INTERPRET=1; take kan_kernels.definition there.")
    return curve


def _rows(tensor: Tensor, shape: torch.Size) -> tuple[Tensor, int, tuple]:
    """A tensor that should have the shape, or a copy if the kernels cannot step through its rows; the step; and what
    the check and the compiled code depend on."""
    stride: int | None = shape[-1] if shape else 1
    if not tensor.is_contiguous():
        stride = row_stride(tensor)
        if stride is None:
            tensor, stride = tensor.contiguous(), shape[-1]
    kind = (tensor.device, tensor.dtype, shape[-1:], tensor.shape == shape, stride, tensor.data_ptr() % 16)
    return tensor, stride, (*kind, tensor.untyped_storage().nbytes() >> 31) if _IS_HIP else kind


def _kinds(coefficients: Tensor, domain: Tensor, denominator: Tensor | None) -> tuple:
    """What the check and the compiled code depend on in a call's curves."""
    shapes = (coefficients.shape, domain.shape, None if denominator is None else denominator.shape)
    dtypes = (coefficients.dtype, domain.dtype, None if denominator is None else denominator.dtype)
    devices = (coefficients.device, domain.device, None if denominator is None else denominator.device)
    return shapes, dtypes, devices


def _plan_of(key, operation, x, curve, base, has_factor, sums, arguments) -> Plan:
    plan = make_plan(operation, x, curve, fastest_variant(base, x.device, x.dtype), has_factor, sums, arguments)
    if not is_capturing(x.device):  # while a graph is captured, no variant can be tried
        PLANS[key] = plan
    return plan


def _empty_gradients(x, coefficients, denominator, given, factor, sums: bool) -> list[Tensor]:
    of = (x, coefficients if sums else None, denominator if sums else None, given, factor)
    return [torch.empty(t.shape, dtype=t.dtype, device=x.device) for t in of if t is not None]


def _sum_per_curve(partial_BIC: Tensor, curves: int, dtype: torch.dtype) -> Tensor:
    """(P, C) in a dtype: over the blocks first, then over the channels that share a curve."""
    sums_IC = partial_BIC.sum(0) if partial_BIC.shape[0] > 1 else partial_BIC[0]
    sums_PC = sums_IC if sums_IC.shape[0] == curves else sums_IC.unflatten(0, (curves, -1)).sum(1)
    return sums_PC if sums_PC.dtype == dtype else sums_PC.to(dtype)
