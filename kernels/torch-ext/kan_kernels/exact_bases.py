"""Whether the kernels compute a base function σ exactly as PyTorch does on a device: all 16-bit values are tried, once.

What is known is a dict, so that it can be read where nothing can be tried: while a CUDA graph is captured.
"""

import torch
from torch.utils._python_dispatch import _disable_current_modes

from . import definition
from .base_functions import VARIANTS

_NO_ARITHMETIC = frozenset({"identity", "relu", "zero"})

_AGREES: dict[tuple[str, torch.device, torch.dtype], bool] = {}
_EXACT: dict[tuple[str, torch.device, torch.dtype], bool] = {}


def is_exact(base: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels' σ is PyTorch's, bit for bit; NaN counts as equal to NaN, and -0 to 0.

    Dtypes of more than 16 bits have too many values to try: only functions without arithmetic are exact there. Waits
    for the device when something is first tried. While a CUDA graph is captured, what is not known counts as inexact.

    Args:
        base: a key of `definition.BASE_FUNCTIONS`.
        device: where to try.
        dtype: of x.

    Raises:
        ValueError: there is no such function.
        RuntimeError: the device is the CPU and Triton's interpreter is off.
    """
    known = _EXACT.get((base, device, dtype))
    if known is not None:
        return known
    if base not in definition.BASE_FUNCTIONS:
        raise ValueError(f"Unknown base {base!r}. Choose one of: {', '.join(definition.BASE_FUNCTIONS)}.")
    if dtype.itemsize == 2:
        exact = fastest_variant(base, device, dtype) != base or _agrees(base, base, device, dtype)
    else:
        exact = base in _NO_ARITHMETIC
    if not is_capturing(device):
        _EXACT[base, device, dtype] = exact
    return exact


def fastest_variant(base: str, device: torch.device, dtype: torch.dtype) -> str:
    """A faster computation of σ that agrees with PyTorch's on all 16-bit values; `base` itself where there is none."""
    if dtype.itemsize == 2:
        for variant in VARIANTS.get(base, ()):
            if _agrees(variant, base, device, dtype):
                return variant
    return base


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured, so that nothing can be tried."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _agrees(variant: str, base: str, device: torch.device, dtype: torch.dtype) -> bool:
    key = (variant, device, dtype)
    known = _AGREES.get(key)
    if known is None:
        if is_capturing(device):
            return False
        # Modes that follow a model, such as those of selective checkpoints, would take the trial for a part of it.
        with torch.inference_mode(False), torch.no_grad(), _disable_current_modes():
            known = _AGREES[key] = _try(variant, base, device, dtype)
    return known


def _try(variant: str, base: str, device: torch.device, dtype: torch.dtype) -> bool:
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32, device=device).to(torch.int16).view(dtype).reshape(512, 128)
    coefficients = torch.zeros(1, 2, device=device)
    domain = torch.tensor([[-1.0, 1.0]], device=device)
    operator = torch.ops.kan_kernels.learned_activation.default
    result = operator(x, coefficients, domain, None, None, None, variant, "chebyshev", 1, 1, "linear")
    expected = torch.where(x.isnan(), x, definition.BASE_FUNCTIONS[base](x))  # the curve is NaN there
    return bool(((result == expected) | (result.isnan() & expected.isnan())).all())
