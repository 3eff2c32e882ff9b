"""Documents become equally long blocks of tokens.

Shape letters: N blocks, T tokens of a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kansformer.errors import DataError
from kansformer.training.corpus import SEPARATOR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Documents are tokenised together up to this size, so that all cores work and no more than this lies about.
BATCH_CHARACTERS = 1_000_000
# A tokenizer needs up to 200 bytes for a character of one text, so a longer one is tokenised in pieces.
LONGEST = 2_000_000
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

    A causal one reads a stream in which the BOS token starts every document, as in `tokenize_blocks`. A masked one
    reads blocks that each are wrapped in its special tokens ([CLS] … [SEP]), documents ending in the last of these.
    """
    if task == "masked-lm":
        prefix, suffix = _wrapping(tokenizer)
        if prefix or suffix:
            separator = "" if suffix else SEPARATOR
            return Packing(block, end=suffix, separator=separator, prefix=prefix, suffix=suffix)
    if tokenizer.bos_token_id is None:
        return Packing(block, separator=SEPARATOR)
    return Packing(block, start=(tokenizer.bos_token_id,))


def pack(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, packing: Packing) -> Tensor:
    """Tokenise documents and cut the stream into blocks; an incomplete rest is dropped.

    Returns:
        Token numbers, int32 of shape (N, T).

    Raises:
        DataError: the documents do not fill one block.
    """
    stream = torch.cat([torch.empty(0, dtype=torch.int32), *_token_parts(documents, tokenizer, packing)])
    if len(stream) < packing.inner:
        raise DataError(
            f"The text gave {len(stream)} tokens, too few for one block={packing.block}. "
            "Give more text or a smaller block."
        )
    return _wrap(stream[: len(stream) // packing.inner * packing.inner].view(-1, packing.inner), packing)


def pack_stream(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, packing: Packing) -> Iterator[Tensor]:
    """As `pack`, but give each block (T) as soon as it is full."""
    rest = torch.empty(0, dtype=torch.int32)
    for part in _token_parts(documents, tokenizer, packing):
        stream = torch.cat([rest, part])
        full = len(stream) // packing.inner * packing.inner
        yield from _wrap(stream[:full].view(-1, packing.inner), packing)
        rest = stream[full:].clone()


def _token_parts(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, packing: Packing) -> Iterator[Tensor]:
    start, end = list(packing.start), list(packing.end)
    for number, batch in enumerate(_batches(documents)):
        if packing.separator:
            # One text, so that the separator is tokenised with what stands around it.
            batch = [("" if number == 0 else packing.separator) + packing.separator.join(batch)]
        *texts, last = batch  # the only one that may be long
        if len(last) <= LONGEST:
            texts, last = batch, ""
        if texts:
            yield _numbers(token for row in _tokenize(texts, tokenizer) for token in (*start, *row, *end))
        if last:
            yield _numbers(start)
            for piece in _pieces(last):
                yield _numbers(_tokenize([piece], tokenizer)[0])
            yield _numbers(end)


def _tokenize(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    # Without the special tokens a tokenizer adds by itself, or they would be written twice. `verbose` would warn of
    # documents longer than the model's context, which the cut into blocks takes care of.
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def _numbers(tokens: Iterable[int]) -> Tensor:
    return torch.tensor(list(tokens), dtype=torch.int32)


def _pieces(text: str) -> Iterator[str]:
    """A long text, cut behind line breaks between two lines of text: there tokenizers that split words start anew."""
    begin = 0
    while len(text) - begin > LONGEST:
        cut = text.rfind("\n", begin + 1, begin + LONGEST)
        while cut > 0 and (text[cut - 1].isspace() or text[cut + 1].isspace()):
            cut = text.rfind("\n", begin + 1, cut)
        end = cut + 1 if cut > 0 else begin + LONGEST
        yield text[begin:end]
        begin = end
    yield text[begin:]


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in documents:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _wrap(inner: Tensor, packing: Packing) -> Tensor:
    if not packing.prefix and not packing.suffix:
        return inner
    prefix, suffix = (
        torch.tensor(tokens, dtype=inner.dtype).expand(len(inner), -1) for tokens in (packing.prefix, packing.suffix)
    )
    return torch.cat([prefix, inner, suffix], dim=1)


def _wrapping(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    bare = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    whole = tokenizer(PROBE)["input_ids"]
    for place in range(len(whole) - len(bare) + 1):
        if whole[place : place + len(bare)] == bare:
            return tuple(whole[:place]), tuple(whole[place + len(bare) :])
    raise DataError(f"The tokenizer {type(tokenizer).__name__} changes a text when it adds special tokens.")
