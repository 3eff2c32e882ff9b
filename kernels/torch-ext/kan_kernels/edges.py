"""One curve per edge, summed at the outputs: the operation, its gradients, and what runs for a given shape.

    y_no = base_no + Σ_i Σ_c B_c(x_ni) A_ico       dx = Σ_c B'_c (dy Aᵀ)_c       dA = Bᵀ dy       dbase = dy

Two paths for y and dA, chosen by `tiles.choose`: `fused` kernels recompute the basis values E in registers;
`expand` writes E of a chunk of tokens, (tokens, I·C) in at most 64 MiB, and multiplies by it with torch. dx is always
fused. Backward keeps x, A, the domain and the denominator: nothing of size N·I·C. Kernels and memory layouts:
`edges_forward.py`, `edges_backward.py`.

Shape letters: N tokens, I inputs, O outputs, C coefficients, D denominator parameters; `...` any.
"""

import math
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from .curve import Curve
from .edges_backward import fused_weight_gradient, input_gradient
from .edges_forward import expand, fused_forward
from .tiles import Tile, architecture_of, check_path, choose

WORKSPACE_BYTES = 64 * 2**20
"""Most memory that a chunk of the expanded activation takes, unless one token alone needs more."""


def sum_edges(
    x: Tensor,
    coefficients: Tensor,
    domain: Tensor,
    *,
    basis: str,
    grid_size: int,
    order: int,
    extrapolation: str = "linear",
    denominator: Tensor | None = None,
    base: Tensor | None = None,
    path: str | None = None,
) -> Tensor:
    """One curve per edge, summed at the outputs: base_o + Σ_i Σ_c a_ico B_c(x_i).

    Args:
        x: (..., I), float16, bfloat16, float32 or float64. The result has its dtype.
        coefficients: (I, C, O); rounded to x's dtype where they have another one.
        domain: (I, 2), lower and upper end per input; gets no gradient.
        basis: `bspline`, `chebyshev` or `rational`.
        grid_size: G, intervals of a B-spline; the others ignore it.
        order: K, the polynomial degree.
        extrapolation: `linear`, `clamp` or `zero`, outside the domain.
        denominator: (I, D), for `rational` only.
        base: (..., O), added before the only rounding; None adds nothing.
        path: `fused` or `expand`; None takes what is faster according to `tiles/`.

    Returns:
        (..., O). float16 saturates basis values at 65504, some 20 000 domain widths away.

    Raises:
        ValueError: a name is unknown or a shape does not fit.
    """
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    _check_shapes(x, coefficients, domain, denominator, base, curve)
    check_path(path)
    x_NI = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    outputs = coefficients.shape[-1]
    y_NO = torch.ops.kan_kernels.sum_edges(
        x_NI,
        coefficients.to(x.dtype),
        domain,
        denominator,
        None if base is None else base.to(x.dtype).reshape(len(x_NI), outputs),
        basis,
        grid_size,
        order,
        extrapolation,
        path,
    )
    return y_NO.view(*x.shape[:-1], outputs)


@torch.library.custom_op("kan_kernels::sum_edges", mutates_args=())
def _sum_edges(
    x_NI: Tensor,
    coefficients_ICO: Tensor,
    domain_I2: Tensor,
    denominator_ID: Tensor | None,
    base_NO: Tensor | None,
    basis: str,
    grid_size: int,
    order: int,
    extrapolation: str,
    path: str | None,
) -> Tensor:
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    x_NI, coefficients_ICO, domain_I2, denominator_ID, base_NO = _contiguous(
        x_NI, coefficients_ICO, domain_I2, denominator_ID, base_NO
    )
    outputs = coefficients_ICO.shape[2]
    if _is_empty(x_NI, coefficients_ICO):
        return x_NI.new_zeros(len(x_NI), outputs) if base_NO is None else base_NO.clone()
    tile = _tile("forward", x_NI, outputs, curve, path)
    with _device_of(x_NI):
        if tile.path == "fused":
            return fused_forward(x_NI, coefficients_ICO, domain_I2, denominator_ID, base_NO, curve, tile)
        y_NO = x_NI.new_empty(len(x_NI), outputs)
        for rows, expanded in _expanded_chunks(x_NI, domain_I2, denominator_ID, curve, outputs):
            weight = coefficients_ICO.view(-1, outputs)
            if base_NO is None:
                torch.mm(expanded, weight, out=y_NO[rows])
            else:
                torch.addmm(base_NO[rows], expanded, weight, out=y_NO[rows])
        return y_NO


