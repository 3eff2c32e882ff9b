"""Builds the C++ kernels on the machine they run on, once, and loads them.

The library is plain C at its surface and knows nothing of PyTorch, so that building takes seconds and one build serves
every version of it. It lies in the user's cache folder under a name made from source, compiler, flags and processor.
"""

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from kansformer.errors import BackendError
from kansformer.files import atomic_file

HERE = Path(__file__).parent
SOURCES = ("curves.cpp", "edges.cpp", "edges_bf16.cpp", "edges_dense.cpp")
HEADERS = ("common.h", "edges.h", "lanes.h", "activations.h", "curves.h", "curves_bspline.h", "curves_polynomial.h")
# No -ffast-math: NaN and infinity keep their meaning.
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)

KERNELS = (
    *("curves_forward", "curves_backward", "edges_forward", "edges_input_gradient", "edges_weight_gradient"),
    *("edges_bf16_forward", "edges_bf16_input_gradient", "edges_bf16_weight_gradient"),
    *("edges_expand", "edges_contract"),
)


class Arguments(ctypes.Structure):
    """What every kernel gets; the same fields, in the same order, as in `common.h`."""

    _fields_ = [
        ("size", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("y", "dx", "dbase", "dfactor", "dcoefficients", "ddenominator")),
        *((name, ctypes.c_void_p) for name in ("gradient", "base", "factor", "x", "coefficients", "denominator")),
        *((name, ctypes.c_void_p) for name in ("domain", "table")),
        *((name, ctypes.c_int64) for name in ("tokens", "inputs", "outputs", "curves")),
        *((name, ctypes.c_int32) for name in ("family", "grid", "order", "extrapolation")),
        *((name, ctypes.c_int32) for name in ("num_coefficients", "num_denominator", "activation", "threads")),
    ]


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


def reason_unavailable() -> str | None:
    """Why the kernels cannot run here, as a sentence; None where they can."""
    state = _state()
    return state if isinstance(state, str) else None


@cache
def _state() -> "ctypes.CDLL | str":
    if os.name == "nt":
        return "it is built on Linux and macOS only."
    command = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if command is None:
        return "no C++ compiler was found (c++, g++ or clang++). Install one, for example g++."
    try:
        compiler = shlex.split(command)
        loaded = ctypes.CDLL(str(_built(compiler)))
        for name in KERNELS:
            getattr(loaded, name).argtypes = [ctypes.POINTER(Arguments)]
    except subprocess.CalledProcessError as error:
        return f"{command} could not build it: {error.stderr.strip()[-500:]}"
    except ValueError as error:
        return f"CXX is {command!r}, which is not a command: {error}."
    except (OSError, AttributeError, subprocess.TimeoutExpired) as error:
        return f"the library built by {command} cannot be used: {error}"
    return loaded


def _built(compiler: list[str]) -> Path:
    version = _run([*compiler, "--version"])
    flags = [*FLAGS, "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"]
    # GCC's code runs on the OpenMP that PyTorch has brought into the process, so that there is one pool of threads, and
    # none is linked. Where that cannot be, the kernels start threads of their own.
    openmp = ["-fopenmp"] if "Free Software Foundation" in version and _has_torch_openmp() else []
    sources = [HERE / name for name in (*SOURCES, *HEADERS)]
    texts = [source.read_text(encoding="utf-8") for source in sources]
    identity = "\0".join([*texts, *flags, *openmp, version, platform.machine(), _processor()])
    folder = _cache_folder()
    target = folder / f"native-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    if target.exists():
        return target
    with _one_at_a_time(folder / "native.lock"), tempfile.TemporaryDirectory(dir=folder) as objects_folder:
        if target.exists():  # another process has built it meanwhile
            return target
        _log.warning("kansformer builds its CPU kernels with %s, once on this machine (a few seconds).", compiler[-1])
        objects = [str(Path(objects_folder) / f"{name}.o") for name in SOURCES]
        for name, compiled in zip(SOURCES, objects, strict=True):
            _run([*compiler, *flags, *openmp, "-c", str(HERE / name), "-o", compiled])
        with atomic_file(target) as partial:  # also where files cannot be locked
            _run([*compiler, "-shared", "-pthread", *objects, "-o", str(partial)])
    return target


@contextlib.contextmanager
def _one_at_a_time(file: Path) -> Iterator[None]:
    """Threads and processes that hold the same file wait for each other, where the file system has locks."""
    import fcntl  # not on Windows, where nothing is built

    with file.open("w") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _has_torch_openmp() -> bool:
    return hasattr(ctypes.CDLL(None), "GOMP_parallel")


def _processor() -> str:
    """What the processor can do: a cache folder may be shared by different machines."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return next((line for line in text.splitlines() if line.lower().startswith(("flags", "features"))), "")


def _cache_folder() -> Path:
    """A folder that only this user writes to: what lies in it is loaded into the process."""
    candidates = [Path(tempfile.gettempdir()) / f"kansformer-{os.getuid()}"]
    with contextlib.suppress(RuntimeError):  # a user without a home
        candidates.insert(0, Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kansformer")
    for folder in candidates:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.stat()
        except OSError:
            continue
        if status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    raise OSError(
        f"none of these folders belongs to this user alone and can be written to: {', '.join(map(str, candidates))}"
    )


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=300).stdout  # noqa: S603
