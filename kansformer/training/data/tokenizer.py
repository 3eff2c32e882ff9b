"""The tokenizer that a recipe names: loaded, or made from the training text."""

from collections.abc import Iterable
from itertools import chain

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kansformer.conversion.sources import source_arguments
from kansformer.errors import ConfigError
from kansformer.training.corpus import SEPARATOR
from kansformer.training.data.spec import LANGUAGE_TASKS, NEW_TOKENIZERS, TOKENIZERS, DataRecipe
from kansformer.training.data.texts import Texts

BOUNDARY = "<|endoftext|>"
MASK = "<|mask|>"
UNKNOWN = "<|unknown|>"
# An indentation belongs to its line break, so a prompt that ends in one is cut as the same text was in training.
# A letter takes one preceding sign with it (" self", ".append", "(name"), as in the patterns of recent GPT models.
PIECES = r"\s*\n[ \t]*|[^\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
FORM = {"clean_up_tokenization_spaces": False, "padding_side": "left"}
# What a tokenizer made here needs beside its text. A language model of characters has nothing but characters.
SPECIAL_CHARACTERS = {
    "causal-lm": (),
    "masked-lm": ("pad_token", "mask_token"),
    "sequence-classification": ("pad_token", "unk_token"),
}


def choose_tokenizer(
    task: str, data: DataRecipe, model_source: str | None, train: Texts, evaluation: Texts
) -> PreTrainedTokenizerBase:
    """Load the recipe's tokenizer, or make it from the text; `prepare_data` explains the arguments.

    BPE is trained on the training texts alone; a tokenizer of characters knows those of the evaluation too.
    """
    if data.tokenizer == "characters":
        special = SPECIAL_CHARACTERS[task]
        # A classification meets new texts later, for which it has the unknown token.
        known = [train] if "unk_token" in special else [train, evaluation]
        between = [SEPARATOR] if task in LANGUAGE_TASKS else []
        documents = chain(between, (piece.text for texts in known for piece in texts))
        made = character_tokenizer(documents, special=special)
    elif isinstance(data.tokenizer, int):
        made = train_tokenizer((piece.text for piece in train), data.tokenizer, mask=task == "masked-lm")
    elif data.tokenizer == "model" and model_source is None:
        raise ConfigError(
            f'tokenizer="model" needs a pretrained model. Training from scratch, choose {NEW_TOKENIZERS}.'
        )
    else:
        source = str(model_source) if data.tokenizer == "model" else data.tokenizer
        return _load(source, task, NEW_TOKENIZERS if data.tokenizer == "model" else TOKENIZERS, repr(data.tokenizer))
    made.padding_side = "left" if task == "causal-lm" else "right"  # the left is for generating
    return made


def describe_tokenizer(data: DataRecipe, tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer in a few words, for the model card."""
    kinds = {"characters": "one token per character", "model": "the pretrained model's own"}
    kind = "byte-level BPE trained on the data" if isinstance(data.tokenizer, int) else str(data.tokenizer)
    return f"{kinds.get(kind, kind)}, {len(tokenizer):,} tokens"


def train_tokenizer(documents: Iterable[str], vocabulary: int, *, mask: bool = False) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE.

    Args:
        documents: the texts to train on.
        vocabulary: number of tokens, special ones included; 257 or more. Fewer where the text has no more pairs.
        mask: whether it has a mask token.

    Returns:
        A tokenizer whose token 0 starts and ends documents and pads.
    """
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
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **FORM, **special)


def character_tokenizer(documents: Iterable[str], *, special: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token for each character that occurs, sorted by code point.

    Args:
        documents: the texts whose characters it knows.
        special: any of "pad_token", "mask_token" and "unk_token", which come first. Without the last, an unknown
            character is an error when it is encoded.

    Returns:
        A tokenizer that adds nothing to a text.
    """
    names = {"pad_token": BOUNDARY, "mask_token": MASK, "unk_token": UNKNOWN}
    tokens = {kind: names[kind] for kind in special}
    characters = sorted({character for text in documents for character in set(text)})
    vocabulary = {token: number for number, token in enumerate([*tokens.values(), *characters])}
    model = models.WordLevel(vocabulary, unk_token=UNKNOWN) if "unk_token" in tokens else models.WordLevel(vocabulary)
    single = Tokenizer(model)
    # Not ".", which leaves line breaks together.
    single.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")  # type: ignore[assignment]
    single.decoder = decoders.Fuse()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=single, **FORM, **tokens)


def _load(source: str, task: str, choices: str, field: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source_arguments(source))
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())  # transformers lists its attempts on several lines
        raise ConfigError(
            f"tokenizer={field}: none can be loaded from {source!r} ({reason}). Choose {choices}."
        ) from error
    # Where a folder has no tokenizer files, transformers may make a tokenizer that knows its special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ConfigError(f"tokenizer={field}: {source!r} has no tokenizer. Choose {choices}.")
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
    return tokenizer
