"""The loaded C++ kernels: the wheel's prebuilt library for this processor, or one that is built on this machine."""

import ctypes
import logging
import os
import shlex
import subprocess
from functools import cache
from pathlib import Path

from kansformer.errors import BackendError
from kansformer.ops.native.build import build_for_this_machine, compiler_command
from kansformer.ops.native.prebuilt import find_prebuilt


class Arguments(ctypes.Structure):
    """What every kernel of curves and edges gets; the same fields, in the same order, as in `common.h`."""

    _fields_ = [
        ("size", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("y", "dx", "dbase", "dfactor", "dcoefficients", "ddenominator")),
        *((name, ctypes.c_void_p) for name in ("gradient", "base", "factor", "x", "coefficients", "denominator")),
        *((name, ctypes.c_void_p) for name in ("domain", "table")),
        *((name, ctypes.c_int64) for name in ("tokens", "inputs", "outputs", "curves")),
        *((name, ctypes.c_int32) for name in ("family", "grid", "order", "extrapolation")),
        *((name, ctypes.c_int32) for name in ("num_coefficients", "num_denominator", "activation", "threads")),
        ("bfloat16", ctypes.c_int32),
    ]


class SearchArguments(ctypes.Structure):
    """What `symbols_search` gets; the same fields, in the same order, as in `symbols_search.cpp`."""

    _fields_ = [
        ("size", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("r2", "best", "curves", "candidates", "sizes", "has_partner")),
        *((name, ctypes.c_int64) for name in ("num_curves", "num_points", "num_functions")),
        ("threads", ctypes.c_int32),
    ]


class PairArguments(ctypes.Structure):
    """What `symbols_refine` and `symbols_judge` get; the same fields, in the same order, as in `symbols.h`."""

    _fields_ = [
        ("size", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("results", "curves", "points", "params", "rows", "functions", "table")),
        ("held_out", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("num_points", "num_pairs")),
        *((name, ctypes.c_int32) for name in ("steps", "threads")),
    ]


KERNELS: dict[str, type[ctypes.Structure]] = {
    **dict.fromkeys(
        (
            *("curves_forward", "curves_backward", "edges_forward", "edges_input_gradient", "edges_weight_gradient"),
            *("edges_pairs_forward", "edges_pairs_input_gradient", "edges_pairs_weight_gradient"),
            *("edges_tiles_forward", "edges_tiles_input_gradient", "edges_tiles_weight_gradient"),
        ),
        Arguments,
    ),
    "symbols_search": SearchArguments,
    **dict.fromkeys(("symbols_refine", "symbols_judge"), PairArguments),
}
"""The kernels, and what each gets."""

_log = logging.getLogger(__name__)


@cache
def library() -> ctypes.CDLL:
    """The kernels, built if this machine does not have them yet.

    Raises:
        BackendError: there is no C++ compiler, or it failed.
    """
    state = _state()
    if isinstance(state, str):
        raise BackendError(f"The native backend cannot run: {state}")
    return state


def check_status(code: int) -> None:
    """Check what a kernel returned: anything but 0 says that it did not run."""
    if code:
        raise AssertionError("The library is for other arguments or another processor, or may not use the matrix unit.")


def reason_unavailable() -> str | None:
    """Why the kernels cannot run here, as a sentence; None where they can."""
    state = _state()
    return state if isinstance(state, str) else None


@cache
def _state() -> "ctypes.CDLL | str":
    if os.name == "nt":
        return "it is built on Linux and macOS only."
    if prebuilt := find_prebuilt():
        try:
            return load_library(prebuilt)
        except OSError as error:
            _log.warning(
                "The prebuilt library %s cannot be loaded (%s), so kansformer builds its own.", prebuilt, error
            )
    command = compiler_command()
    if command is None:
        return "no C++ compiler was found (c++, g++ or clang++). Install one, for example g++."
    try:
        return load_library(build_for_this_machine(shlex.split(command)))
    except subprocess.CalledProcessError as error:
        return f"{command} could not build it: {error.stderr.strip()[-500:]}"
    except ValueError as error:
        return f"CXX is {command!r}, which is not a command: {error}."
    except (OSError, AttributeError, subprocess.TimeoutExpired) as error:
        return f"the library built by {command} cannot be used: {error}"


def load_library(path: Path) -> ctypes.CDLL:
    """Load the kernels from a file.

    Raises:
        OSError: the file is not a library for this machine.
        AttributeError: it has not all kernels.
    """
    loaded = ctypes.CDLL(str(path))
    for name, arguments in KERNELS.items():
        getattr(loaded, name).argtypes = [ctypes.POINTER(arguments)]
    # One pool of threads with PyTorch, which has brought its OpenMP into the process, unless it uses none.
    openmp = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    loaded.use_openmp.argtypes = [ctypes.c_void_p]
    loaded.use_openmp(ctypes.cast(openmp, ctypes.c_void_p) if openmp else None)
    return loaded
