"""The layout of the expanded activation and its chunks: pure functions of the sizes."""

import pytest
from kan_kernels.workspace import expands_in_planes, tokens_per_chunk

H100 = dict(processors=132, limit=256 * 2**20)


def tiles(tokens, outputs):
    return -(-tokens // 128) * -(-outputs // 256)


def test_whole_vectors_are_rows_and_few_tokens_leave_the_coefficients_alone():
    assert not expands_in_planes(8192, 1024, 8)
    assert expands_in_planes(8192, 1024, 19)
    assert not expands_in_planes(16, 1024, 19)


def test_what_fits_is_one_chunk_where_waves_are_full():
    assert tokens_per_chunk(1000, 768, 1, **H100) == 1000
    # 64 × 4 tiles: two waves, of which 97 % are full
    assert tokens_per_chunk(8192, 1024, 2048 * 8 * 2, **H100) == 8192


def test_chunks_fill_their_waves():
    tokens = tokens_per_chunk(16384, 1024, 2048 * 8 * 2, **H100)  # half would fit: 64 × 4 tiles
    assert tokens * 2048 * 8 * 2 <= 256 * 2**20
    waves = [-(-tiles(min(tokens, 16384 - start), 1024) // 132) for start in range(0, 16384, tokens)]
    assert sum(waves) == 4  # 512 tiles need 3.9
    old = 64 * 2**20 // (2048 * 8 * 2)  # chunks of 64 MiB: 64 tiles each, 8 waves half empty
    assert 16384 // old * -(-tiles(old, 1024) // 132) == 8


def test_more_chunks_where_they_have_fewer_waves():
    limit = 60 * 128  # rows of 128 tokens at a byte each
    # 99 rows of 4 tiles: two chunks are 200 and 196 tiles, two waves each; three are 132 tiles, one wave each
    assert tokens_per_chunk(99 * 128, 1024, 1, processors=132, limit=limit) == 33 * 128
    # a wave in three chunks, and a short one, are as many as two equal chunks, which begin and end less often
    assert tokens_per_chunk(100 * 128, 1024, 1, processors=132, limit=limit) == 50 * 128


@pytest.mark.parametrize(("tokens", "outputs", "row_bytes"), [(1, 1, 1), (129, 300, 10**9), (5000, 40, 70_000)])
def test_limits(tokens, outputs, row_bytes):
    chunk = tokens_per_chunk(tokens, outputs, row_bytes, **H100)
    assert chunk == tokens or chunk % 128 == 0
    assert chunk <= 128 or chunk * row_bytes <= H100["limit"]
