"""The Python standard library as a text corpus: real code, on every machine, with no download.

Shape letters: N blocks, T tokens of a block.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from kansformer.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Split = Literal["train", "held_out"]

HELD_OUT_PERCENT = 6
SEPARATOR = "\n\n"
MINIMUM_BYTES = 500

# Tests, programs and packages that only live beside the library, and folders of data written as Python.
EXCLUDED_FOLDERS = frozenset(
    [
        "test",
        "tests",
        "idle_test",
        "site-packages",
        "dist-packages",
        "idlelib",
        "lib2to3",
        "turtledemo",
        "encodings",
        "pydoc_data",
        "ensurepip",
        "__pycache__",
        "__phello__",
    ]
)
# Mostly tables that a program generated: a language model gains nothing from learning them by heart.
EXCLUDED_FILES = frozenset(
    [
        "html/entities.py",
        "keyword.py",
        "locale.py",
        "opcode.py",
        "stringprep.py",
        "symbol.py",
        "this.py",
        "token.py",
        "_opcode_metadata.py",
    ]
)


def standard_library_files() -> list[Path]:
    """List the core modules of the running Python's standard library.

    Tests, bundled programs, generated tables and files below 500 bytes are left out.

    Returns:
        Absolute paths of `.py` files, sorted by their path inside the library.

    Raises:
        DataError: if this Python comes without the library's source, as zipped and frozen ones do.
    """
    root = _root()
    files = sorted((p for p in root.rglob("*.py") if _is_core(p, root)), key=lambda p: p.relative_to(root).as_posix())
    if not files:
        raise DataError(
            f"No Python source was found in {str(root)!r}, where this Python keeps its standard library. "
            "Use a Python that is installed with its source, or pass a text of your own."
        )
    return files


def standard_library_documents(split: Split) -> list[str]:
    """Read one split of the standard library, a document per file.

    A file belongs to a split by the SHA-256 of its path inside the library, so `json/decoder.py` is in the same split
    on every machine and in every Python version. About 6 % of the files are held out.

    Args:
        split: "train" or "held_out".

    Returns:
        The files' text in the order of `standard_library_files`, read as UTF-8; bytes that are none are dropped.

    Raises:
        DataError: if `split` is another word, or the source is not on this machine.
    """
    if split not in get_args(Split):
        raise DataError(f"split={split!r} is not a split of the standard library; choose from {get_args(Split)}.")
    root = _root()
    return [
        path.read_text(encoding="utf-8", errors="ignore")
        for path in standard_library_files()
        if _split_of(path.relative_to(root).as_posix()) == split
    ]


def standard_library_text(split: Split) -> str:
    """Read one split of the standard library as one string.

    Files are joined by an empty line ("\\n\\n"), which every tokenizer knows. Where the tokenizer has a token for the
    start of a document, give `tokenize_blocks` the list from `standard_library_documents` instead.

    Args:
        split: "train" or "held_out".

    Raises:
        DataError: as `standard_library_documents`.
    """
    return SEPARATOR.join(standard_library_documents(split))


def tokenize_blocks(documents: str | Sequence[str], tokenizer: PreTrainedTokenizerBase, block: int) -> Tensor:
    """Turn documents into equally long blocks of tokens.

    Each document starts with the tokenizer's BOS token where it has one. All are then written into one stream, which
    is cut every `block` tokens; the incomplete rest is dropped.

    Args:
        documents: one text, or a sequence of them.
        tokenizer: any transformers tokenizer.
        block: tokens in a block, T >= 2.

    Returns:
        Token numbers, int64 of shape (N, T).

    Raises:
        DataError: if `block` is below 2, or the documents do not fill one block.
    """
    if block < 2:
        raise DataError(f"block={block} leaves no token to predict; choose 2 or more.")
    texts = [documents] if isinstance(documents, str) else list(documents)
    # Without the special tokens a tokenizer adds by itself, or BOS would be written twice. `verbose` would warn of
    # documents longer than the model's context, which the cut into blocks takes care of.
    rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    stream = torch.tensor([token for row in rows for token in start + row], dtype=torch.long)
    if len(stream) < block:
        raise DataError(f"{len(texts)} documents gave {len(stream)} tokens, too few for one block of {block}.")
    return stream[: len(stream) // block * block].view(-1, block)


def _root() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _is_core(path: Path, root: Path) -> bool:
    inside = path.relative_to(root)
    folders = inside.parts[:-1]
    return (
        EXCLUDED_FOLDERS.isdisjoint(folders)
        and not any(folder.startswith("config-") for folder in folders)
        and inside.as_posix() not in EXCLUDED_FILES
        # Each platform's build writes its own _sysconfigdata file.
        and not path.name.startswith("_sysconfigdata")
        and path.is_file()
        and path.stat().st_size >= MINIMUM_BYTES
    )


def _split_of(inside: str) -> Split:
    digest = hashlib.sha256(inside.encode()).digest()
    return "held_out" if int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT else "train"
