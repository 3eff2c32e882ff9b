"""How the kernels of the learned activation are launched: block sizes, grids, and the constants they are compiled for.

Shape letters: N tokens, I channels, C coefficients per curve.
"""

import contextlib
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .base_functions import BASE_FUNCTIONS, GIVEN
from .curve import Curve

# A B-spline curve with more coefficients is not held in registers (FINE).
MAX_HELD = 16

# Coefficients whose gradients one program sums up: all of the longest curve that is held, Chebyshev's of degree 16.
MAX_WIDTH = 17

# Programs to aim at, several for each place a large GPU has, so that the last wave costs little. Backward takes fewer:
# each writes partial sums.
FORWARD_PROGRAMS = 4096
BACKWARD_PROGRAMS = 2048


class Tile(NamedTuple):
    """Tokens and channels that a program handles at a time, and its warps."""

    tokens: int
    channels: int
    warps: int


def activation_tile(channels: int, dtype_bytes: int, capability: tuple[int, int] | None) -> Tile:
    """Block sizes of both kernels.

    Args:
        channels: I.
        dtype_bytes: of x.
        capability: of the device; None in the interpreter, where few large tiles are fastest.
    """
    if capability is None:
        return Tile(64, min(64, triton.next_power_of_2(channels)), 4)
    # 256 bytes of a row: whole sectors, whatever the dtype. Two elements per thread: with four, backward needs more
    # registers than there are (160 for G = 5, K = 3, and spills from 17 coefficients), and saves a tenth of the
    # instructions.
    wide = min(256 // dtype_bytes, max(32, triton.next_power_of_2(channels)))
    return Tile(256 // wide, wide, 4)


class Launch:
    """Grid and block sizes for x (N, I) in about `programs` programs."""

    def __init__(self, x: Tensor, programs: int) -> None:
        self.device_of_x = x.device
        self.tokens, self.channels = x.shape
        tile = activation_tile(self.channels, x.element_size(), _capability(x.device))
        self.tile_constants = dict(TOKENS=tile.tokens, CHANNELS=tile.channels, num_warps=tile.warps)
        channel_blocks = triton.cdiv(self.channels, tile.channels)
        tokens_each = triton.cdiv(self.tokens * max(1, channel_blocks), programs)
        self.tokens_per_program = max(1, triton.cdiv(tokens_each, tile.tokens)) * tile.tokens
        self.grid = (triton.cdiv(self.tokens, self.tokens_per_program), channel_blocks)

    def sizes(self, coefficients: Tensor) -> tuple[int, int, int]:
        return self.tokens, self.channels, self.channels // len(coefficients)

    @staticmethod
    def rows(tensor: Tensor | None) -> Tensor | None:
        """The tensor itself if its rows are contiguous, else a copy."""
        return tensor if tensor is None or tensor.stride(1) == 1 or tensor.shape[1] == 1 else tensor.contiguous()

    def device(self):
        """Makes x's device the current one: Triton launches there."""
        if self.device_of_x.type == "cpu":
            return contextlib.nullcontext()
        return torch.get_device_module(self.device_of_x).device(self.device_of_x.index)


@cache
def _capability(device: torch.device) -> tuple[int, int] | None:
    if device.type == "cpu":
        return None
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def curve_tensors(coefficients: Tensor, domain: Tensor, denominator: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    denominator = coefficients if denominator is None else denominator  # a pointer that is never read
    return coefficients.contiguous(), domain.contiguous(), denominator.contiguous()


def constants_of(x: Tensor, curve: Curve, base: str, factor: Tensor | None) -> dict[str, object]:
    """What both kernels are compiled for, in the launch's terms: constants, and the compiler's options."""
    return dict(
        **curve.constants(),
        BASE=GIVEN.value if base == "given" else BASE_FUNCTIONS[base],
        HAS_FACTOR=factor is not None,
        FINE=curve.basis == "bspline" and curve.num_coefficients > MAX_HELD,
        COMPUTE=tl.float64 if x.dtype == torch.float64 else tl.float32,
        enable_fp_fusion=True,
    )
