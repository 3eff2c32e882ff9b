"""How kernels load the parameters of curves, and in which dtype they compute."""

import torch
import triton
import triton.language as tl

from .base_functions import divide


@triton.jit
def load_domain(domain_ptr, curve, valid, COMPUTE: tl.constexpr):
    """Lower end and 1 / width of these curves' domains, both like `curve`; (0, 1) where not valid."""
    lower = tl.load(domain_ptr + curve * 2, mask=valid, other=0.0).to(COMPUTE)
    upper = tl.load(domain_ptr + curve * 2 + 1, mask=valid, other=1.0).to(COMPUTE)
    # Rounded correctly, so that an input at the upper end is placed there, never beyond: (upper - lower) * scale <= 1.
    return lower, divide(1.0, upper - lower)


@triton.jit
def load_parameters(pointer, curve, valid, COUNT: tl.constexpr, COMPUTE: tl.constexpr):
    """Tuple of the COUNT parameters of these curves, each like `curve`; () when COUNT is 0."""
    values = ()
    for c in tl.static_range(COUNT):
        values += (tl.load(pointer + curve * COUNT + c, mask=valid, other=0.0).to(COMPUTE),)
    return values


def compute_dtype(dtype: torch.dtype) -> tl.dtype:
    """What a kernel computes in for tensors of this dtype."""
    return tl.float64 if dtype == torch.float64 else tl.float32
