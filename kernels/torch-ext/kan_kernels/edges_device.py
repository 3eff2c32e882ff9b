"""Device functions that the kernels of edges share: loads of curves, rounding, and the order of tiles."""

import torch
import triton
import triton.language as tl


@triton.jit
def load_domain(domain_ptr, index_I, valid, COMPUTE: tl.constexpr):
    """Lower end and 1 / width of these inputs' domains; (0, 1) where not valid."""
    lower = tl.load(domain_ptr + 2 * index_I, mask=valid, other=0.0).to(COMPUTE)
    upper = tl.load(domain_ptr + 2 * index_I + 1, mask=valid, other=1.0).to(COMPUTE)
    return lower, 1.0 / (upper - lower)


@triton.jit
def load_denominator_row(denominator_ptr, index_I, valid, D: tl.constexpr, COMPUTE: tl.constexpr):
    """The D parameters of these inputs, each as a row that broadcasts over tokens; () when D is 0."""
    rows = ()
    for d in tl.static_range(D):
        rows += (tl.load(denominator_ptr + index_I * D + d, mask=valid, other=0.0).to(COMPUTE)[None, :],)
    return rows


@triton.jit
def to_storage(value, dtype: tl.constexpr):
    """Round to the dtype; float16 saturates, because zero coefficients times infinity would be NaN."""
    if dtype == tl.float16:
        value = tl.where(value > 65504.0, 65504.0, value)
        value = tl.where(value < -65504.0, -65504.0, value)
    return value.to(dtype)


@triton.jit
def grouped_tile(program, rows, columns, GROUP: tl.constexpr):
    """Row and column number of a program; GROUP rows of tiles are walked together, to be found again in L2."""
    in_group = GROUP * columns
    first = (program // in_group) * GROUP
    height = min(rows - first, GROUP)
    return first + (program % in_group) % height, (program % in_group) // height


def compute_dtype(dtype: torch.dtype) -> tl.dtype:
    """What a kernel computes in for tensors of this dtype."""
    return tl.float64 if dtype == torch.float64 else tl.float32
