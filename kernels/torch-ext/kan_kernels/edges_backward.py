"""Per-edge curves summed at the outputs, backward, as Triton kernels without atomics: the same numbers every time.

    dE_n,ic = Σ_o dy_no A_ico
    dx_ni   = Σ_c B'_c(x_ni) dE_n,ic            dq_id = Σ_n Σ_c ∂B_c/∂q_d (x_ni) dE_n,ic
    dA_ico  = Σ_n B_c(x_ni) dy_no               dbase_no = dy_no

`input_gradient_kernel` computes a tile of dE with (input, c) pairs as its columns, which are consecutive rows of A; the
slopes of the basis go into the epilogue, which sums over c and writes dx. dE never reaches memory. WIDTH, a power of
two, of the c of an input stand side by side; where C is more there are several turns, and columns with c ≥ C are zero.
The epilogue splits the tile by c: a thread then holds few columns, and with them few domains and denominators. The
slopes alive at x are computed once per input and turn, after the product, where they hold no registers during it.
The gradient of the denominator is summed over the tokens of each tile into a workspace, and over tiles afterwards.

`weight_gradient_kernel` recomputes B_c of a block of inputs for a block of tokens, as the left factor of a product
with dy: one program per (block of inputs, block of outputs, c, split of the tokens). Splits go to a workspace and are
summed afterwards.

Memory, all contiguous: x and dx (N, I), A and dA (I, C, O), dy (N, O), domain (I, 2), denominator (I, D), workspaces
dq (tiles of tokens, I, D) and dA (splits, I, C, O) in float32.

Shape letters: N tokens, I inputs, O outputs, C coefficients, D denominator parameters.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bases import (
    alive_functions,
    basis_value,
    denominator_slopes,
    pick,
    pick_alive,
    unit_coordinates,
)
from .curve import Curve
from .curve_loads import compute_dtype, load_domain, load_parameters
from .edges_device import grouped_tile, to_storage
from .tiles import Tile, input_gradient_columns, splits_of_tokens


@triton.jit
def split_by_coefficient(expanded, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr):
    """Columns i·WIDTH + c, WIDTH a power of two, to a tuple of WIDTH tiles (ROWS, COLUMNS / WIDTH) by c."""
    if WIDTH == 1:
        parts = (expanded,)
    else:
        even, odd = tl.split(tl.reshape(expanded, (ROWS, COLUMNS // 2, 2)))
        evens = split_by_coefficient(even, ROWS, COLUMNS // 2, WIDTH // 2)
        odds = split_by_coefficient(odd, ROWS, COLUMNS // 2, WIDTH // 2)
        parts = ()
        for half in tl.static_range(WIDTH // 2):
            parts += (evens[half], odds[half])
    return parts


@triton.jit(do_not_specialize=["N"])
def input_gradient_kernel(
    dy_ptr,
    x_ptr,
    coefficients_ptr,
    domain_ptr,
    denominator_ptr,
    dx_ptr,
    dq_ptr,
    N,
    I,  # noqa: E741
    O,  # noqa: E741
    BASIS: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
):
    INPUTS: tl.constexpr = COLUMNS // WIDTH
    TURNS: tl.constexpr = (C + WIDTH - 1) // WIDTH
    row, column = grouped_tile(tl.program_id(0), tl.cdiv(N, ROWS), tl.cdiv(I, INPUTS), 8)
    n = row * ROWS + tl.arange(0, ROWS)
    pair = tl.arange(0, COLUMNS)
    i_of_pair = column * INPUTS + pair // WIDTH
    valid_n = (n < N)[:, None]
    dy_rows = dy_ptr + n.to(tl.int64)[:, None] * O
    i = column * INPUTS + tl.arange(0, INPUTS)
    valid_i = i < I
    dx = tl.zeros((ROWS, INPUTS), dtype=COMPUTE)
    for turn in range(TURNS):
        c_of_pair = turn * WIDTH + pair % WIDTH
        valid_pair = ((i_of_pair < I) & (c_of_pair < C))[None, :]
        a_rows = coefficients_ptr + (i_of_pair.to(tl.int64) * C + c_of_pair)[None, :] * O
        expanded = tl.zeros((ROWS, COLUMNS), dtype=COMPUTE)
        for start in range(0, O, DEPTH):
            o = start + tl.arange(0, DEPTH)
            dy = tl.load(dy_rows + o[None, :], mask=valid_n & (o < O)[None, :], other=0.0)
            a = tl.load(a_rows + o[:, None], mask=valid_pair & (o < O)[:, None], other=0.0)
            expanded = tl.dot(dy, a, expanded, input_precision="ieee", out_dtype=COMPUTE)
        parts = split_by_coefficient(expanded, ROWS, COLUMNS, WIDTH)
        x_offset = n.to(tl.int64)[:, None] * I + i[None, :]
        # Volatile where there are several turns: else the slopes move out of the loop, and spill during the products.
        x = tl.load(x_ptr + x_offset, mask=valid_n & valid_i[None, :], other=0.0, volatile=TURNS > 1).to(COMPUTE)
        lower, scale = load_domain(domain_ptr, i, valid_i, COMPUTE)
        denominator = load_parameters(denominator_ptr, i[None, :], valid_i[None, :], D, COMPUTE)
        unit = unit_coordinates(x, lower[None, :], scale[None, :])
        first, _, slopes = alive_functions(unit, denominator, BASIS, G, K, EXTRAPOLATION)
        for j in tl.static_range(WIDTH):
            if TURNS > 1:
                dx += parts[j] * pick(slopes, turn * WIDTH + j - first, K + 1)
            elif j < C:
                dx += parts[j] * pick_alive(slopes, first, j, BASIS, G, K)
        if D > 0:  # all c are in `parts`: there is one turn
            by_denominator = denominator_slopes(unit, parts, denominator, K, EXTRAPOLATION)
            for d in tl.static_range(D):
                over_tokens = tl.sum(by_denominator[d], axis=0)
                tl.store(dq_ptr + (row.to(tl.int64) * I + i) * D + d, over_tokens, mask=valid_i)
    _, scale = load_domain(domain_ptr, i, valid_i, COMPUTE)
    dx_offset = n.to(tl.int64)[:, None] * I + i[None, :]
    dx = dx * scale[None, :]
    tl.store(dx_ptr + dx_offset, dx.to(dx_ptr.dtype.element_ty), mask=valid_n & valid_i[None, :])


@triton.jit(do_not_specialize=["N", "tokens_per_split"])
def weight_gradient_kernel(
    dy_ptr,
    x_ptr,
    domain_ptr,
    denominator_ptr,
    da_ptr,
    N,
    I,  # noqa: E741
    O,  # noqa: E741
    tokens_per_split,
    BASIS: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    # c runs fastest: programs side by side share their tiles of x and dy in L2.
    program = tl.program_id(0)
    c = program % C
    blocks = tl.cdiv(I, ROWS) * tl.cdiv(O, COLUMNS)
    split = program // C // blocks
    row, column = grouped_tile(program // C % blocks, tl.cdiv(I, ROWS), tl.cdiv(O, COLUMNS), 8)
    i = row * ROWS + tl.arange(0, ROWS)
    o = column * COLUMNS + tl.arange(0, COLUMNS)
    valid_i, valid_o = i < I, (o < O)[None, :]
    lower, scale = load_domain(domain_ptr, i, valid_i, COMPUTE)
    denominator = load_parameters(denominator_ptr, i[:, None], valid_i[:, None], D, COMPUTE)
    total = tl.zeros((ROWS, COLUMNS), dtype=COMPUTE)
    end = min(N, (split + 1) * tokens_per_split)
    for start in range(split * tokens_per_split, end, DEPTH):
        n = start + tl.arange(0, DEPTH)
        row_n = n.to(tl.int64)
        valid_n = n < end
        dy = tl.load(dy_ptr + row_n[:, None] * O + o[None, :], mask=valid_n[:, None] & valid_o, other=0.0)
        x_offset = row_n[None, :] * I + i[:, None]
        x = tl.load(x_ptr + x_offset, mask=valid_n[None, :] & valid_i[:, None], other=0.0).to(COMPUTE)
        unit = unit_coordinates(x, lower[:, None], scale[:, None])
        value = basis_value(unit, c, denominator, BASIS, G, K, EXTRAPOLATION)
        total = tl.dot(to_storage(value, dy.dtype), dy, total, input_precision="ieee", out_dtype=COMPUTE)
    offset = ((split.to(tl.int64) * I + i[:, None]) * C + c) * O + o[None, :]
    tl.store(da_ptr + offset, total.to(da_ptr.dtype.element_ty), mask=valid_i[:, None] & valid_o)


def input_gradient(
    dy_NO: Tensor,
    x_NI: Tensor,
    coefficients_ICO: Tensor,
    domain_I2: Tensor,
    denominator_ID: Tensor | None,
    curve: Curve,
    tile: Tile,
) -> tuple[Tensor, Tensor]:
    """dx (N, I) in x's dtype, and dq (I, D) in float32 (float64 for float64), with no columns where D is 0."""
    (tokens, inputs), outputs = x_NI.shape, coefficients_ICO.shape[2]
    columns, width = input_gradient_columns(curve, tile.columns)
    blocks = triton.cdiv(tokens, tile.rows)
    accumulate = torch.promote_types(x_NI.dtype, torch.float32)
    dx_NI = torch.empty_like(x_NI)
    dq_TID = x_NI.new_empty(blocks, inputs, curve.num_denominator, dtype=accumulate)
    input_gradient_kernel[(blocks * triton.cdiv(inputs, columns // width),)](
        dy_NO,
        x_NI,
        coefficients_ICO,
        domain_I2,
        x_NI if denominator_ID is None else denominator_ID,  # not read where D is 0
        dx_NI,
        dq_TID,
        tokens,
        inputs,
        outputs,
        **curve.constants(),
        COMPUTE=compute_dtype(x_NI.dtype),
        ROWS=tile.rows,
        COLUMNS=columns,
        DEPTH=tile.depth,
        WIDTH=width,
        **tile.options(),
    )
    return dx_NI, dq_TID.sum(0)


def fused_weight_gradient(
    dy_NO: Tensor, x_NI: Tensor, domain_I2: Tensor, denominator_ID: Tensor | None, curve: Curve, tile: Tile
) -> Tensor:
    """dA (I, C, O) in x's dtype."""
    (tokens, inputs), outputs, coefficients = x_NI.shape, dy_NO.shape[1], curve.num_coefficients
    splits = splits_of_tokens(tile, tokens, inputs, outputs, coefficients)
    tokens_per_split = triton.cdiv(triton.cdiv(tokens, splits), tile.depth) * tile.depth
    dtype = x_NI.dtype if splits == 1 else torch.promote_types(x_NI.dtype, torch.float32)
    da_SICO = x_NI.new_empty(splits, inputs, coefficients, outputs, dtype=dtype)
    blocks = triton.cdiv(inputs, tile.rows) * triton.cdiv(outputs, tile.columns)
    weight_gradient_kernel[(splits * blocks * coefficients,)](
        dy_NO,
        x_NI,
        domain_I2,
        x_NI if denominator_ID is None else denominator_ID,
        da_SICO,
        tokens,
        inputs,
        outputs,
        tokens_per_split,
        **curve.constants(),
        COMPUTE=compute_dtype(x_NI.dtype),
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        **tile.options(),
    )
    return da_SICO[0] if splits == 1 else da_SICO.sum(0).to(x_NI.dtype)
