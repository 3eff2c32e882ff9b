"""The Triton kernels of `kan_kernels` as a backend. This is the one place that imports them, when they are first used.

Shape letters: `...` any, N tokens, I inputs, O outputs.
"""

import importlib.util
import os
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from kansformer.ops.curves import Curves
from kansformer.ops.gradients import constant_when_compiled, needs_definition

BASES = ("bspline", "chebyshev", "rational")


def kernels() -> ModuleType:
    """The package of the kernels."""
    import kan_kernels  # not cached: a compiler traces through an import, but not through a cache

    return kan_kernels


def reason_unavailable() -> str | None:
    """Why the kernels cannot run here, as a sentence; None where they can."""
    return None if _has_triton() else "the package triton is not installed."


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def device_types() -> tuple[str, ...]:
    """Where the kernels run: on GPUs, and in Triton's interpreter on the CPU, slowly, for tests."""
    return ("cuda", "cpu") if os.environ.get("TRITON_INTERPRET") == "1" else ("cuda",)


def computes(activation: str, x: Tensor, curves: Curves, factor: Tensor | None) -> bool:
    """Whether the kernel's own activation function is PyTorch's, bit for bit, on this device.

    For 16-bit dtypes the kernels try all 65,536 values of that function, once per process; not while a CUDA graph is
    captured, where a function that was not tried before counts as another.
    """
    return _is_exact(activation, x.device, x.dtype)


@constant_when_compiled
def _is_exact(activation: str, device: torch.device, dtype: torch.dtype) -> bool:
    return kernels().is_exact(activation, device, dtype)


def serves_curves(x: Tensor, curves: Curves, base: Tensor | str | None, factor: Tensor | None) -> bool:
    """Whether the kernel has the basis, and the result, which it writes in x's dtype, should have that."""
    if base is None and x.element_size() < 4:  # without a base the result is float32
        return False
    if (isinstance(base, Tensor) and base.dtype != x.dtype) or (factor is not None and factor.dtype != x.dtype):
        return False
    return serves_edges(x, curves)


def serves_edges(x: Tensor, curves: Curves, base: Tensor | None = None) -> bool:
    """Whether the kernels have the basis, and all gradients that are wanted."""
    # What is exported has to run without the kernels.
    return curves.basis.name in BASES and not (curves.learn_domains() or needs_definition(has_operator=True))


def apply_curves(x: Tensor, curves: Curves, base: Tensor | str | None = None, factor: Tensor | None = None) -> Tensor:
    """`reference.apply_curves` in one kernel."""
    coefficients, domain, denominator, basis = curves
    return kernels().learned_activation(
        x,
        coefficients,
        domain,
        basis=basis.name,
        grid_size=basis.grid_size,
        order=basis.order,
        extrapolation=basis.extrapolation,
        denominator=denominator,
        base="zero" if base is None else base,
        factor=factor,
    )


def sum_edges(x_NI: Tensor, curves: Curves, base_NO: Tensor | None = None) -> Tensor:
    """`reference.sum_edges` by the kernels, which multiply in the dtype of the base, or of x without one."""
    dtype = x_NI.dtype if base_NO is None else base_NO.dtype
    coefficients, domain, denominator, basis = curves
    y_NO = kernels().sum_edges(
        x_NI.to(dtype),
        coefficients,
        domain,
        basis=basis.name,
        grid_size=basis.grid_size,
        order=basis.order,
        extrapolation=basis.extrapolation,
        denominator=denominator,
        base=base_NO,
    )
    return y_NO if base_NO is not None else y_NO.to(torch.promote_types(dtype, torch.float32))
