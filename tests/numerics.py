"""The one tolerance table: relative L2 error against float64 on the same stored inputs.

A basis computed in bfloat16 gives 5e-3 and fails; float32 arithmetic rounded once gives 1.7e-3 and passes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

FORWARD = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 4e-4, torch.bfloat16: 3e-3}

# Gradients go through one more rounding than outputs.
GRADIENT = {dtype: 4 / 3 * tolerance for dtype, tolerance in FORWARD.items()}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """|actual - expected| / |expected| in L2, in float64; the absolute error where `expected` is zero."""
    if actual.shape != expected.shape:
        raise AssertionError(f"shape {tuple(actual.shape)} instead of {tuple(expected.shape)}")
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).norm() / (expected.norm() or 1.0))


def assert_close_to_float64(
    actual: Tensor | Mapping[str, Tensor],
    expected: Tensor | Mapping[str, Tensor],
    dtype: torch.dtype,
    *,
    gradient: bool = False,
    looser: float = 1.0,
) -> None:
    """Compare a result, or named results, with float64.

    Args:
        actual: what the code under test gave.
        expected: the float64 result from the same stored inputs.
        dtype: of the stored inputs; picks the row of the table.
        gradient: use the column for gradients.
        looser: factor on the tolerance; the caller says why.
    """
    tolerance = looser * (GRADIENT if gradient else FORWARD)[dtype]
    if isinstance(actual, Tensor):
        actual, expected = {"result": actual}, {"result": expected}
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        error = relative_error(value, expected[name])
        assert error <= tolerance, f"{name}: relative error {error:.2e} above {tolerance:.2e} of {dtype}"
