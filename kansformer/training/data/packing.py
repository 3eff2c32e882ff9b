"""Documents become blocks of equal length.

Shape letters: N blocks, T tokens of a block.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kansformer.errors import DataError
from kansformer.training.corpus import SEPARATOR
from kansformer.training.data.texts import Piece, texts_of

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
        separator: text between documents, where no token tells them apart.
        prefix: first tokens of every block.
        suffix: last tokens of every block, and of every document.
    """

    block: int
    start: tuple[int, ...] = ()
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
        known = tokenizer.get_vocab().keys()  # of characters, perhaps of another alphabet
        probe = PROBE if PROBE in known or tokenizer.unk_token is not None else SEPARATOR[0]
        bare, whole = (tokenizer(probe, add_special_tokens=special)["input_ids"] for special in (False, True))
        places = [p for p in range(len(whole) - len(bare) + 1) if whole[p : p + len(bare)] == bare]
        if not places:
            raise DataError(f"The tokenizer {type(tokenizer).__name__} changes a text when it adds special tokens.")
        prefix, suffix = tuple(whole[: places[0]]), tuple(whole[places[0] + len(bare) :])
        if prefix or suffix:
            return Packing(block, separator="" if suffix else SEPARATOR, prefix=prefix, suffix=suffix)
    if tokenizer.bos_token_id is None:
        return Packing(block, separator=SEPARATOR)
    return Packing(block, start=(tokenizer.bos_token_id,))


def pack(
    texts: Iterable[Piece], tokenizer: PreTrainedTokenizerBase, packing: Packing, *, allow_empty: bool = False
) -> Iterator[np.ndarray]:
    """Tokenise documents and cut the stream of tokens into blocks (T), int32; an incomplete rest is dropped.

    Raises:
        DataError: the texts do not fill a block, and `allow_empty` is false.
    """
    rest, total = np.empty(0, np.int32), 0
    for number, batch in enumerate(_batches(texts)):
        strings = [packing.separator + text if first else text for text, first, _ in batch]
        if number == 0:
            strings[0] = batch[0].text
        # Without the special tokens a tokenizer adds by itself, or they would be written twice. `verbose` would warn of
        # documents longer than the model's context, which the cut into blocks takes care of.
        try:
            rows = tokenizer(strings, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        except Exception as error:  # its library has no other class, for characters that it does not know, say
            raise DataError(f"The tokenizer cannot read the text: {error}") from error
        parts = (
            (packing.start if piece.first else (), row, packing.suffix if piece.last else ())
            for piece, row in zip(batch, rows, strict=True)
        )
        tokens = np.fromiter(chain.from_iterable(chain.from_iterable(parts)), np.int32)
        total += len(tokens)
        stream = np.concatenate([rest, tokens])
        full = len(stream) // packing.inner * packing.inner
        blocks = stream[:full].reshape(-1, packing.inner)
        if packing.inner < packing.block:
            ends = (np.array(tokens, np.int32) for tokens in (packing.prefix, packing.suffix))
            prefix, suffix = (np.tile(tokens, (len(blocks), 1)) for tokens in ends)
            blocks = np.concatenate([prefix, blocks, suffix], axis=1)
        yield from blocks  # views: copies of each would scatter over the memory that the tokenizer gives back
        rest = stream[full:].copy()
    if total < packing.inner and not allow_empty:
        raise DataError(
            f"The text gave {total} tokens, too few for one block={packing.block}. Give more text or a smaller block."
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
    return torch.from_numpy(np.stack(list(pack(texts, tokenizer, Packing(block, start))))).long()


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
