"""Which tokenizer a recipe means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kansformer.errors import ConfigError
from kansformer.training.data.spec import NEW_TOKENIZERS, TOKENIZERS, DataRecipe
from kansformer.training.data.train_tokenizer import character_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a tokenizer made here needs beside its text. A language model of characters has nothing but characters.
SPECIAL_CHARACTERS = {
    "causal-lm": (),
    "masked-lm": ("pad_token", "mask_token"),
    "sequence-classification": ("pad_token", "unk_token"),
}


def choose_tokenizer(
    task: str, data: DataRecipe, model_source: str | None, train: Sequence[str], evaluation: Sequence[str]
) -> PreTrainedTokenizerBase:
    """Load the recipe's tokenizer, or make it from the text.

    Args:
        task: decides which special tokens one that is made here has.
        data: the recipe.
        model_source: folder, Hub id or GGUF file of the pretrained model; None when training from scratch.
        train: the training texts. BPE is trained on these alone.
        evaluation: the evaluation texts, whose characters a tokenizer of characters knows too.

    Raises:
        ConfigError: there is no such tokenizer, or it lacks a token that the task needs.
    """
    tokenizer = _make_or_load(task, data, model_source, train, evaluation)
    if task != "causal-lm" and (data.tokenizer == "characters" or isinstance(data.tokenizer, int)):
        tokenizer.padding_side = "right"  # the left is for generating
    return tokenizer


def describe_tokenizer(data: DataRecipe, tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer in a few words, for the model card."""
    kinds = {"characters": "one token per character", "model": "the pretrained model's own"}
    kind = "byte-level BPE trained on the data" if isinstance(data.tokenizer, int) else str(data.tokenizer)
    return f"{kinds.get(kind, kind)}, {len(tokenizer):,} tokens"


def _make_or_load(
    task: str, data: DataRecipe, model_source: str | None, train: Sequence[str], evaluation: Sequence[str]
) -> PreTrainedTokenizerBase:
    if data.tokenizer == "characters":
        special = SPECIAL_CHARACTERS[task]
        # A classification meets new texts later, for which it has the unknown token.
        known = [*train, *evaluation] if "unk_token" not in special else train
        return character_tokenizer(known, special=special)
    if isinstance(data.tokenizer, int):
        return train_tokenizer(train, data.tokenizer, mask=task == "masked-lm")
    if data.tokenizer != "model":
        source = data.tokenizer
    elif model_source is None:
        raise ConfigError(
            f'tokenizer="model" needs a pretrained model. Training from scratch, choose {NEW_TOKENIZERS}.'
        )
    else:
        source = model_source
    tokenizer = _load(source, data.tokenizer)
    _check_special(tokenizer, task, source)
    return tokenizer


def _load(source: str, field: str | int) -> Any:
    from transformers import AutoTokenizer

    path, others = Path(source), NEW_TOKENIZERS if field == "model" else TOKENIZERS
    where: dict[str, str] = {"pretrained_model_name_or_path": source}
    if source.lower().endswith(".gguf"):
        where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())  # transformers lists its attempts on several lines
        raise ConfigError(
            f"tokenizer={field!r}: none can be loaded from {source!r} ({reason}). Choose {others}."
        ) from error
    # Where a folder has no tokenizer files, transformers may make a tokenizer that knows its special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ConfigError(f"tokenizer={field!r}: {source!r} has no tokenizer. Choose {others}.")
    return tokenizer


def _check_special(tokenizer: Any, task: str, source: str) -> None:
    if task == "masked-lm" and tokenizer.mask_token_id is None:
        raise ConfigError(
            f"The tokenizer of {source!r} has no mask token, which task='masked-lm' needs. "
            "Choose another tokenizer, or task='causal-lm'."
        )
    if task != "causal-lm" and tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ConfigError(f"The tokenizer of {source!r} has neither a pad token nor an end token, to fill batches.")
        # As GPT-2: the attention mask hides the padding, so any token will do.
        tokenizer.pad_token = tokenizer.eos_token
