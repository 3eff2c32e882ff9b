"""Texts of the study, as characters, or subwords on GPUs: nothing is read twice, and all runs of a seed read the same.

Shape letters: N blocks, T tokens of a block.
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
PIECE, TOKENIZER_PIECES = 100_000, 300
"""Characters that are tokenized at once, and how many such pieces the tokenizer is trained on."""

SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Corpus:
    """A text that is split once and for all.

    Args:
        name: of `CORPORA`.
        train_blocks, validation_blocks: tokens, (N, T), in the text's order.
        digest: of the text; a file of rows has those of one text.
    """

    name: str
    train_blocks: Tensor
    validation_blocks: Tensor
    digest: str

    def batches(self, steps: int, batch: int, seed: int) -> Iterator[Tensor]:
        """Blocks of every step, (batch, T): drawn by the seed, none of them twice.

        Raises:
            ValueError: the text is too short.
        """
        needed, there = steps * batch, self.train_blocks.shape[0]
        if needed > there:
            raise ValueError(f"{self.name} has {there:,} blocks, and {needed:,} are needed without repeating any.")
        order = torch.randperm(there, generator=torch.Generator().manual_seed(seed))[:needed]
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
    return _split(name, tokens, BLOCK)


@functools.cache
def subword_corpus(vocabulary: int, block: int, cache: Path, characters: int | None = None) -> Corpus:
    """Python source as tokens of a byte-level BPE that is trained on a part of it; made once and kept in a folder.

    Args:
        vocabulary: number of tokens.
        block: their number in a block.
        cache: folder.
        characters: of the text; None takes all, which takes minutes to tokenize.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    kept = cache / f"python-{vocabulary}-{characters or 'all'}.pt"
    if not kept.exists():
        text = _python_source()[:characters]
        pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator(pieces[:TOKENIZER_PIECES], trainer)
        numbers = [number for piece in tokenizer.encode_batch_fast(pieces) for number in piece.ids]
        cache.mkdir(parents=True, exist_ok=True)
        aside = kept.with_suffix(".new")
        torch.save(torch.tensor(numbers, dtype=torch.int32), aside)
        aside.replace(kept)
    return _split(f"python-{vocabulary}", torch.load(kept, weights_only=True), block)


def _split(name: str, tokens: Tensor, block: int) -> Corpus:
    blocks_NT = tokens[: len(tokens) // block * block].view(-1, block)
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
