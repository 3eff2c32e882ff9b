"""Documents become blocks of equal length.

Shape letters: N blocks, T tokens of a block.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kansformer.errors import DataError
from kansformer.training.corpus import SEPARATOR
from kansformer.training.data.texts import Piece, texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Documents are tokenised together up to this size: all cores work, and no more than this is in memory.
BATCH_CHARACTERS = 1_000_000
# A tokenizer that wraps a text in special tokens shows with this one where they stand.
PROBE = "a"


@dataclass(frozen=True)
class Packing:
    """The tokens around documents and blocks.

    Args:
        block: tokens in a block, T.
        start: stand before every document.
        end: stand after every document.
        separator: text between documents, where no token tells them apart.
        prefix: first tokens of every block.
        suffix: last tokens of every block.
    """

    block: int
    start: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    separator: str = ""
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.inner < 1:
            raise DataError(f"block={self.block} leaves no room for text between the special tokens.")

    @property
    def inner(self) -> int:
        """Tokens of a block that come from the documents."""
        return self.block - len(self.prefix) - len(self.suffix)


def choose_packing(task: str, tokenizer: PreTrainedTokenizerBase, block: int) -> Packing:
    """How a language model of this task reads long texts.

    A causal one reads a stream in which the BOS token starts every document. A masked one reads blocks that each are
    wrapped in its special tokens ([CLS] … [SEP]), documents ending in the last of these.
    """
    if task == "masked-lm":
        bare, whole = (tokenizer(PROBE, add_special_tokens=special)["input_ids"] for special in (False, True))
        places = [p for p in range(len(whole) - len(bare) + 1) if whole[p : p + len(bare)] == bare]
        if not places:
            raise DataError(f"The tokenizer {type(tokenizer).__name__} changes a text when it adds special tokens.")
        prefix, suffix = tuple(whole[: places[0]]), tuple(whole[places[0] + len(bare) :])
        if prefix or suffix:
            separator = "" if suffix else SEPARATOR
            return Packing(block, end=suffix, separator=separator, prefix=prefix, suffix=suffix)
    if tokenizer.bos_token_id is None:
        return Packing(block, separator=SEPARATOR)
    return Packing(block, start=(tokenizer.bos_token_id,))


def pack(
    pieces: Iterable[Piece], tokenizer: PreTrainedTokenizerBase, packing: Packing
) -> Generator[np.ndarray, None, int]:
    """Tokenise documents and cut the stream of tokens into blocks (T), int32; an incomplete rest is dropped.

    Returns:
        Number of tokens in the stream, when all blocks are given.
    """
    prefix, suffix = (np.array(tokens, np.int32) for tokens in (packing.prefix, packing.suffix))
    rest, total = np.empty(0, np.int32), 0
    for number, batch in enumerate(_batches(pieces)):
        texts = [packing.separator + text if first else text for text, first, _ in batch]
        if number == 0:
            texts[0] = batch[0].text
        # Without the special tokens a tokenizer adds by itself, or they would be written twice. `verbose` would warn of
        # documents longer than the model's context, which the cut into blocks takes care of.
        rows = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        parts = (
            (packing.start if piece.first else (), row, packing.end if piece.last else ())
            for piece, row in zip(batch, rows, strict=True)
        )
        tokens = np.fromiter(chain.from_iterable(chain.from_iterable(parts)), np.int32)
        total += len(tokens)
        stream = np.concatenate([rest, tokens])
        full = len(stream) // packing.inner * packing.inner
        blocks = stream[:full].reshape(-1, packing.inner)
        if packing.inner < packing.block:
            ends = (np.broadcast_to(tokens, (len(blocks), len(tokens))) for tokens in (prefix, suffix))
            blocks = np.concatenate([next(ends), blocks, next(ends)], axis=1)
        yield from blocks  # views: copies of each would scatter over the memory that the tokenizer gives back
        rest = stream[full:].copy()
    return total


def pack_all(pieces: Iterable[Piece], tokenizer: PreTrainedTokenizerBase, packing: Packing) -> Iterator[np.ndarray]:
    """As `pack`; raises a `DataError` where the text does not fill a block."""
    tokens = yield from pack(pieces, tokenizer, packing)
    if tokens < packing.inner:
        raise DataError(
            f"The text gave {tokens} tokens, too few for one block={packing.block}. Give more text or a smaller block."
        )


def tokenize_blocks(documents: str | Sequence[str], tokenizer: PreTrainedTokenizerBase, block: int) -> Tensor:
    """Turn documents into blocks of equal length.

    Each document starts with the tokenizer's BOS token where it has one. All are then written into one stream, which
    is cut every `block` tokens; the incomplete rest is dropped.

    Args:
        documents: one text, or a sequence of them.
        tokenizer: any transformers tokenizer.
        block: tokens in a block, T >= 2.

    Returns:
        Token numbers, int64 of shape (N, T).

    Raises:
        DataError: `block` is below 2, or the documents do not fill one block.
    """
    if block < 2:
        raise DataError(f"block={block} leaves no token to predict; choose 2 or more.")
    start = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    texts = texts_of([documents] if isinstance(documents, str) else documents)
    return torch.from_numpy(np.stack(list(pack_all(texts, tokenizer, Packing(block, start))))).long()


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