@_sum_edges.register_fake
def _(x_NI, coefficients_ICO, domain_I2, denominator_ID, base_NO, basis, grid_size, order, extrapolation, path):
    return x_NI.new_empty(x_NI.shape[0], coefficients_ICO.shape[2])


@torch.library.custom_op("kan_kernels::sum_edges_input_gradient", mutates_args=())
def _input_gradient(
    dy_NO: Tensor,
    x_NI: Tensor,
    coefficients_ICO: Tensor,
    domain_I2: Tensor,
    denominator_ID: Tensor | None,
    basis: str,
    grid_size: int,
    order: int,
    extrapolation: str,
) -> tuple[Tensor, Tensor]:
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    dy_NO, x_NI, coefficients_ICO, domain_I2, denominator_ID = _contiguous(
        dy_NO, x_NI, coefficients_ICO, domain_I2, denominator_ID
    )
    if _is_empty(x_NI, coefficients_ICO):
        dtype = torch.promote_types(x_NI.dtype, torch.float32)
        return torch.zeros_like(x_NI), x_NI.new_zeros(x_NI.shape[1], curve.num_denominator, dtype=dtype)
    tile = _tile("input_gradient", x_NI, dy_NO.shape[1], curve)
    with _device_of(x_NI):
        return input_gradient(dy_NO, x_NI, coefficients_ICO, domain_I2, denominator_ID, curve, tile)


@_input_gradient.register_fake
def _(dy_NO, x_NI, coefficients_ICO, domain_I2, denominator_ID, basis, grid_size, order, extrapolation):
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    dtype = torch.promote_types(x_NI.dtype, torch.float32)
    dq_ID = x_NI.new_empty(x_NI.shape[1], curve.num_denominator, dtype=dtype)
    return torch.empty_like(x_NI, memory_format=torch.contiguous_format), dq_ID


@torch.library.custom_op("kan_kernels::sum_edges_weight_gradient", mutates_args=())
def _weight_gradient(
    dy_NO: Tensor,
    x_NI: Tensor,
    domain_I2: Tensor,
    denominator_ID: Tensor | None,
    basis: str,
    grid_size: int,
    order: int,
    extrapolation: str,
    path: str | None,
) -> Tensor:
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    dy_NO, x_NI, domain_I2, denominator_ID = _contiguous(dy_NO, x_NI, domain_I2, denominator_ID)
    (tokens, inputs), outputs, coefficients = x_NI.shape, dy_NO.shape[1], curve.num_coefficients
    if 0 in (tokens, inputs, outputs):
        return x_NI.new_zeros(inputs, coefficients, outputs)
    tile = _tile("weight_gradient", x_NI, outputs, curve, path)
    with _device_of(x_NI):
        if tile.path == "fused":
            return fused_weight_gradient(dy_NO, x_NI, domain_I2, denominator_ID, curve, tile)
        total = None
        for rows, expanded in _expanded_chunks(x_NI, domain_I2, denominator_ID, curve, outputs):
            part = _product_in_float32(expanded.t(), dy_NO[rows])
            total = part if total is None else total.add_(part)
        return total.to(x_NI.dtype).view(inputs, coefficients, outputs)


@_weight_gradient.register_fake
def _(dy_NO, x_NI, domain_I2, denominator_ID, basis, grid_size, order, extrapolation, path):
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    return x_NI.new_empty(x_NI.shape[1], curve.num_coefficients, dy_NO.shape[1])


