"""Which implementation runs: a table, one pure function, and the user's override."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from kansformer.basis import Basis
from kansformer.errors import BackendError
from kansformer.ops import cpu, reference, triton
from kansformer.ops.gradients import constant_when_compiled
from kansformer.ops.native import build
from kansformer.ops.native import curves as native_curves
from kansformer.ops.native import edges as native_edges

ENVIRONMENT_VARIABLE = "KANSFORMER_BACKEND"


def _nothing_missing() -> None:
    return None


def _computes_none(activation: str, basis: Basis, x: torch.Tensor) -> bool:
    return False


@dataclass(frozen=True)
class Backend:
    """An implementation of both operations.

    Args:
        apply_curves: (x, coefficients_PC, denominator_PD, domain_P2, basis, base, factor) to (..., I), as are x, base
            and factor.
        sum_edges: (x_NI, coefficients_ICO, denominator_ID, domain_I2, basis, base_NO) to (N, O).
        computes: (name, basis, x), whether `apply_curves` also takes the `KnownActivation` of that name as its base.
            The result is the same, bit for bit.
        device_types: where it runs; None means on every device.
        reason_unavailable: says in a sentence what is missing on this machine, or returns None.
    """

    apply_curves: Callable[..., torch.Tensor]
    sum_edges: Callable[..., torch.Tensor]
    computes: Callable[[str, Basis, torch.Tensor], bool] = _computes_none
    device_types: tuple[str, ...] | None = None
    reason_unavailable: Callable[[], str | None] = _nothing_missing

    def runs_on(self, device_type: str) -> bool:
        return self.device_types is None or device_type in self.device_types


# In the order of preference of `auto`, which `python -m benchmarks --suite backends` measures.
BACKENDS = {
    "native": Backend(
        native_curves.apply_curves,
        native_edges.sum_edges,
        computes=native_curves.computes,
        device_types=("cpu",),
        reason_unavailable=build.reason_unavailable,
    ),
    "cpu": Backend(cpu.apply_curves, cpu.sum_edges, device_types=("cpu",)),
    "triton": Backend(
        triton.apply_curves,
        triton.sum_edges,
        computes=triton.computes,
        device_types=triton.device_types(),
        reason_unavailable=triton.reason_unavailable,
    ),
    "reference": Backend(reference.apply_curves, reference.sum_edges),
}

_requested: str | None = None


def available_backends() -> tuple[str, ...]:
    """Names that `set_backend` and the environment variable KANSFORMER_BACKEND take, besides `auto`."""
    return tuple(BACKENDS)


def set_backend(name: str | None) -> None:
    """Use one backend for all curves of this process from now on.

    Args:
        name: one of `available_backends()`, or `auto`; None returns to the environment variable's choice.

    Raises:
        BackendError: there is no such backend.
    """
    global _requested
    _requested = None if name is None else _checked(name)


def select_backend(requested: str, device_type: str) -> Backend:
    """The backend for tensors on a device type; `auto` takes the first that runs there.

    Raises:
        BackendError: the one asked for does not exist, does not run on that device, or lacks something on this machine.
    """
    if _checked(requested) == "auto":
        return BACKENDS[_best(device_type)]
    backend = BACKENDS[requested]
    if not backend.runs_on(device_type):
        choices = ", ".join(name for name, other in BACKENDS.items() if other.runs_on(device_type))
        raise BackendError(f"Backend {requested!r} does not run on {device_type!r} tensors. Choose auto, {choices}.")
    if reason := _reason_unavailable(requested):
        raise BackendError(f"Backend {requested!r} cannot run: {reason}")
    return backend


@constant_when_compiled
def _reason_unavailable(name: str) -> str | None:
    return BACKENDS[name].reason_unavailable()


@constant_when_compiled
def _best(device_type: str) -> str:
    """Name of the first backend that runs there."""
    return _find_best(device_type)


@cache
def _find_best(device_type: str) -> str:
    for name, backend in BACKENDS.items():
        if not backend.runs_on(device_type):
            continue
        reason = backend.reason_unavailable()
        if reason is None:
            return name
        warnings.warn(
            f"kansformer goes on without its {name!r} backend, which is slower: {reason} "
            f"Set {ENVIRONMENT_VARIABLE} to another backend to silence this.",
            stacklevel=2,
        )
    raise AssertionError("the reference runs everywhere")


def backend_for(tensor: torch.Tensor) -> Backend:
    """The backend for this tensor under the process's settings."""
    requested = _requested or os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    return select_backend(requested, tensor.device.type)


def _checked(name: str) -> str:
    if name != "auto" and name not in BACKENDS:
        raise BackendError(f"Unknown backend {name!r}. Choose one of: auto, {', '.join(BACKENDS)}.")
    return name
