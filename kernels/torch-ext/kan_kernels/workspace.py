"""How the expanded activation E is laid out and cut into chunks of tokens: pure functions of the sizes.

Shape letters: N tokens, I inputs, O outputs, C coefficients.
"""

from functools import lru_cache

PRODUCT_TILE = (128, 256)
"""Tokens and outputs of a tile of torch's matrix product, as cuBLAS has it for large 16-bit products on sm_90."""

# Waves that a chunk costs besides its own tiles: two launches, and the ends of two kernels.
_WAVES_PER_CHUNK = 0.1
# Chunks of more waves than these have ends too short to count.
_MAX_WAVES = 16


def expands_in_planes(tokens: int, outputs: int, coefficients: int) -> bool:
    """Whether E is written as (N, C, I) instead of (N, I, C); see `edges_expand.py`.

    Rows are whole vectors where C is a power of two. Elsewhere they are single numbers, each of which costs a sector of
    32 bytes, 16 times its size: 32·N·I·C bytes. Planes have A copied for them: 4·I·C·O bytes at two bytes a number.
    """
    return coefficients & (coefficients - 1) != 0 and 8 * tokens > outputs


@lru_cache(maxsize=1024)
def tokens_per_chunk(tokens: int, outputs: int, row_bytes: int, processors: int, limit: int) -> int:
    """Tokens whose E is written and multiplied at once.

    A product runs in waves of one tile per processor, and the last wave of every chunk is seldom full. Of the fewest
    equal chunks whose E fits, and of chunks of whole waves, those with the fewest waves in all are taken, the larger of
    equals.

    Args:
        tokens: N ≥ 1.
        outputs: O.
        row_bytes: of one token's E.
        processors: of the GPU (SMs, compute units).
        limit: most bytes of E, unless one row of tiles needs more.

    Returns:
        Tokens per chunk: all of them, or a multiple of the tile's.
    """
    rows, columns = PRODUCT_TILE
    across = -(-outputs // columns)
    most = max(1, limit // (row_bytes * rows))  # rows of tiles in a chunk
    total = -(-tokens // rows)

    def waves(each: int) -> float:
        whole, rest = divmod(total, each)
        chunks = whole + bool(rest)
        return whole * -(-each * across // processors) + -(-rest * across // processors) + _WAVES_PER_CHUNK * chunks

    even = -(-total // -(-total // most))
    most_waves = min(min(most, total) * across // processors, _MAX_WAVES)
    of_whole_waves = [count * processors // across for count in range(most_waves, 0, -1)]
    each = min([even, *filter(None, of_whole_waves)], key=waves)
    return min(tokens, each * rows)
