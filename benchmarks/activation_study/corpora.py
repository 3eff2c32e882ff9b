"""Texts of the study, as characters: read once, nothing repeated, the same order of blocks for every variant of a seed.

Shape letters: N blocks, T characters of a block.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

BLOCK = 65  # 64 predictions
VOCABULARY = "\n" + "".join(map(chr, range(32, 127)))
"""One vocabulary for all corpora, so that models of different texts have the same shapes."""

PACKAGES = ("torch", "sympy", "scipy", "sklearn", "pandas", "numpy", "matplotlib", "networkx", "statsmodels")
"""Besides the standard library, where they are installed. Not transformers, whose models are copies of each other."""

VALIDATION_BLOCKS = 4_000
SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Corpus:
    """A text that is split once and for all.

    Args:
        name: of `CORPORA`.
        train_blocks, validation_blocks: characters as numbers, (N, T), in the text's order.
        digest: of the text; runs are paired only where it is the same.
    """

    name: str
    train_blocks: Tensor
    validation_blocks: Tensor
    digest: str

    @property
    def train_tokens(self) -> int:
        return self.train_blocks.shape[0] * (BLOCK - 1)

    def batches(self, steps: int, batch: int, seed: int) -> Iterator[Tensor]:
        """Blocks of every step, (batch, T): drawn by the seed, none of them twice.

        Raises:
            ValueError: the text is too short.
        """
        wanted, there = steps * batch, self.train_blocks.shape[0]
        if wanted > there:
            raise ValueError(f"{self.name} has {there:,} blocks, and {wanted:,} are needed without repeating any.")
        order = torch.randperm(there, generator=torch.Generator().manual_seed(seed))[:wanted]
        return (self.train_blocks[rows].long() for rows in order.view(steps, batch))


@functools.cache
def read_corpus(name: str, folder: str) -> Corpus:
    """A corpus by its name.

    Args:
        name: `python`, the source of the standard library and of `PACKAGES`; else a text file of the folder without
            its ending.
        folder: of text files.
    """
    text = _python_source() if name == "python" else (Path(folder) / f"{name}.txt").read_text(encoding="utf-8")
    codes = torch.full((128,), -1, dtype=torch.int8)
    codes[[ord(character) for character in VOCABULARY]] = torch.arange(len(VOCABULARY), dtype=torch.int8)
    plain = text.replace("\t", "    ").encode("ascii", "ignore")
    tokens = codes[torch.frombuffer(bytearray(plain), dtype=torch.uint8).long()]
    tokens = tokens[tokens >= 0]
    blocks_NT = tokens[: len(tokens) // BLOCK * BLOCK].view(-1, BLOCK)
    held_out = min(VALIDATION_BLOCKS, len(blocks_NT) // 10)
    digest = hashlib.sha256(tokens.numpy().tobytes()).hexdigest()[:8]
    return Corpus(name, blocks_NT[:-held_out], blocks_NT[-held_out:], digest)


def _python_source() -> str:
    """Paragraphs of Python source, each once; files in an order that mixes the packages and is the same everywhere."""
    files = {f"stdlib/{path}": text for path, text in _sources(Path(sysconfig.get_paths()["stdlib"]))}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            files |= {f"{package}/{path}": text for path, text in _sources(Path(root))}
    seen: set[int] = set()
    kept: list[str] = []
    for name in sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest()):
        for paragraph in files[name].split(SEPARATOR):
            if (key := hash(paragraph.strip())) not in seen:
                seen.add(key)
                kept.append(paragraph)
    return SEPARATOR.join(kept)


def _sources(root: Path) -> list[tuple[str, str]]:
    paths = (
        path
        for path in root.rglob("*.py")
        if not {"site-packages", "test", "tests"} & set(path.relative_to(root).parts)
    )
    return [(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8", errors="ignore")) for path in paths]
