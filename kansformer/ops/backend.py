"""Which implementation runs: a table, one pure function, and the user's override."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from kansformer.errors import BackendError
from kansformer.ops import cpu, reference

ENVIRONMENT_VARIABLE = "KANSFORMER_BACKEND"


@dataclass(frozen=True)
class Backend:
    """An implementation of both operations and the device types it runs on (None: every device)."""

    apply_curves: Callable
    sum_edges: Callable
    device_types: tuple[str, ...] | None = None

    def runs_on(self, device_type: str) -> bool:
        return self.device_types is None or device_type in self.device_types


# In the order of preference of `auto`.
BACKENDS = {
    "cpu": Backend(cpu.apply_curves, cpu.sum_edges, ("cpu",)),
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
        BackendError: the one asked for does not exist or does not run on that device.
    """
    if _checked(requested) == "auto":
        return next(backend for backend in BACKENDS.values() if backend.runs_on(device_type))
    backend = BACKENDS[requested]
    if not backend.runs_on(device_type):
        choices = ", ".join(name for name, other in BACKENDS.items() if other.runs_on(device_type))
        raise BackendError(f"Backend {requested!r} does not run on {device_type!r} tensors. Choose auto, {choices}.")
    return backend


def backend_for(tensor: torch.Tensor) -> Backend:
    """The backend for this tensor under the process's settings."""
    requested = _requested or os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    return select_backend(requested, tensor.device.type)


def _checked(name: str) -> str:
    if name != "auto" and name not in BACKENDS:
        raise BackendError(f"Unknown backend {name!r}. Choose one of: auto, {', '.join(BACKENDS)}.")
    return name
