"""The expanded activation in compressed 2:4 form, for sparse tensor cores: cubic B-splines with 8 coefficients only.

Of the 8 functions at most those of number m … m + 3 are not zero, m being the interval. With the even and the odd ones
grouped, each group of four has two neighbours alive, from place p on: p = (m + 1) div 2 in the even, m div 2 in the odd
group. `expand_sparse_kernel` writes the two values of each group and their places, as cuSPARSELt's 16-bit format has
them (PyTorch: `MetadataCuSparseLt` in SparseSemiStructuredTile.cu):

    values    (R, 4·I)     row by row; per input the even group's two, then the odd group's; R is N rounded up to 128
    metadata  (R·I/2,)     after the values, 16-bit words of two inputs; per group a nibble p + 4·(p + 1): 4, 9 or 14

The word of row r and inputs 2w, 2w + 1 lies at

    512·(w div 4)·(R/128) + 512·(r div 128) + 256·(w div 2 mod 2) + 64·(r div 32 mod 4)
        + 8·(r mod 8) + 4·(r div 16 mod 2) + 2·(w mod 2) + (r div 8 mod 2)

so 128 rows and 8 inputs fill one kilobyte, which a program permutes in shared memory and stores in whole vectors.
Written are 9 bytes per element of x where the dense E has 16.

Shape letters: N tokens, R rows (tokens rounded up), I inputs, O outputs, C = 8 coefficients.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bases import BSPLINE, alive_functions, unit_coordinates
from .curve import Curve
from .curve_loads import load_domain
from .edges_device import to_storage
from .edges_expand import join_by_coefficient

ROWS = 128
"""Rows of a block of metadata; the rows of E are a multiple."""

INPUTS = 16
"""Inputs of a program, a multiple of the 8 in a block of metadata; I must be one, as cuSPARSELt has 128 columns."""


@triton.jit(do_not_specialize=["N"])
def expand_sparse_kernel(
    x_ptr,
    domain_ptr,
    values_ptr,
    metadata_ptr,
    N,
    I,  # noqa: E741
    EXTRAPOLATION: tl.constexpr,
    ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    dtype: tl.constexpr = values_ptr.dtype.element_ty
    block = tl.program_id(0)
    i = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    row = block * ROWS + tl.arange(0, ROWS)
    offset = row.to(tl.int64)[:, None] * I + i[None, :]
    x = tl.load(x_ptr + offset, mask=(row < N)[:, None], other=0.0).to(tl.float32)
    lower, scale = load_domain(domain_ptr, i, i < I, tl.float32)
    unit = unit_coordinates(x, lower[None, :], scale[None, :])
    interval, values, _ = alive_functions(unit, (), BSPLINE, 5, 3, EXTRAPOLATION)
    m = interval.to(tl.int32)
    odd = m % 2 == 1
    kept = (
        to_storage(tl.where(odd, values[1], values[0]), dtype),
        to_storage(tl.where(odd, values[3], values[2]), dtype),
        to_storage(tl.where(odd, values[0], values[1]), dtype),
        to_storage(tl.where(odd, values[2], values[3]), dtype),
    )
    values_offset = offset[:, :, None] * 4 + tl.arange(0, 4)[None, None, :]
    tl.store(values_ptr + values_offset, join_by_coefficient(kept, ROWS, INPUTS, 4))
    # Nibbles p + 4(p + 1) = 5p + 4 of both groups, then the bytes of two inputs to a word.
    places = (5 * ((m + 1) // 2) + 4) | ((5 * (m // 2) + 4) << 4)
    low, high = tl.split(tl.reshape(places, (ROWS, INPUTS // 2, 2)))
    words = tl.reshape((low | (high << 8)).to(tl.int16), (ROWS // 32, 2, 2, 8, INPUTS // 8, 2, 2))
    words = tl.reshape(tl.permute(words, (4, 5, 0, 3, 1, 6, 2)), (INPUTS // 8, ROWS * 4))
    group = tl.program_id(1) * (INPUTS // 8) + tl.arange(0, INPUTS // 8)
    words_offset = (group.to(tl.int64) * tl.num_programs(0) + block)[:, None] * (ROWS * 4)
    tl.store(metadata_ptr + words_offset + tl.arange(0, ROWS * 4)[None, :], words)


def check_sparse(x_NI: Tensor, outputs: int, curve: Curve) -> None:
    """Raises ValueError where the 2:4 form does not serve a curve or size, RuntimeError without cuSPARSELt."""
    inputs = x_NI.shape[1]
    if (curve.basis, curve.grid_size, curve.order) != ("bspline", 5, 3):
        raise ValueError(f"path 'sparse' serves the basis 'bspline' with grid_size=5 and order=3 only, got {curve}.")
    if x_NI.element_size() != 2:
        raise ValueError(f"path 'sparse' serves float16 and bfloat16, got {x_NI.dtype}.")
    if inputs % INPUTS or outputs % 8:
        raise ValueError(
            f"path 'sparse' needs inputs that are a multiple of {INPUTS} and outputs of 8, got {inputs} and {outputs}."
        )
    if not torch.backends.cusparselt.is_available():
        raise RuntimeError("path 'sparse' needs cuSPARSELt, which this build of torch or this GPU does not have.")


def expand_sparse(x_NI: Tensor, domain_I2: Tensor, curve: Curve) -> Tensor:
    """E of all tokens, compressed: values and metadata in one vector of x's dtype, 4.5·R·I numbers."""
    tokens, inputs = x_NI.shape
    blocks = triton.cdiv(tokens, ROWS)
    size = blocks * ROWS * inputs * 4
    compressed = x_NI.new_empty(size + size // 8)
    expand_sparse_kernel[(blocks, inputs // INPUTS)](
        x_NI,
        domain_I2,
        compressed,
        compressed[size:].view(torch.int16),
        tokens,
        inputs,
        EXTRAPOLATION=curve.constants()["EXTRAPOLATION"],
        ROWS=ROWS,
        INPUTS=INPUTS,
        num_warps=4,
        enable_fp_fusion=True,
    )
    return compressed


def grouped_rows(coefficients_ICO: Tensor) -> Tensor:
    """A as (I·C, O) with the rows of each input in the order of E's columns: the even coefficients, then the odd."""
    return coefficients_ICO.unflatten(1, (-1, 2)).transpose(1, 2).reshape(-1, coefficients_ICO.shape[2])


def sparse_forward(
    x_NI: Tensor, coefficients_ICO: Tensor, domain_I2: Tensor, base_NO: Tensor | None, curve: Curve
) -> Tensor:
    """y (N, O) by cuSPARSELt. The sum is rounded to x's dtype before the base is added, because it takes none."""
    compressed = expand_sparse(x_NI, domain_I2, curve)
    y_NO = torch._cslt_sparse_mm(compressed, grouped_rows(coefficients_ICO))[: len(x_NI)]
    return y_NO.contiguous() if base_NO is None else y_NO.add_(base_NO)
