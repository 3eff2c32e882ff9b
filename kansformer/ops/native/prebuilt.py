"""Prebuilt libraries of the kernels: those that a wheel for Linux on x86-64 has, one for each level of processors.

`scripts/build_wheel.py` makes them. A source distribution and the pure wheel have none.
"""

import logging
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from kansformer.ops.native.build import processor_features
from kansformer.ops.native.cache import find_library

FOLDER = Path(__file__).parent / "prebuilt"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Level:
    """Processors that run one build of the kernels.

    Args:
        name: of the level, and how its library's file name begins.
        flags: of the compiler, for all sources.
        bf16_flags: further ones, for those with instructions for bfloat16.
        features: which a processor must have, as Linux calls them.
    """

    name: str
    flags: tuple[str, ...]
    bf16_flags: tuple[str, ...]
    features: frozenset[str]


_V3 = frozenset({"avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

_V4_FLAGS = ("-march=x86-64-v4", "-mprefer-vector-width=512")
_NO_TILES = "-DWITHOUT_TILES"  # no tiles in plain C++ either, which only tests use
_AMX = frozenset({"amx_tile", "amx_bf16"})

LEVELS = (
    Level("amx", _V4_FLAGS, ("-mavx512bf16", "-mamx-tile", "-mamx-bf16"), _V4 | {"avx512_bf16"} | _AMX),
    Level("avx512_bf16", _V4_FLAGS, ("-mavx512bf16", _NO_TILES), _V4 | {"avx512_bf16"}),
    Level("avx512", _V4_FLAGS, (_NO_TILES,), _V4),
    Level("avx2", ("-march=x86-64-v3",), (_NO_TILES,), _V3),
    Level("x86_64", ("-march=x86-64",), (_NO_TILES,), frozenset()),
)
"""The fastest first."""


def find_prebuilt() -> Path | None:
    """The library of the best level that this processor has; None without one."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or not FOLDER.is_dir():
        return None
    level = best_level(processor_features())
    path = find_library(FOLDER, level.name)
    if path is None:
        _log.warning("%s has no undamaged library for %s processors: reinstall kansformer.", FOLDER, level.name)
    return path


def best_level(features: str) -> Level:
    """The first of `LEVELS` that a processor with these features, separated by spaces, can run."""
    present = set(features.split())
    return next(level for level in LEVELS if level.features <= present)
