"""Masks for masked language models: new ones for each batch in training, always the same in evaluation.

Shape letters: N blocks, T tokens of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kansformer.training.data.blocks import BlockDataset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED_PART = 0.15  # BERT's
BATCH = 256
SEED = 0


@dataclass(frozen=True)
class MaskingCollator:
    """Stacks rows, and masks those that have no labels yet.

    Args:
        tokenizer: with a mask token.
    """

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        from transformers import DataCollatorForLanguageModeling, default_data_collator

        if "labels" in rows[0]:
            return default_data_collator(rows)
        return DataCollatorForLanguageModeling(self.tokenizer, mlm_probability=MASKED_PART)(rows)


def masked_once(blocks_NT: Tensor, tokenizer: PreTrainedTokenizerBase) -> BlockDataset:
    """Mask blocks for good, so that two evaluations differ by the model only."""
    from transformers import DataCollatorForLanguageModeling

    mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED_PART, seed=SEED)
    batches = [mask([{"input_ids": tokens_T.long()} for tokens_T in part]) for part in blocks_NT.split(BATCH)]
    inputs, labels = (torch.cat([batch[name] for batch in batches]).int() for name in ("input_ids", "labels"))
    return BlockDataset(inputs, labels)
