"""The Triton kernels of `kan_kernels` as a backend. This is the one place that imports them, when they are first used.

Shape letters: N tokens, I inputs, O outputs, C coefficients, D denominator parameters, P curves.
"""

import importlib.util
import os
from types import ModuleType

import torch
from torch import Tensor

from kansformer.basis import Basis
from kansformer.ops import reference
from kansformer.ops.activation import KnownActivation
from kansformer.ops.gradients import constant_when_compiled, is_exported, is_transformed

BASES = ("bspline", "chebyshev", "rational")


def kernels() -> ModuleType:
    """The package of the kernels."""
    import kan_kernels  # not cached: a compiler traces through an import, but not through a cache

    return kan_kernels


def reason_unavailable() -> str | None:
    """Why the kernels cannot run here, as a sentence; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed."
    return None


def device_types() -> tuple[str, ...]:
    """Where the kernels run: on GPUs, and in Triton's interpreter on the CPU, slowly, for tests."""
    return ("cuda", "cpu") if os.environ.get("TRITON_INTERPRET") == "1" else ("cuda",)


def computes(activation: str, basis: Basis, x: Tensor) -> bool:
    """Whether the kernel's own activation function is PyTorch's, bit for bit, on this device.

    For 16-bit dtypes the kernels try all 65,536 values, once per process.
    """
    return _serves(basis) and _is_exact(activation, x.device, x.dtype)


@constant_when_compiled
def _is_exact(activation: str, device: torch.device, dtype: torch.dtype) -> bool:
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return False  # nothing can be tried out while a graph is captured
    return activation in _exact(device, dtype)


def _exact(device: torch.device, dtype: torch.dtype) -> frozenset[str]:
    with torch.inference_mode(False), torch.no_grad():
        return kernels().exact_bases(device, dtype)


def apply_curves(
    x: Tensor,
    coefficients_PC: Tensor,
    denominator_PD: Tensor | None,
    domain_P2: Tensor,
    basis: Basis,
    base: Tensor | KnownActivation | None = None,
    factor: Tensor | None = None,
) -> Tensor:
    """`reference.apply_curves` in one kernel; other bases, and mixed dtypes, by the definition."""
    if isinstance(base, KnownActivation):
        given: str | Tensor = base.name
        fits = factor is None or factor.dtype == x.dtype
    else:
        # Without a base the result is float32, also for 16-bit inputs; the kernel's has the dtype of x.
        given = "zero" if base is None else base
        fits = all(t is None or t.dtype == x.dtype for t in (base, factor))
        fits = fits and (base is not None or x.element_size() >= 4)
    if not fits or not _serves(basis):
        base = base.function(x) if isinstance(base, KnownActivation) else base
        return reference.apply_curves(x, coefficients_PC, denominator_PD, domain_P2, basis, base, factor)
    return kernels().learned_activation(
        x,
        coefficients_PC,
        domain_P2,
        **_settings(basis),
        denominator=denominator_PD,
        base=given,
        factor=factor,
    )


def sum_edges(
    x_NI: Tensor,
    coefficients_ICO: Tensor,
    denominator_ID: Tensor | None,
    domain_I2: Tensor,
    basis: Basis,
    base_NO: Tensor | None = None,
) -> Tensor:
    """`reference.sum_edges` by the kernels, which multiply in the dtype of the base, or of x without one."""
    if not _serves(basis):
        return reference.sum_edges(x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO)
    dtype = x_NI.dtype if base_NO is None else base_NO.dtype
    y_NO = kernels().sum_edges(
        x_NI.to(dtype), coefficients_ICO, domain_I2, **_settings(basis), denominator=denominator_ID, base=base_NO
    )
    return y_NO if base_NO is not None else y_NO.to(torch.promote_types(dtype, torch.float32))


def _serves(basis: Basis) -> bool:
    # What is exported has to run without the kernels.
    return basis.name in BASES and not is_transformed() and not is_exported()


def _settings(basis: Basis) -> dict[str, object]:
    return dict(basis=basis.name, grid_size=basis.grid_size, order=basis.order, extrapolation=basis.extrapolation)
