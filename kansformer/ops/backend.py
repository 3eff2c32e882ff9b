"""Which implementation runs: a table, one pure function, and the user's override."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from kansformer.errors import BackendError
from kansformer.ops import cpu, reference, triton
from kansformer.ops.curves import ACTIVATIONS, Curves
from kansformer.ops.gradients import constant_when_compiled
from kansformer.ops.native import library
from kansformer.ops.native import operators as native
from kansformer.ops.native.inference import Inference
from kansformer.ops.shapes import check_arguments

ENVIRONMENT_VARIABLE = "KANSFORMER_BACKEND"


@dataclass(frozen=True)
class Backend:
    """An implementation of both operations, as the functions of one module.

    The functions get tensors of one dtype, float64 if x is and else float32, unless a field says otherwise; the methods
    below see to that.

    Args:
        curves: (x, curves, base, factor) to (..., I), as are x, base and factor.
        edges: (x_NI, curves, base_NO) to (N, O).
        fallback: name of the backend that gets what these functions do not take.
        serves_curves, serves_edges: whether a function takes these arguments; None means that it takes all.
        computes: (name, x, curves, factor), whether `curves`, if it serves them, takes that key of `ACTIVATIONS` as the
            base, with the same result, bit for bit; None means that it takes none.
        inference: a shorter form of `curves` for modules that call it again and again without a graph. None if the
            backend has only `curves`.
        keeps_dtypes: whether the functions take tensors of any dtypes.
        checks_shapes: `curves` checks shapes itself, once for each kind of call, and raises a ValueError.
        curves_in_bfloat16: whether `curves` also takes x, base and factor that are all bfloat16, with a base and with
            float32 curves.
        keeps_bfloat16: whether `edges` onto a bfloat16 base takes tensors of any dtypes; None means never.
        device_types: where it runs; None means on every device.
        reason_unavailable: says in a sentence what is missing on this machine, or returns None.
    """

    curves: Callable[..., Tensor]
    edges: Callable[..., Tensor]
    fallback: str = "reference"
    serves_curves: Callable[..., bool] | None = None
    serves_edges: Callable[..., bool] | None = None
    computes: Callable[[str, Tensor, Curves, Tensor | None], bool] | None = None
    inference: type[Inference] | None = None
    keeps_dtypes: bool = False
    checks_shapes: bool = False
    curves_in_bfloat16: bool = False
    keeps_bfloat16: Callable[[], bool] | None = None
    device_types: tuple[str, ...] | None = None
    reason_unavailable: Callable[[], str | None] | None = None

    def runs_on(self, device_type: str) -> bool:
        return self.device_types is None or device_type in self.device_types

    def apply_curves(
        self, x: Tensor, curves: Curves, base: Tensor | str | None = None, factor: Tensor | None = None
    ) -> Tensor:
        """(base + s(x)) · factor of tensors of any dtypes; arguments and result as in `kansformer.ops.apply_curves`."""
        serves = self.serves_curves is None or self.serves_curves(x, curves, base, factor)
        if not (serves and self.checks_shapes):
            check_arguments(x, curves, base, factor)
        if not serves:
            return BACKENDS[self.fallback].apply_curves(x, curves, base, factor)
        if isinstance(base, str) and not (self.computes and self.computes(base, x, curves, factor)):
            base = ACTIVATIONS[base](x)
        if self.keeps_dtypes:
            try:
                return self.curves(x, curves, base, factor)
            except ValueError:
                check_arguments(x, curves, base, factor)  # says it in this package's words
                raise
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        if self.curves_in_bfloat16 and base is not None and _are_bfloat16(x, base, factor):
            return self.curves(x, curves if curves.have_dtype(dtype) else curves.to(dtype), base, factor)
        if not (x.dtype == dtype and curves.have_dtype(dtype)):
            x, curves = x.to(dtype), curves.to(dtype)
        base_fits = not isinstance(base, Tensor) or base.dtype == dtype
        if base_fits and (factor is None or factor.dtype == dtype):
            return self.curves(x, curves, base, factor)
        y = self.curves(x, curves, None, None)
        y = _add(base, y) if isinstance(base, Tensor) else y
        return y if factor is None else y * factor

    def sum_edges(self, x_NI: Tensor, curves: Curves, base_NO: Tensor | None = None) -> Tensor:
        """base + Σ_i s_oi(x_i) of tensors of any dtypes; arguments and result as in `kansformer.ops.sum_edges`."""
        if self.serves_edges and not self.serves_edges(x_NI, curves, base_NO):
            return BACKENDS[self.fallback].sum_edges(x_NI, curves, base_NO)
        onto_bfloat16 = base_NO is not None and base_NO.dtype == torch.bfloat16
        if self.keeps_dtypes or (onto_bfloat16 and self.keeps_bfloat16 and self.keeps_bfloat16()):
            return self.edges(x_NI, curves, base_NO)
        dtype = torch.float64 if x_NI.dtype == torch.float64 else torch.float32
        if not (x_NI.dtype == dtype and curves.have_dtype(dtype)):
            x_NI, curves = x_NI.to(dtype), curves.to(dtype)
        if base_NO is None or base_NO.dtype == dtype:
            return self.edges(x_NI, curves, base_NO)
        return _add(base_NO, self.edges(x_NI, curves, None))


def _are_bfloat16(*tensors: Tensor | str | None) -> bool:
    return all(not isinstance(t, Tensor) or t.dtype == torch.bfloat16 for t in tensors)


def _add(base: Tensor, curve: Tensor) -> Tensor:
    """base + curve, summed in the curve's float32 or float64 and rounded once to the base's dtype.

    Where the curve is zero the result is the base, bit for bit (a negative zero becomes a positive one).
    """
    return (base.to(curve.dtype) + curve).to(base.dtype)


# In the order of preference of `auto`, which `python -m benchmarks --suite backends` measures.
BACKENDS = {
    "native": Backend(
        native.apply_curves,
        native.sum_edges,
        "cpu",
        native.serves_curves,
        native.serves_edges,
        computes=native.computes,
        inference=Inference,
        curves_in_bfloat16=True,
        keeps_bfloat16=native.multiplies_bfloat16,
        device_types=("cpu",),
        reason_unavailable=library.reason_unavailable,
    ),
    "cpu": Backend(cpu.apply_curves, cpu.sum_edges, "reference", cpu.serves, cpu.serves, device_types=("cpu",)),
    "triton": Backend(
        triton.apply_curves,
        triton.sum_edges,
        "reference",
        triton.serves_curves,
        triton.serves_edges,
        computes=triton.computes,
        keeps_dtypes=True,
        checks_shapes=True,
        device_types=triton.device_types(),
        reason_unavailable=triton.reason_unavailable,
    ),
    "reference": Backend(reference.apply_curves, reference.sum_edges),
}

requested = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
"""The backend that was asked for; `set_backend` sets it."""


def available_backends() -> tuple[str, ...]:
    """Names that `set_backend` and the environment variable KANSFORMER_BACKEND take, besides `auto`.

    Examples:
        >>> from kansformer.ops import available_backends
        >>> available_backends()
        ('native', 'cpu', 'triton', 'reference')
    """
    return tuple(BACKENDS)


def set_backend(name: str | None) -> None:
    """Use one backend for all curves of this process from now on.

    Args:
        name: one of `available_backends()`, or `auto`; None reads the environment variable KANSFORMER_BACKEND, as is
            done when this package is imported, and at no other time.

    Raises:
        BackendError: there is no such backend.

    Examples:
        >>> from kansformer import set_backend
        >>> set_backend("reference")  # the definition in plain torch, on every device
        >>> set_backend(None)  # the choice of the environment, else the fastest
    """
    global requested
    requested = _check_name(name) if name is not None else os.environ.get(ENVIRONMENT_VARIABLE) or "auto"


def select_backend(requested: str, device_type: str) -> Backend:
    """The backend for tensors on a device type; `auto` takes the first that runs there.

    Args:
        requested: one of `available_backends()`, or `auto`.
        device_type: of the tensors, such as `cpu` or `cuda`.

    Returns:
        The backend, whose methods take tensors of any dtypes.

    Raises:
        BackendError: the one asked for does not exist, does not run on that device, or lacks something on this machine.

    Examples:
        >>> from kansformer.ops import select_backend
        >>> select_backend("reference", "cpu").runs_on("cuda")
        True
        >>> select_backend("triton", "mps")
        Traceback (most recent call last):
        kansformer.errors.BackendError: Backend 'triton' does not run on 'mps' tensors. Choose auto, reference.
    """
    return BACKENDS[_name_of(requested, device_type)]


@constant_when_compiled
def _name_of(requested: str, device_type: str) -> str:
    """`_find`, whose result a compiler takes as a constant instead of tracing through the cache."""
    return _find(requested, device_type)


@cache
def _find(requested: str, device_type: str) -> str:
    """Name of the backend asked for, or of the first one that runs there."""
    able = {name: backend for name, backend in BACKENDS.items() if backend.runs_on(device_type)}
    if _check_name(requested) != "auto":
        if requested not in able:
            choices = ", ".join(able)
            raise BackendError(
                f"Backend {requested!r} does not run on {device_type!r} tensors. Choose auto, {choices}."
            )
        if reason := _reason_unavailable(able[requested]):
            raise BackendError(f"Backend {requested!r} cannot run: {reason}")
        return requested
    for name, backend in able.items():
        reason = _reason_unavailable(backend)
        if reason is None:
            return name
        warnings.warn(
            f"kansformer goes on without its {name!r} backend, which is slower: {reason} "
            f"Set {ENVIRONMENT_VARIABLE} to another backend to silence this.",
            stacklevel=2,
        )
    raise AssertionError("the reference runs everywhere")


def _reason_unavailable(backend: Backend) -> str | None:
    return backend.reason_unavailable and backend.reason_unavailable()


def backend_for(tensor: Tensor) -> Backend:
    """The backend for this tensor under the process's settings."""
    return BACKENDS[_name_of(requested, tensor.device.type)]


def runs_kernels() -> bool:
    """Whether work on the CPU that is not one of the two operations, such as naming curves, takes the C++ kernels.

    It does where they can run, unless another backend of the CPU was asked for.

    Raises:
        BackendError: the native backend was asked for and cannot run.
    """
    if requested == "native":
        select_backend(requested, "cpu")
    return requested not in ("cpu", "reference") and library.reason_unavailable() is None


def _check_name(name: str) -> str:
    if name != "auto" and name not in BACKENDS:
        raise BackendError(f"Unknown backend {name!r}. Choose one of: auto, {', '.join(BACKENDS)}.")
    return name
