"""One curve per edge, summed at the outputs: the public function and its gradients.

    y_no = base_no + Σ_i Σ_c B_c(x_ni) A_ico       dx = Σ_c B'_c (dy Aᵀ)_c       dA = Bᵀ dy       dbase = dy

Backward keeps x, A, the domain and the denominator: nothing of size N·I·C. What runs: `edges_operations.py`. Kernels
and memory layouts: `edges_forward.py`, `edges_expand.py`, `edges_backward.py`.

Shape letters: N tokens, I inputs, O outputs, C coefficients, D denominator parameters; `...` any.
"""

import math

import torch
from torch import Tensor

from . import edges_operations  # noqa: F401  # defines torch.ops.kan_kernels.sum_edges
from .curve import Curve
from .tiles import check_path


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
        path: `fused` or `expand`; None takes what is faster according to `tiles/`. `sparse` computes the forward of a
            cubic B-spline with 8 coefficients by cuSPARSELt, and is not chosen by itself: it has yet to be measured.

    Returns:
        (..., O). float16 saturates basis values at 65504, some 20 000 domain widths away.

    Raises:
        ValueError: a name is unknown, a shape does not fit, or `sparse` does not serve these sizes.
        RuntimeError: `sparse` is asked for where torch has no cuSPARSELt.
    """
    curve = Curve(basis=basis, grid_size=grid_size, order=order, extrapolation=extrapolation)
    _check_shapes(x, coefficients, domain, denominator, base, curve)
    check_path(path)
    x_NI = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    outputs = coefficients.shape[-1]
    arguments = (
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
    differentiated = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in arguments[:5])
    y_NO = _SumEdges.apply(*arguments) if differentiated else torch.ops.kan_kernels.sum_edges(*arguments)
    return y_NO.view(*x.shape[:-1], outputs)


class _SumEdges(torch.autograd.Function):
    """The operator with its first derivatives, which are operators as well."""

    @staticmethod
    def forward(
        ctx,
        x_NI,
        coefficients_ICO,
        domain_I2,
        denominator_ID,
        base_NO,
        basis,
        grid_size,
        order,
        extrapolation,
        path,
    ):
        ctx.save_for_backward(x_NI, coefficients_ICO, domain_I2, denominator_ID)
        ctx.settings = (basis, grid_size, order, extrapolation)
        ctx.path = path
        return torch.ops.kan_kernels.sum_edges(
            x_NI, coefficients_ICO, domain_I2, denominator_ID, base_NO, *ctx.settings, path
        )

    @staticmethod
    def backward(ctx, dy_NO):
        x_NI, coefficients_ICO, domain_I2, denominator_ID = ctx.saved_tensors
        needs_x, needs_coefficients, _, needs_denominator, needs_base = ctx.needs_input_grad[:5]
        dx_NI = dq_ID = da_ICO = None
        operations = torch.ops.kan_kernels
        if needs_x or needs_denominator:
            dx_NI, dq_ID = operations.sum_edges_input_gradient(
                dy_NO, x_NI, coefficients_ICO, domain_I2, denominator_ID, *ctx.settings
            )
        if needs_coefficients:
            da_ICO = operations.sum_edges_weight_gradient(
                dy_NO, x_NI, domain_I2, denominator_ID, *ctx.settings, ctx.path
            )
        if torch.is_grad_enabled():  # create_graph=True
            sources = (dy_NO, x_NI, coefficients_ICO)
            dx_NI, da_ICO, dq_ID = (None if g is None else _Refuse.apply(g, *sources) for g in (dx_NI, da_ICO, dq_ID))
        return (
            dx_NI if needs_x else None,
            da_ICO,
            None,
            dq_ID.to(denominator_ID.dtype) if needs_denominator else None,
            dy_NO if needs_base else None,
            *(None for _ in range(5)),
        )


class _Refuse(torch.autograd.Function):
    """A gradient that depends on its sources, and says so when it is differentiated, instead of being a constant."""

    @staticmethod
    def forward(ctx, gradient, *sources):
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx, second):
        raise RuntimeError(
            "sum_edges has no second derivatives. Take those of its definition: kan_kernels.definition.sum_edges, "
            "or the backend 'reference' of kansformer."
        )


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
        actual = None if tensor is None else tuple(tensor.shape)
        if actual != shape:
            raise ValueError(f"{name} must have shape {shape} for x {tuple(x.shape)} and {curve}, got {actual}.")
