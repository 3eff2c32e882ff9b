"""A driver for triton where there is no GPU: it says which GPU there is, and launches nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

from triton.backends.compiler import GPUTarget
from triton.runtime import driver


def gpu_target(name: str) -> GPUTarget:
    """The target of an architecture such as `sm_90` or `gfx942`."""
    return GPUTarget("hip", name, 64) if name.startswith("gfx") else GPUTarget("cuda", int(name[3:]), 32)


@contextmanager
def stand_in_driver(target: str) -> Iterator[None]:
    """Context in which kernels compile for a GPU that is not here, and their launches return at once."""
    driver.set_active(_StandIn(gpu_target(target)))
    try:
        yield
    finally:
        driver.set_active(None)  # found again when it is next asked for


class _Utils:
    """Loads nothing: a kernel has 64 registers, no spills and any number of threads."""

    def load_binary(self, name, kernel, shared, device):
        return 1, 1, 64, 0, 1024

    def unload_module(self, module):
        pass

    def get_device_properties(self, device):
        return dict(max_shared_mem=232_448, multiprocessor_count=132, warpSize=32)


class _StandIn:
    utils = _Utils()

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def launcher_cls(self, source, metadata):
        return lambda *arguments: None
