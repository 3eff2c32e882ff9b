"""Matrix products of torch whose sums are in float32, whatever the process allows.

cuBLAS may split a long sum and add its parts in 16 bits, which `torch.backends.cuda.matmul` allows by default.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_ALLOWANCES = (
    "allow_bf16_reduced_precision_reduction",
    "allow_fp16_reduced_precision_reduction",
    "allow_fp16_accumulation",
)
_ADDS_INTO_FLOAT32 = "dtype_out" in torch.ops.aten.addmm.overloads() and not torch.version.hip


_lock = threading.Lock()
_inside = 0
_settings: dict[str, object] = {}


@contextmanager
def float32_sums() -> Iterator[None]:
    """Products in here sum in float32; afterwards the process's settings are what they were.

    The settings are the process's: a product that another thread starts meanwhile is more precise too. Of several
    threads in here, the first one changes the settings and the last one puts them back.
    """
    global _inside, _settings
    with _lock:
        if not _inside:
            _settings = _read_settings()
            _write_settings({name: _forbidden(value) for name, value in _settings.items()})
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _write_settings(_settings)


def _read_settings() -> dict[str, object]:
    matmul = torch.backends.cuda.matmul
    settings = {}
    for name in _ALLOWANCES:
        allowed = getattr(matmul, name)
        split = getattr(matmul, f"{name}_split_k", None)  # set together with the other, where torch has it
        settings[name] = allowed if split is None else (allowed, split)
    return settings


def _write_settings(settings: dict[str, object]) -> None:
    for name, value in settings.items():
        setattr(torch.backends.cuda.matmul, name, value)


def _forbidden(setting: object) -> object:
    return (False, setting[1]) if isinstance(setting, tuple) else False


def multiply(left: Tensor, right: Tensor, base: Tensor | None, out: Tensor) -> None:
    """out = base + left @ right, rounded once; None adds nothing."""
    with float32_sums():
        if base is None:
            torch.mm(left, right, out=out)
        else:
            torch.addmm(base, left, right, out=out)


def add_product(total: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    """total += left @ right, or total = left @ right the first time; total is float32 (float64 for float64 factors).

    On CUDA the product of 16-bit factors is added in the matrix product itself: total is read and written once.
    """
    beta = 0.0 if first else 1.0
    with float32_sums():
        if left.is_cuda and left.element_size() == 2 and _ADDS_INTO_FLOAT32:
            torch.addmm(total, left, right, out_dtype=torch.float32, beta=beta, out=total)
        else:
            torch.addmm(total, left.to(total.dtype), right.to(total.dtype), beta=beta, out=total)