def _save(ctx, inputs, output):
    x_NI, coefficients_ICO, domain_I2, denominator_ID, _, *ctx.settings, ctx.path = inputs
    ctx.save_for_backward(x_NI, coefficients_ICO, domain_I2, denominator_ID)


def _backward(ctx, dy_NO):
    x_NI, coefficients_ICO, domain_I2, denominator_ID = ctx.saved_tensors
    needs_x, needs_coefficients, _, needs_denominator, needs_base = ctx.needs_input_grad[:5]
    dx_NI = dq_ID = da_ICO = None
    operations = torch.ops.kan_kernels
    if needs_x or needs_denominator:
        dx_NI, dq_ID = operations.sum_edges_input_gradient(
            dy_NO, x_NI, coefficients_ICO, domain_I2, denominator_ID, *ctx.settings
        )
    if needs_coefficients:
        da_ICO = operations.sum_edges_weight_gradient(dy_NO, x_NI, domain_I2, denominator_ID, *ctx.settings, ctx.path)
    return (
        dx_NI if needs_x else None,
        da_ICO,
        None,
        dq_ID.to(denominator_ID.dtype) if needs_denominator else None,
        dy_NO if needs_base else None,
        *(None for _ in range(5)),
    )


_sum_edges.register_autograd(_backward, setup_context=_save)


def _expanded_chunks(x_NI: Tensor, domain_I2: Tensor, denominator_ID: Tensor | None, curve: Curve, outputs: int):
    """Slices of the tokens, each with its E (tokens, I·C) in one workspace that the next slice overwrites."""
    tile = _tile("expand", x_NI, outputs, curve)
    width = x_NI.shape[1] * curve.num_coefficients
    tokens = min(len(x_NI), max(1, WORKSPACE_BYTES // (width * x_NI.element_size())))
    workspace = x_NI.new_empty(tokens * width)
    for start in range(0, len(x_NI), tokens):
        rows = slice(start, min(start + tokens, len(x_NI)))
        yield rows, expand(x_NI[rows], domain_I2, denominator_ID, curve, tile, workspace)


def _product_in_float32(left: Tensor, right: Tensor) -> Tensor:
    """left @ right that is not rounded to 16 bits, so that chunks can be added."""
    if left.is_cuda and left.element_size() == 2 and not torch.version.hip:
        return torch.mm(left, right, out_dtype=torch.float32)
    dtype = torch.promote_types(left.dtype, torch.float32)
    return left.to(dtype) @ right.to(dtype)


def _tile(operation: str, x_NI: Tensor, outputs: int, curve: Curve, path: str | None = None) -> Tile:
    tokens, inputs = x_NI.shape
    gpu = architecture_of(x_NI.device)
    return choose(operation, tokens, inputs, outputs, curve.num_coefficients, x_NI.dtype, gpu, path)


@contextmanager
def _device_of(tensor: Tensor):
    """Triton launches on the current device; torch's products in here must keep the dtype they are given."""
    device = torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
    with device, torch.autocast(tensor.device.type, enabled=False):
        yield


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _is_empty(x_NI: Tensor, coefficients_ICO: Tensor) -> bool:
    return x_NI.numel() == 0 or coefficients_ICO.numel() == 0


def _check_shapes(
    x: Tensor, coefficients: Tensor, domain: Tensor, denominator: Tensor | None, base: Tensor | None, curve: Curve
) -> None:
    inputs = x.shape[-1]
    expected = {
        "coefficients": (coefficients, (inputs, curve.num_coefficients, coefficients.shape[-1])),
        "domain": (domain, (inputs, 2)),
        "denominator": (denominator, (inputs, curve.num_denominator) if curve.num_denominator else None),
        "base": (base, None if base is None else (*x.shape[:-1], coefficients.shape[-1])),
    }
    for name, (tensor, shape) in expected.items():
        if (None if tensor is None else tuple(tensor.shape)) != shape:
            actual = None if tensor is None else tuple(tensor.shape)
            raise ValueError(f"{name} must have shape {shape} for x {tuple(x.shape)} and {curve}, got {actual}.")
