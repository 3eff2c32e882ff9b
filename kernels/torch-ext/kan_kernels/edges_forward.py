"""Per-edge curves summed at the outputs, forward, as Triton kernels.

    y_no = base_no + Σ_i Σ_c B_c(x_ni) A_ico

`sum_edges_fused_kernel` is a matrix product whose left factor E_{n,(i,c)} = B_c(x_ni) never leaves the registers: one
program owns a (rows × columns) tile of y and walks over blocks of `depth` inputs, all c of a block one after the other,
so that the tile of x stays in cache. It recomputes E once per column tile: good for narrow O.

`expand_kernel` writes E of a chunk of tokens for a plain matrix product: good for wide O, where E is read often.

Memory, all contiguous: x (N, I), coefficients A (I, C, O), domain (I, 2), denominator (I, D), base and y (N, O),
E (rows, I·C) with c fastest, which is what A seen as (I·C, O) multiplies. Basis functions are computed in float32
(float64 for float64) and rounded once to the dtype of x for the tensor cores; sums are float32.

Shape letters: N tokens, I inputs, O outputs, C coefficients, D denominator parameters.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bases import alive_functions, basis_value_and_slope, pick, unit_coordinates
from .curve import Curve
from .tiles import Tile


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


@triton.jit
def sum_edges_fused_kernel(
    x_ptr,
    coefficients_ptr,
    domain_ptr,
    denominator_ptr,
    base_ptr,
    y_ptr,
    N,
    I,  # noqa: E741
    O,  # noqa: E741
    BASIS: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    HAS_BASE: tl.constexpr,
    TOGETHER: tl.constexpr,
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    row, column = grouped_tile(tl.program_id(0), tl.cdiv(N, ROWS), tl.cdiv(O, COLUMNS), 8)
    n = row * ROWS + tl.arange(0, ROWS)
    o = column * COLUMNS + tl.arange(0, COLUMNS)
    valid_n, valid_o = (n < N)[:, None], (o < O)[None, :]
    x_rows = x_ptr + n.to(tl.int64)[:, None] * I
    offset = n.to(tl.int64)[:, None] * O + o[None, :]
    # The sum starts with the base: added after the loop, it makes ptxas wait for every product on sm_90.
    if HAS_BASE:
        total = tl.load(base_ptr + offset, mask=valid_n & valid_o, other=0.0).to(COMPUTE)
    else:
        total = tl.zeros((ROWS, COLUMNS), dtype=COMPUTE)
    # One flat loop over (block of inputs, c): a nested one would drain the software pipeline once per block. TOGETHER
    # of the c share one step, so that the place in the domain is computed less often.
    for step in range(0, tl.cdiv(I, DEPTH) * (C // TOGETHER)):
        first = (step % (C // TOGETHER)) * TOGETHER
        i = (step // (C // TOGETHER)) * DEPTH + tl.arange(0, DEPTH)
        valid_i = i < I
        x = tl.load(x_rows + i[None, :], mask=valid_n & valid_i[None, :], other=0.0).to(COMPUTE)
        lower, scale = load_domain(domain_ptr, i, valid_i, COMPUTE)
        denominator = load_denominator_row(denominator_ptr, i, valid_i, D, COMPUTE)
        unit = unit_coordinates(x, lower[None, :], scale[None, :])
        for j in tl.static_range(TOGETHER):
            a_rows = coefficients_ptr + (i.to(tl.int64)[:, None] * C + first + j) * O
            a = tl.load(a_rows + o[None, :], mask=valid_i[:, None] & valid_o, other=0.0)
            value, _ = basis_value_and_slope(unit, first + j, denominator, BASIS, G, K, EXTRAPOLATION)
            total = tl.dot(to_storage(value, a.dtype), a, total, input_precision="ieee", out_dtype=COMPUTE)
    tl.store(y_ptr + offset, total.to(y_ptr.dtype.element_ty), mask=valid_n & valid_o)


@triton.jit
def expand_kernel(
    x_ptr,
    domain_ptr,
    denominator_ptr,
    expanded_ptr,
    size,
    I,  # noqa: E741
    BASIS: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    COMPUTE: tl.constexpr,
    PADDED_C: tl.constexpr,
    ROWS: tl.constexpr,
):
    # One row per element of x. A thread holds all c of a row, so the K + 1 alive functions are computed once.
    element = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    valid = element < size
    i = (element % I).to(tl.int32)
    c = tl.arange(0, PADDED_C)[None, :]
    x = tl.load(x_ptr + element, mask=valid, other=0.0).to(COMPUTE)
    lower, scale = load_domain(domain_ptr, i, valid, COMPUTE)
    denominator = ()
    for d in tl.static_range(D):
        denominator += (tl.load(denominator_ptr + i * D + d, mask=valid, other=0.0).to(COMPUTE)[:, None],)
    unit = unit_coordinates(x, lower, scale)[:, None]
    first, values, _ = alive_functions(unit, denominator, BASIS, G, K, EXTRAPOLATION)
    value = pick(values, c - first, K + 1)
    dtype: tl.constexpr = expanded_ptr.dtype.element_ty
    tl.store(expanded_ptr + element[:, None] * C + c, to_storage(value, dtype), mask=valid[:, None] & (c < C))


def compute_dtype(dtype: torch.dtype) -> tl.dtype:
    """What a kernel computes in for tensors of this dtype."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def fused_forward(
    x_NI: Tensor,
    coefficients_ICO: Tensor,
    domain_I2: Tensor,
    denominator_ID: Tensor | None,
    base_NO: Tensor | None,
    curve: Curve,
    tile: Tile,
) -> Tensor:
    """y (N, O), never writing the expanded activation."""
    (tokens, inputs), outputs = x_NI.shape, coefficients_ICO.shape[2]
    y_NO = x_NI.new_empty(tokens, outputs)
    grid = (triton.cdiv(tokens, tile.rows) * triton.cdiv(outputs, tile.columns),)
    sum_edges_fused_kernel[grid](
        x_NI,
        coefficients_ICO,
        domain_I2,
        x_NI if denominator_ID is None else denominator_ID,  # not read where D is 0
        x_NI if base_NO is None else base_NO,
        y_NO,
        tokens,
        inputs,
        outputs,
        **curve.constants(),
        HAS_BASE=base_NO is not None,
        TOGETHER=math.gcd(curve.num_coefficients, tile.together),
        COMPUTE=compute_dtype(x_NI.dtype),
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        **tile.options(),
    )
    return y_NO


def expand(
    x_NI: Tensor, domain_I2: Tensor, denominator_ID: Tensor | None, curve: Curve, tile: Tile, expanded: Tensor
) -> Tensor:
    """Write the basis values of these tokens into the front of a workspace; returns them as (N, I·C)."""
    tokens, inputs = x_NI.shape
    size = tokens * inputs
    expand_kernel[(triton.cdiv(size, tile.rows),)](
        x_NI,
        domain_I2,
        x_NI if denominator_ID is None else denominator_ID,
        expanded,
        size,
        inputs,
        **curve.constants(),
        COMPUTE=compute_dtype(x_NI.dtype),
        PADDED_C=triton.next_power_of_2(curve.num_coefficients),
        ROWS=tile.rows,
        **tile.options(),
    )
    return expanded[: size * curve.num_coefficients].view(tokens, inputs * curve.num_coefficients)
