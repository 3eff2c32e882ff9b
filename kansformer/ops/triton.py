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
from kansformer.ops.gradients import constant_when_compiled, is_transformed

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
    x_NI: Tensor,
    coefficients_PC: Tensor,
    denominator_PD: Tensor | None,
    domain_P2: Tensor,
    basis: Basis,
    base_NI: Tensor | KnownActivation | None = None,
    factor_NI: Tensor | None = None,
) -> Tensor:
    """`reference.apply_curves` in one kernel; other bases, and mixed dtypes, by the definition."""
    if isinstance(base_NI, KnownActivation):
        base: str | Tensor = base_NI.name
        fits = factor_NI is None or factor_NI.dtype == x_NI.dtype
    else:
        # Without a base the result is float32, also for 16-bit inputs; the kernel's has the dtype of x.
        base = "zero" if base_NI is None else base_NI
        fits = all(t is None or t.dtype == x_NI.dtype for t in (base_NI, factor_NI))
        fits = fits and (base_NI is not None or x_NI.element_size() >= 4)
    if not fits or not _serves(basis):
        base_NI = base_NI.function(x_NI) if isinstance(base_NI, KnownActivation) else base_NI
        return reference.apply_curves(x_NI, coefficients_PC, denominator_PD, domain_P2, basis, base_NI, factor_NI)
    return kernels().learned_activation(
        x_NI,
        coefficients_PC,
        domain_P2,
        **_settings(basis),
        denominator=denominator_PD,
        base=base,
        factor=factor_NI,
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
    return basis.name in BASES and not is_transformed() and not torch.compiler.is_exporting()


def _settings(basis: Basis) -> dict[str, object]:
    return dict(basis=basis.name, grid_size=basis.grid_size, order=basis.order, extrapolation=basis.extrapolation)
