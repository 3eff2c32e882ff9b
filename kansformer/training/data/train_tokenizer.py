"""Tokenizers made from the training text itself. Both give `decode(encode(text)) == text`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOUNDARY = "<|endoftext|>"
MASK = "<|mask|>"
UNKNOWN = "<|unknown|>"
# An indentation belongs to its line break, so a prompt that ends in one is cut as the same text was in training.
# A letter takes one preceding sign with it (" self", ".append", "(name"), as in the patterns of recent GPT models.
PIECES = r"\s*\n[ \t]*|[^\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def train_tokenizer(
    documents: Iterable[str], vocabulary: int, *, mask: bool = False, context: int | None = None
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE.

    Args:
        documents: the texts to train on.
        vocabulary: number of tokens, special ones included; 257 or more. Fewer where the text has no more pairs.
        mask: whether it has a mask token.
        context: tokens that the model reads at most, written into the tokenizer's config; None leaves it open.

    Returns:
        A tokenizer whose token 0 starts and ends documents and pads.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    special = {"bos_token": BOUNDARY, "eos_token": BOUNDARY, "pad_token": BOUNDARY}
    if mask:
        special["mask_token"] = MASK
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(dict.fromkeys(special.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(documents, trainer)
    return _wrapped(bpe, special, context)


def character_tokenizer(documents: Sequence[str], *, special: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token for each character that occurs, sorted by code point.

    Args:
        documents: the texts whose characters it knows.
        special: any of "pad_token", "mask_token" and "unk_token", which come first. Without the last, a character that
            is not known is an error when it is encoded.

    Returns:
        A tokenizer that adds nothing to a text.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    names = {"pad_token": BOUNDARY, "mask_token": MASK, "unk_token": UNKNOWN}
    tokens = {kind: names[kind] for kind in special}
    characters = sorted(set().union(*documents))
    vocabulary = {token: number for number, token in enumerate([*tokens.values(), *characters])}
    model = models.WordLevel(vocabulary, unk_token=UNKNOWN) if "unk_token" in tokens else models.WordLevel(vocabulary)
    single = Tokenizer(model)
    # Not ".", which leaves line breaks together.
    single.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")  # type: ignore[assignment]
    single.decoder = decoders.Fuse()  # type: ignore[assignment]
    return _wrapped(single, tokens, None)


def _wrapped(tokenizer: Any, special: dict[str, str], context: int | None) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    length: dict[str, Any] = {} if context is None else {"model_max_length": context}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, padding_side="left", **special, **length
    )
