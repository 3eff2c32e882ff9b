"""The expanded activation E of a chunk of tokens, for plain matrix products: E holds B_c(x_ni) for all n, i and c.

A program owns a block of inputs and walks over its tokens: their domains are loaded once, and no element needs a
division to find its input. Two layouts, both with rows of I·C values:

    rows     E[n, i, c]   multiplies A (I, C, O) as it lies, seen as (I·C, O)
    planes   E[n, c, i]   multiplies A permuted to (C, I, O): one copy of A per product

With C a power of two, a thread joins the C values of an input and writes them as one vector, so rows are best. With
any other C they would be stored one by one, two bytes each with gaps between; a plane is written in whole vectors of
neighbouring inputs. `workspace.expands_in_planes` chooses.

Memory, all contiguous: x (N, I), domain (I, 2), denominator (I, D), E (N, I·C) in the dtype of x. Values are computed
in float32 (float64 for float64) and rounded once.

Shape letters: N tokens, I inputs, C coefficients, D denominator parameters.
"""

import triton
import triton.language as tl
from torch import Tensor

from .bases import alive_functions, pick_alive, unit_coordinates
from .curve import Curve
from .curve_loads import compute_dtype, load_domain, load_parameters
from .edges_device import to_storage
from .tiles import Tile, tokens_per_program


@triton.jit
def join_by_coefficient(parts, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr):
    """A tuple of WIDTH tiles (ROWS, COLUMNS), WIDTH a power of two, to one tile (ROWS, COLUMNS, WIDTH)."""
    if WIDTH == 1:
        joined = tl.reshape(parts[0], (ROWS, COLUMNS, 1))
    else:
        even = ()
        odd = ()
        for half in tl.static_range(WIDTH // 2):
            even += (parts[2 * half],)
            odd += (parts[2 * half + 1],)
        evens = join_by_coefficient(even, ROWS, COLUMNS, WIDTH // 2)
        odds = join_by_coefficient(odd, ROWS, COLUMNS, WIDTH // 2)
        joined = tl.reshape(tl.join(evens, odds), (ROWS, COLUMNS, WIDTH))
    return joined


@triton.jit(do_not_specialize=["N", "tokens_per_program"])
def expand_kernel(
    x_ptr,
    domain_ptr,
    denominator_ptr,
    expanded_ptr,
    N,
    I,  # noqa: E741
    tokens_per_program,
    BASIS: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    COMPUTE: tl.constexpr,
    PLANES: tl.constexpr,
    TOKENS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    dtype: tl.constexpr = expanded_ptr.dtype.element_ty
    i = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    valid_i = i < I
    lower, scale = load_domain(domain_ptr, i, valid_i, COMPUTE)
    denominator = load_parameters(denominator_ptr, i[None, :], valid_i[None, :], D, COMPUTE)
    # One 64-bit offset per program. Those inside it are of a few tokens and have 32 bits.
    first_token = tl.program_id(0) * tokens_per_program
    tokens = tl.minimum(tokens_per_program, N - first_token)
    x_rows = x_ptr + first_token.to(tl.int64) * I
    expanded_rows = expanded_ptr + first_token.to(tl.int64) * I * C
    for start in range(0, tokens, TOKENS):
        n = start + tl.arange(0, TOKENS)
        valid = (n < tokens)[:, None] & valid_i[None, :]
        x_offset = n[:, None] * I + i[None, :]
        x = tl.load(x_rows + x_offset, mask=valid, other=0.0).to(COMPUTE)
        unit = unit_coordinates(x, lower[None, :], scale[None, :])
        first, values, _ = alive_functions(unit, denominator, BASIS, G, K, EXTRAPOLATION)
        if not PLANES and C & (C - 1) == 0:
            parts = ()
            for c in tl.static_range(C):
                parts += (to_storage(pick_alive(values, first, c, BASIS, G, K), dtype),)
            offset = x_offset[:, :, None] * C + tl.arange(0, C)[None, None, :]
            tl.store(expanded_rows + offset, join_by_coefficient(parts, TOKENS, INPUTS, C), mask=valid[:, :, None])
        else:
            if PLANES:
                offset = n[:, None] * (I * C) + i[None, :]
                step = I
            else:
                offset = x_offset * C
                step = 1
            for c in tl.static_range(C):
                value = to_storage(pick_alive(values, first, c, BASIS, G, K), dtype)
                tl.store(expanded_rows + offset + c * step, value, mask=valid)


def expand(
    x_NI: Tensor,
    domain_I2: Tensor,
    denominator_ID: Tensor | None,
    curve: Curve,
    tile: Tile,
    expanded: Tensor,
    planes: bool,
) -> Tensor:
    """Write the basis values of these tokens into the front of a workspace; returns them as (N, I·C), or (N, C·I)."""
    tokens, inputs = x_NI.shape
    width = inputs * curve.num_coefficients
    each = tokens_per_program(tile, tokens, inputs)
    expand_kernel[(triton.cdiv(tokens, each), triton.cdiv(inputs, tile.columns))](
        x_NI,
        domain_I2,
        x_NI if denominator_ID is None else denominator_ID,  # not read where D is 0
        expanded,
        tokens,
        inputs,
        each,
        **curve.constants(),
        COMPUTE=compute_dtype(x_NI.dtype),
        PLANES=planes,
        TOKENS=tile.rows,
        INPUTS=tile.columns,
        **tile.options(),
    )
    return expanded[: tokens * width].view(tokens, width)
