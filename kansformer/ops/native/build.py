"""Builds the C++ kernels with the machine's compiler, once, for its processor.

The library is plain C at its surface and knows nothing of PyTorch, so that building takes seconds and one build serves
every version of it. It lies in the user's cache folder under a name made from source, compiler, flags and processor.
"""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kansformer.ops.native.cache import (
    build_folder,
    find_library,
    remove_damaged,
    store_library,
    user_cache_folder,
)

HERE = Path(__file__).parent
SOURCES = (
    *("curves.cpp", "edges.cpp", "edges_pairs.cpp", "edges_tiles.cpp", "threads.cpp"),
    *("symbols.cpp", "symbols_judge.cpp", "symbols_refine.cpp", "symbols_search.cpp"),
)
BF16_SOURCES = ("edges_pairs.cpp", "edges_tiles.cpp")
"""Those that have instructions for bfloat16, where the compiler's flags allow them."""
# No -ffast-math: NaN and infinity keep their meaning. Of OpenMP only loops that are vectors: nothing is linked.
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fopenmp-simd"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)

_log = logging.getLogger(__name__)


def compiler_command() -> str | None:
    """The command in CXX, or the first C++ compiler that is installed; None without one."""
    return os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)


def build_for_this_machine(compiler: Sequence[str]) -> Path:
    """The library for this processor, built unless the user's cache folder has it undamaged.

    Args:
        compiler: the command and its arguments.

    Raises:
        OSError: the compiler or a folder cannot be used.
        subprocess.SubprocessError: the compiler failed, or took too long.
    """
    flags = [*FLAGS, "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"]
    texts = [path.read_text(encoding="utf-8") for path in sorted((*HERE.glob("*.cpp"), *HERE.glob("*.h")))]
    version = _run([*compiler, "--version"])
    identity = "\0".join([*texts, *flags, version, platform.machine(), processor_features()])
    name = f"native-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    folder = user_cache_folder()
    if library := find_library(folder, name):
        return library
    with build_folder(folder) as temporary:
        remove_damaged(folder, name)
        if library := find_library(folder, name):  # another process has built it meanwhile
            return library
        _log.warning("kansformer builds its CPU kernels with %s, once on this machine (a few seconds).", compiler[-1])
        compile_library(compiler, flags, temporary / "native.so")
        return store_library(temporary / "native.so", folder, name)


def compile_library(
    compiler: Sequence[str], flags: Sequence[str], target: Path, bf16_flags: Sequence[str] = ()
) -> None:
    """Compile and link the sources; object files lie beside the target, for the next library there.

    Args:
        compiler: the command and its arguments.
        flags: of all sources.
        target: the library.
        bf16_flags: further ones, of `BF16_SOURCES`.

    Raises:
        OSError: the compiler cannot be used.
        subprocess.SubprocessError: it failed, or took too long.
    """
    commands = {}
    for name in SOURCES:
        arguments = [*flags, *(bf16_flags if name in BF16_SOURCES else ()), "-c", str(HERE / name)]
        compiled = target.with_name(f"{name}-{hashlib.sha256(repr(arguments).encode()).hexdigest()[:16]}.o")
        commands[compiled] = [*compiler, *arguments, "-o", str(compiled)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a compiler is a process with one thread
        list(pool.map(_run, (command for compiled, command in commands.items() if not compiled.exists())))
    _run([*compiler, "-shared", "-pthread", *map(str, commands), "-o", str(target)])


def processor_features() -> str:
    """What the processor can do, as Linux lists it: a cache folder may be shared by different machines."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return next((line for line in text.splitlines() if line.lower().startswith(("flags", "features"))), "")


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=300).stdout  # noqa: S603
