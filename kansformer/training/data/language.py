"""Data of causal and masked language models.

Shape letters: N blocks, T tokens of a block.
"""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, islice
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from datasets.fingerprint import Hasher
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase, default_data_collator

from kansformer.errors import DataError
from kansformer.training.corpus import language_documents
from kansformer.training.data.load import cached_rows, column_texts, load_split, sentences, table_texts
from kansformer.training.data.packing import Packing, choose_packing, pack
from kansformer.training.data.prepare import PreparedData, split_rows
from kansformer.training.data.spec import DataRecipe
from kansformer.training.data.texts import CHARACTERS_PER_TOKEN, Texts, file_texts, texts_of
from kansformer.training.data.tokenizer import choose_tokenizer, describe_tokenizer
from kansformer.wording import counted

# Raised when the same fingerprint would mean other blocks.
FORMAT = 4
MASKED_PART = 0.15  # BERT's
MASKING_BATCH, MASKING_SEED = 256, 0
# Streamed rows that wait to be drawn from in random order.
SHUFFLE_ROWS = 1_000
# Of a row: the pass over the stream that it is from.
EPOCH = "epoch"


def prepare_language(task: str, data: DataRecipe, model_source: str | None, seed: int) -> PreparedData:
    """Tokenise texts and pack them into blocks; `prepare_data` explains the arguments."""
    facts: dict[str, Any] = {"source": data.source, "block": data.block}
    masked = task == "masked-lm"
    train: Dataset | PackedStream
    if data.streaming:
        tokenizer = choose_tokenizer(task, data, model_source, texts_of([]), texts_of([]))
        packing = choose_packing(task, tokenizer, data.block)
        train, held_out = _open_stream(data, tokenizer, packing, seed)
        facts |= {"streaming": True, "train_tokens": data.max_train_tokens, "train_sha256": None}
    else:
        texts, held_out = _load_texts(data)
        tokenizer = choose_tokenizer(task, data, model_source, texts, held_out)
        packing = choose_packing(task, tokenizer, data.block)
        train, digest = _blocks("training", texts, tokenizer, packing, data.max_train_tokens)
        facts |= {"train_tokens": len(train) * data.block, "train_sha256": digest}
    evaluation, digest = _blocks("evaluation", held_out, tokenizer, packing, data.max_eval_tokens)
    facts |= {"eval_tokens": len(evaluation) * data.block, "eval_sha256": digest}
    facts["tokenizer"] = describe_tokenizer(data, tokenizer)
    return PreparedData(
        train=train,
        evaluation=_mask_once(evaluation, tokenizer) if masked else evaluation,
        collator=BlockCollator(tokenizer if masked else None, seed),
        processor=tokenizer,
        vocabulary=len(tokenizer),
        facts=facts,
    )


