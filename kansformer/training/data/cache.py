"""Token blocks kept on disk by their content, so that the next run need not tokenise the same text again.

A cache that cannot be read or written is no error: the blocks are made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.training.data.packing import Packing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Raised when the same key would mean other blocks.
FORMAT = 2
NAME = "blocks_NT"


def content_digest(documents: Sequence[str]) -> str:
    """SHA-256 of texts and of where each ends."""
    digest = hashlib.sha256()
    for text in documents:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def cache_key(content: str, tokenizer: PreTrainedTokenizerBase, packing: Packing) -> str | None:
    """Name of the blocks that these texts, this tokenizer and this packing give; None for a tokenizer that does not
    tell how it works, as those written in Python.

    Args:
        content: `content_digest` of the texts.
        tokenizer: any tokenizer of transformers.
        packing: how the blocks are cut.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    described = json.dumps([FORMAT, content, backend.to_str(), asdict(packing)])
    return hashlib.sha256(described.encode()).hexdigest()


def cached_blocks(key: str | None, make: Callable[[], Tensor]) -> Tensor:
    """Read the blocks of a key, or make and keep them.

    Args:
        key: from `cache_key`; None makes them without keeping them.
        make: gives the blocks, integers of shape (N, T).

    Returns:
        The blocks, uint16 where all token numbers fit, else int32.
    """
    folder = None if key is None else _cache_folder()
    path = None if folder is None else folder / f"{key}.safetensors"
    if path is not None and (found := _read(path)) is not None:
        return found
    blocks_NT = make()
    blocks_NT = blocks_NT.to(torch.uint16 if int(blocks_NT.max()) < 2**16 else torch.int32).contiguous()
    if path is not None:
        _write(blocks_NT, path)
    return blocks_NT


def _read(path: Path) -> Tensor | None:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            blocks_NT = file.get_tensor(NAME)
            sound = (file.metadata() or {}).get("sha256") == _digest(blocks_NT)
    except (OSError, SafetensorError):
        return None
    return blocks_NT if sound else None


def _write(blocks_NT: Tensor, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Full disks and folders that belong to somebody else: then it is not kept.
    with contextlib.suppress(OSError, SafetensorError), tempfile.TemporaryDirectory(dir=path.parent) as aside:
        whole = Path(aside) / path.name
        save_file({NAME: blocks_NT}, whole, metadata={"sha256": _digest(blocks_NT)})
        os.replace(whole, path)  # whole or not at all, also with several processes


def _digest(blocks_NT: Tensor) -> str:
    return hashlib.sha256(blocks_NT.numpy().data).hexdigest()


def _cache_folder() -> Path | None:
    """Beside the native kernels; None where nothing can be written."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = root / "kansformer" / "blocks"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None
    return folder
