"""Data of causal and masked language models.

Shape letters: N blocks, T tokens of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import Dataset

from kansformer.errors import DataError
from kansformer.training.data.blocks import BlockDataset
from kansformer.training.data.cache import cache_key, cached_blocks, content_digest
from kansformer.training.data.documents import load_documents, source_of
from kansformer.training.data.masking import MaskingCollator, masked_once
from kansformer.training.data.packing import Packing, choose_packing, pack
from kansformer.training.data.prepared import PreparedData
from kansformer.training.data.spec import DataRecipe
from kansformer.training.data.stream import PackedStream, open_stream
from kansformer.training.data.tokenizer import choose_tokenizer, describe_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare_language(task: str, data: DataRecipe, model_source: str | None, seed: int) -> PreparedData:
    """Tokenise texts and pack them into blocks; `prepare_data` explains the arguments."""
    from transformers import default_data_collator

    facts: dict[str, Any] = {"source": source_of(data), "block": data.block}
    causal = task == "causal-lm"
    train: Dataset
    if data.streaming:
        tokenizer = choose_tokenizer(task, data, model_source, [], [])
        rows, held_out, left_out = open_stream(data, tokenizer, seed)
        packing = choose_packing(task, tokenizer, data.block)
        train = PackedStream(rows, tokenizer, packing, data, left_out=left_out, labelled=causal)
        facts |= {"streaming": True, "train_tokens": data.max_train_tokens, "train_sha256": None}
    else:
        texts, held_out = load_documents(data)
        tokenizer = choose_tokenizer(task, data, model_source, texts, held_out)
        packing = choose_packing(task, tokenizer, data.block)
        blocks_NT, digest = _blocks("training", texts, tokenizer, packing, data.max_train_tokens)
        train = BlockDataset(blocks_NT, labelled=causal)
        facts |= {"train_tokens": blocks_NT.numel(), "train_sha256": digest}
    held_out_NT, digest = _blocks("evaluation", held_out, tokenizer, packing, data.max_eval_tokens)
    facts |= {"eval_tokens": held_out_NT.numel(), "eval_sha256": digest}
    facts["tokenizer"] = describe_tokenizer(data, tokenizer)
    return PreparedData(
        train=train,
        evaluation=BlockDataset(held_out_NT) if causal else masked_once(held_out_NT, tokenizer),
        collator=default_data_collator if causal else MaskingCollator(tokenizer),
        processor=tokenizer,
        vocabulary=len(tokenizer),
        facts=facts,
    )


def _blocks(
    which: str, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, packing: Packing, max_tokens: int | None
) -> tuple[Tensor, str]:
    digest = content_digest(texts)
    try:
        blocks_NT = cached_blocks(cache_key(digest, tokenizer, packing), lambda: pack(texts, tokenizer, packing))
    except DataError as error:
        raise DataError(f"The {which} data cannot be used: {error}") from None
    return (blocks_NT if max_tokens is None else blocks_NT[: max_tokens // packing.block]), digest