@dataclass
class BlockCollator:
    """Stacks blocks and adds labels: the tokens themselves, or those that it masks.

    Args:
        tokenizer: with a mask token, for a masked language model; None for a causal one. (The collator of transformers
            for causal ones would take the token between documents for padding, and leave it out of the loss.)
        seed: of the masks, which follow from it, the epoch and the batch, so that a resumed run masks as it would have.
        epoch: of the training, from 0, which `MaskAnew` keeps. Rows of a stream that repeats bring their own.
    """

    tokenizer: PreTrainedTokenizerBase | None
    seed: int = 0
    epoch: int = 0

    def __call__(self, rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        epoch = int(rows[0].get(EPOCH, self.epoch))
        rows = [{name: value for name, value in row.items() if name != EPOCH} for row in rows]
        if self.tokenizer is not None and "labels" not in rows[0]:
            tokens = b"".join(row["input_ids"].numpy().tobytes() for row in rows)
            seed = zlib.crc32(tokens, (self.seed + epoch) % 2**32)
            return _mask(rows, DataCollatorForLanguageModeling(self.tokenizer, mlm_probability=MASKED_PART, seed=seed))
        batch = default_data_collator(rows)
        return {"labels": batch["input_ids"].clone(), **batch}


@dataclass(frozen=True, eq=False)
class PackedStream(IterableDataset):
    """Blocks of a streamed dataset: {"input_ids": (T)}, int64; where it repeats, with the number of the pass, "epoch".

    With accelerate's `dispatch_batches=False` all processes of a distributed training read the same stream and take
    their shares; by default one process reads and hands out the batches. The workers of a DataLoader share the stream
    among themselves, by files, so at most one worker per file has work. Where several have, the stream does not repeat:
    a worker that soon is at the end of its files would give them more often than another one its own.

    Args:
        rows: the texts, in a column that `data` names.
        left_out: digests of texts that are kept for evaluation.
        repeats: whether one pass follows another for ever, as training to a number of steps needs it: steps of several
            batches, and resumed runs, then go over the end of a pass.

    Raises:
        DataError: on iteration, a pass has no block.
    """

    rows: datasets.IterableDataset
    tokenizer: PreTrainedTokenizerBase
    packing: Packing
    data: DataRecipe
    left_out: frozenset[bytes]
    repeats: bool = False

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if not self.repeats or self._busy_workers() > 1:
            yield from self._one_pass()
            return
        for epoch in count():
            is_empty = True
            for row in self._one_pass():
                is_empty = False
                yield {**row, EPOCH: torch.tensor(epoch)}
            if is_empty:  # a worker without a file
                return

    def _one_pass(self) -> Iterator[dict[str, Tensor]]:
        blocks = 0
        texts = column_texts(self.rows, self.data.text_column, repr(self.data.dataset))
        kept = texts_of(text for text in texts if text.strip() and _digest(text) not in self.left_out)
        for block_T in islice(pack(kept, self.tokenizer, self.packing, allow_empty=True), self._share()):
            blocks += 1
            yield {"input_ids": torch.from_numpy(block_T).long()}
        if not blocks and torch.utils.data.get_worker_info() is None:
            rest = f" beside the {counted(len(self.left_out), 'text')} of the evaluation" if self.left_out else ""
            raise DataError(f"{self.data.dataset!r} has no block of {self.packing.block} tokens to train on{rest}.")

    def _busy_workers(self) -> int:
        worker = torch.utils.data.get_worker_info()
        return 1 if worker is None else min(worker.num_workers, self.rows.num_shards)

    def _share(self) -> int | None:
        """Number of blocks that this worker gives; None for all."""
        if self.data.max_train_tokens is None:
            return None
        blocks, worker = self.data.max_train_tokens // self.packing.block, torch.utils.data.get_worker_info()
        if worker is None:
            return blocks
        # The datasets library gives worker w the files w, w + W, w + 2W, ..., and nothing to those beyond.
        busy = self._busy_workers()
        return len(range(worker.id, blocks, busy)) if worker.id < busy else 0


def _open_stream(
    data: DataRecipe, tokenizer: PreTrainedTokenizerBase, packing: Packing, seed: int
) -> tuple[PackedStream, Texts]:
    """The training rows in an order that `seed` decides, the same in every process and epoch, and the first texts of
    the evaluation, which have `max_eval_tokens`; they are left out of the training rows if they are among them."""
    assert data.max_eval_tokens is not None, "the recipe has checked it"
    rows = load_split(data, data.train_split)
    held_out = rows if data.eval_split is None else load_split(data, data.eval_split)
    tokens, texts = 0, []
    for text in column_texts(held_out, data.text_column, repr(data.dataset)):
        if text.strip():
            texts.append(text)
            part = text[: CHARACTERS_PER_TOKEN * data.max_eval_tokens]
            tokens += len(tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"])
        if tokens >= data.max_eval_tokens:
            break
    if not texts:
        raise DataError(f"The column {data.text_column!r} of {data.dataset!r} is empty.")
    if tokens < data.max_eval_tokens and data.eval_split is None:
        raise DataError(
            f"The evaluation takes all of the {counted(len(texts), 'text')} of {data.dataset!r}, about {tokens:,} "
            f"tokens, so none is left to train on: data.max_eval_tokens is {data.max_eval_tokens:,}. Lower it, or give "
            "data.eval_split."
        )
    left_out = frozenset(map(_digest, texts)) if data.eval_split is None else frozenset()
    shuffled = rows.shuffle(seed=seed, buffer_size=SHUFFLE_ROWS)
    return PackedStream(shuffled, tokenizer, packing, data, left_out), texts_of(texts).shorten(data.max_eval_tokens)


def _load_texts(data: DataRecipe) -> tuple[Texts, Texts]:
    """The texts to train on and those to evaluate on, shortened to what the recipe's limits can need."""
    if data.corpus is not None:
        train, evaluation = (texts_of(language_documents(data.corpus, split)) for split in ("train", "held_out"))
    elif data.files is not None:
        read_table = partial(table_texts, column=data.text_column)
        train = file_texts(data.files, read_table)
        if data.eval_files is None:
            train, evaluation = train.split(data.eval_fraction)
        else:
            evaluation = file_texts(data.eval_files, read_table)
    else:
        rows = _text_rows(data, data.train_split)
        if data.eval_split is not None:
            held_out = _text_rows(data, data.eval_split)
        else:
            kept, cut_off = split_rows(range(len(rows)), data.eval_fraction, data.source)
            rows, held_out = rows.select(kept), rows.select(cut_off)
        train, evaluation = (texts_of(part[data.text_column]) for part in (rows, held_out))
    return train.shorten(data.max_train_tokens), evaluation.shorten(data.max_eval_tokens)


def _text_rows(data: DataRecipe, split: str) -> Dataset:
    """The rows of a dataset that have a text."""
    rows = load_split(data, split)
    texts = column_texts(rows, data.text_column, repr(data.dataset))
    kept = [number for number, text in enumerate(texts) if text.strip()]
    if not kept:
        raise DataError(f"The column {data.text_column!r} of {data.dataset!r} (split={split!r}) is empty.")
    return rows.select(kept)


def _blocks(
    which: str, texts: Texts, tokenizer: PreTrainedTokenizerBase, packing: Packing, max_tokens: int | None
) -> tuple[Dataset, str]:
    """Blocks as rows {"input_ids": (T)}, int64 tensors, and the digest of the texts."""
    dtype = np.dtype(np.uint16 if max(tokenizer.get_vocab().values(), default=0) < 2**16 else np.int32)
    try:
        digest = texts.digest()
        rows = cached_rows(
            lambda: ({"input_ids": block_T} for block_T in pack(texts, tokenizer, packing)),
            Features({"input_ids": List(Value(dtype.name), length=packing.block)}),
            Hasher.hash([FORMAT, digest, tokenizer, asdict(packing)]),
        )
    except DataError as error:
        raise DataError(f"The {which} data cannot be used: {error}") from None
    count = len(rows) if max_tokens is None else min(len(rows), max_tokens // packing.block)
    return rows.select(range(count)).with_format("torch"), digest


def _mask(rows: list[dict[str, Tensor]], collator: DataCollatorForLanguageModeling) -> dict[str, Tensor]:
    """Rows with masked tokens and labels; at least one in each, or a batch of short rows would have the loss 0 / 0."""
    batch = collator(rows)
    tokens_NT, labels_NT = batch["input_ids"], batch["labels"]
    for row in (labels_NT < 0).all(dim=1).nonzero().flatten().tolist():
        place = int(tokens_NT[row].sum()) % tokens_NT.shape[1]
        labels_NT[row, place] = tokens_NT[row, place]
        tokens_NT[row, place] = collator.tokenizer.mask_token_id
    return batch


def _mask_once(blocks: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Mask blocks for good, so that two evaluations differ by the model only."""
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED_PART, seed=MASKING_SEED)

    def masked(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        rows = _mask([{"input_ids": tokens_T} for tokens_T in batch["input_ids"]], collator)
        return {name: rows[name] for name in ("input_ids", "labels")}

    with sentences("The evaluation data"):
        return blocks.map(masked, batched=True, batch_size=MASKING_BATCH, keep_in_memory=True, new_fingerprint="masked")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
