"""Edges in bfloat16: weights and basis values are multiplied as such and added in float32, in one of two forms.

`tiles` is for a processor with a matrix unit (AMX) and multiplies all basis values, zeros too. `pairs` is the way of
float32, with the processor's instructions for pairs of bfloat16.

Shape letters: N tokens, I inputs, O outputs, C coefficients.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from kansformer.ops.gradients import constant_when_compiled
from kansformer.ops.native.kernels import Settings, call, sizes_of_edges
from kansformer.ops.native.library import library

MIN_TOKENS = 16
"""For fewer it does not pay to bring the weights into the order of the matrix unit."""


@constant_when_compiled
def forms() -> tuple[str, ...]:
    """How this processor multiplies bfloat16, the fastest first; nothing where float32 is as fast."""
    return _forms()


@cache
def _forms() -> tuple[str, ...]:
    return tuple(form for form in ("tiles", "pairs") if _kernel(form, "supported")())


def evaluate_edges(
    settings: Settings, x_NI: Tensor, coefficients_ICO: Tensor, base_NO: Tensor | None, domain_I2: Tensor
) -> Tensor:
    """base + Σ_i s_oi(x_i): x of any float dtype, domain float32, the others bfloat16."""
    if base_NO is None:
        raise AssertionError("edges in bfloat16 are summed onto a base")
    y_NO, x_NI = torch.empty_like(base_NO, memory_format=torch.contiguous_format), x_NI.float()
    tensors = dict(y=y_NO, base=base_NO, x=x_NI, coefficients=coefficients_ICO, domain=domain_I2)
    call(_kernel(_form_for(x_NI), "forward"), settings, sizes_of_edges(x_NI, coefficients_ICO), tensors)
    return y_NO


def differentiate_edges(
    settings: Settings,
    needs_grad: Sequence[bool],
    gradient_NO: Tensor,
    x_NI: Tensor,
    coefficients_ICO: Tensor,
    domain_I2: Tensor,
) -> list[Tensor | None]:
    """Gradients of x and the coefficients, those that are wanted."""
    x, form, sizes = x_NI.float().contiguous(), _form_for(x_NI), sizes_of_edges(x_NI, coefficients_ICO)
    tensors = dict(gradient=gradient_NO.contiguous(), x=x, domain=domain_I2)
    dx = da = None
    if needs_grad[0]:
        dx = torch.empty_like(x)
        call(_kernel(form, "input_gradient"), settings, sizes, dict(dx=dx, coefficients=coefficients_ICO, **tensors))
        dx = dx.to(x_NI.dtype)
    if needs_grad[1]:
        dtype = torch.bfloat16 if form == "tiles" else torch.float32  # in which pairs add up
        da = torch.empty_like(coefficients_ICO, dtype=dtype, memory_format=torch.contiguous_format)
        call(_kernel(form, "weight_gradient"), settings, sizes, dict(dcoefficients=da, **tensors))
        da = da.to(torch.bfloat16)
    return [dx, da]


def _form_for(x_NI: Tensor) -> str:
    return forms()[0 if x_NI.shape[0] >= MIN_TOKENS else -1]


def _kernel(form: str, name: str) -> Callable[..., int]:
    return getattr(library(), f"edges_{form}_{name}")
