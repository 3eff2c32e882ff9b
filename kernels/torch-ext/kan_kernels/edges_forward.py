"""Per-edge curves summed at the outputs, forward, without the expanded activation in memory.

    y_no = base_no + Σ_i Σ_c B_c(x_ni) A_ico

`sum_edges_fused_kernel` is a matrix product whose left factor E_{n,(i,c)} = B_c(x_ni) never leaves the registers: one
program owns a (rows × columns) tile of y. A step takes a few inputs with WIDTH of their coefficients, a power of two:
the functions alive at x are computed once, joined to a tile of `depth` (i, c) columns, and multiplied in one product.
One product per step is what lets ptxas keep it in flight while the next values are computed; a product per c made it
wait for each. WIDTH is C rounded up, the columns with c ≥ C being zero; above MAX_WIDTH there are several turns.
E is recomputed once per column tile: good for narrow O.

Memory, all contiguous: x (N, I), coefficients A (I, C, O), domain (I, 2), denominator (I, D), base and y (N, O). Basis
functions are computed in float32 (float64 for float64) and rounded once to the dtype of x for the tensor cores; sums
are float32.

Shape letters: N tokens, I inputs, O outputs, C coefficients, D denominator parameters.
"""

import triton
import triton.language as tl
from torch import Tensor

from .bases import alive_functions, pick, pick_alive, unit_coordinates
from .curve import Curve
from .curve_loads import compute_dtype, load_domain, load_parameters
from .edges_device import grouped_tile, to_storage
from .edges_expand import join_by_coefficient
from .tiles import Tile, forward_step


@triton.jit(do_not_specialize=["N"])
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
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INPUTS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    TURNS: tl.constexpr = (C + WIDTH - 1) // WIDTH
    row, column = grouped_tile(tl.program_id(0), tl.cdiv(N, ROWS), tl.cdiv(O, COLUMNS), 8)
    n = row * ROWS + tl.arange(0, ROWS)
    o = column * COLUMNS + tl.arange(0, COLUMNS)
    valid_n, valid_o = (n < N)[:, None], (o < O)[None, :]
    x_rows = x_ptr + n.to(tl.int64)[:, None] * I
    offset = n.to(tl.int64)[:, None] * O + o[None, :]
    pair = tl.arange(0, INPUTS * WIDTH)
    # The sum starts with the base: added after the loop, it makes ptxas wait for every product on sm_90.
    if HAS_BASE:
        total = tl.load(base_ptr + offset, mask=valid_n & valid_o, other=0.0).to(COMPUTE)
    else:
        total = tl.zeros((ROWS, COLUMNS), dtype=COMPUTE)
    # One flat loop over (block of inputs, turn): a nested one would drain the software pipeline once per block.
    for step in range(0, tl.cdiv(I, INPUTS) * TURNS):
        first_input = (step // TURNS) * INPUTS
        first_c = (step % TURNS) * WIDTH
        i = first_input + tl.arange(0, INPUTS)
        valid_i = i < I
        x = tl.load(x_rows + i[None, :], mask=valid_n & valid_i[None, :], other=0.0).to(COMPUTE)
        lower, scale = load_domain(domain_ptr, i, valid_i, COMPUTE)
        denominator = load_parameters(denominator_ptr, i[None, :], valid_i[None, :], D, COMPUTE)
        unit = unit_coordinates(x, lower[None, :], scale[None, :])
        first, values, _ = alive_functions(unit, denominator, BASIS, G, K, EXTRAPOLATION)
        dtype: tl.constexpr = coefficients_ptr.dtype.element_ty
        parts = ()
        for j in tl.static_range(WIDTH):
            if TURNS > 1:
                parts += (to_storage(pick(values, first_c + j - first, K + 1), dtype),)
            elif j < C:
                parts += (to_storage(pick_alive(values, first, j, BASIS, G, K), dtype),)
            else:
                parts += (tl.zeros_like(unit).to(dtype),)
        expanded = tl.reshape(join_by_coefficient(parts, ROWS, INPUTS, WIDTH), (ROWS, INPUTS * WIDTH))
        i_of_pair = first_input + pair // WIDTH
        c_of_pair = first_c + pair % WIDTH
        valid_pair = (i_of_pair < I) & (c_of_pair < C)
        a_rows = coefficients_ptr + (i_of_pair.to(tl.int64) * C + c_of_pair)[:, None] * O
        a = tl.load(a_rows + o[None, :], mask=valid_pair[:, None] & valid_o, other=0.0)
        total = tl.dot(expanded, a, total, input_precision="ieee", out_dtype=COMPUTE)
    tl.store(y_ptr + offset, total.to(y_ptr.dtype.element_ty), mask=valid_n & valid_o)


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
    inputs_per_step, width = forward_step(curve, tile.depth)
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
        COMPUTE=compute_dtype(x_NI.dtype),
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        INPUTS=inputs_per_step,
        WIDTH=width,
        **tile.options(),
    )
    return y_NO
