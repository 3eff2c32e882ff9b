"""Device functions that the kernels of edges share: rounding, and the order of tiles."""

import triton
import triton.language as tl


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
