"""Rows of a language model, tokenised and packed while a dataset is read.

Shape letters: T tokens of a block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch.utils.data
from torch import Tensor

from kansformer.errors import DataError
from kansformer.training.data.cut import shorten
from kansformer.training.data.packing import Packing, pack_stream
from kansformer.training.data.spec import DataRecipe
from kansformer.training.data.tables import check_column, load_rows, text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Rows that wait to be drawn from in random order.
SHUFFLE_ROWS = 1_000


class PackedStream(torch.utils.data.IterableDataset):
    """Blocks of a streamed dataset: {"input_ids": (T), "labels": (T)}, int64.

    With accelerate's `dispatch_batches=False` all processes of a distributed training read the same stream and take
    their shares; by default one process reads and hands out the batches. The workers of a DataLoader share the stream
    among themselves, by files, so there is work for as many as the dataset has files.

    Args:
        rows: a `datasets.IterableDataset`.
        tokenizer: any tokenizer of transformers.
        packing: how the blocks are cut.
        data: says which column holds the text, and how many tokens are enough.
        left_out: digests of texts that are kept for evaluation.
        labelled: False leaves the labels out: a collator masks the rows and makes them.
    """

    def __init__(
        self,
        rows: Any,
        tokenizer: PreTrainedTokenizerBase,
        packing: Packing,
        data: DataRecipe,
        *,
        left_out: frozenset[bytes] = frozenset(),
        labelled: bool = True,
    ) -> None:
        self.rows = rows
        self.tokenizer = tokenizer
        self.packing = packing
        self.data = data
        self.left_out = left_out
        self.labelled = labelled

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        texts = (text for text in stream_texts(self.rows, self.data) if text_digest(text) not in self.left_out)
        blocks = pack_stream(texts, self.tokenizer, self.packing)
        for block_T in islice(blocks, self._share()):
            tokens_T = block_T.long()
            yield {"input_ids": tokens_T, "labels": tokens_T} if self.labelled else {"input_ids": tokens_T}

    def _share(self) -> int | None:
        """How many blocks this worker gives; None for all."""
        if self.data.max_train_tokens is None:
            return None
        blocks = self.data.max_train_tokens // self.packing.block
        worker = torch.utils.data.get_worker_info()
        if worker is None:
            return blocks
        # The datasets library gives worker w the files w, w + W, w + 2W, ..., and nothing to those beyond.
        busy = min(worker.num_workers, self.rows.num_shards)
        return 0 if worker.id >= busy else (blocks + busy - 1 - worker.id) // busy


def open_stream(
    data: DataRecipe, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[Any, list[str], frozenset[bytes]]:
    """Open a dataset for streaming, and read the texts to evaluate on.

    Returns:
        The training rows in an order that `seed` decides, the same in every process and epoch; the first texts of the
        evaluation that have `max_eval_tokens`; and digests of those that the training rows contain.

    Raises:
        DataError: the dataset, split or column is not there, or has no text.
    """
    assert data.max_eval_tokens is not None, "the recipe has seen to it"
    rows = load_rows(data, data.train_split)
    held_out = rows if data.eval_split is None else load_rows(data, data.eval_split)
    tokens, texts = 0, []
    for text in stream_texts(held_out, data):
        texts.append(text)
        (part,) = shorten([text], data.max_eval_tokens)
        tokens += len(tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"])
        if tokens >= data.max_eval_tokens:
            break
    if not texts:
        raise DataError(f"The column {data.text_column!r} of {data.dataset!r} is empty.")
    left_out = frozenset(map(text_digest, texts)) if data.eval_split is None else frozenset()
    return rows.shuffle(seed=seed, buffer_size=SHUFFLE_ROWS), shorten(texts, data.max_eval_tokens), left_out


def stream_texts(rows: Any, data: DataRecipe) -> Iterator[str]:
    """The texts of streamed rows, without the empty ones.

    Raises:
        DataError: there is no such column, or it holds something else than text.
    """
    source = repr(data.dataset)
    for number, row in enumerate(rows):
        if number == 0:
            check_column(list(row), data.text_column, "text", source)
        text = text_of(row[data.text_column], number, data.text_column, source)
        if text.strip():
            yield text


def text_digest(text: str) -> bytes:
    """SHA-256 of one text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
