"""What several commands read: a model by Hub id, folder or GGUF file, its tokenizer, and a text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kansformer.errors import CheckpointError, ConfigError, KansformerError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

HELD_OUT = "the standard library's held-out files"

ModelArgument = Annotated[str, typer.Argument(help="A Hub id, the folder of a language model, or a GGUF file.")]
TextOption = Annotated[Path | None, typer.Option(help="A text file to read.", show_default=HELD_OUT)]
BlockOption = Annotated[int, typer.Option(help="Tokens in a block; each block is read on its own.")]


def quiet_transformers() -> None:
    """Switch progress bars and warnings of transformers off: this program prints its own."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def split_names(text: str) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def load_model(source: str, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
    """Load a model in the class that it was saved from, so that its head is kept; transformers prints nothing then.

    Args:
        source: a Hub id, a folder, or a GGUF file, which is dequantised.
        dtype: of the weights; "auto" keeps the saved one.

    Raises:
        CheckpointError: nothing is there, or transformers cannot load it.
    """
    import transformers

    quiet_transformers()
    gguf = is_gguf(source)
    # A Hub id is "name" or "owner/name"; everything else can only be a path.
    if (gguf or source.startswith((".", "~", os.sep)) or source.count("/") > 1) and not Path(source).exists():
        raise CheckpointError(f"There is no file or folder {source!r}.")
    if Path(source).is_file() and not gguf:
        raise CheckpointError(f"{source!r} is a file. Give the folder of a model, a Hub id, or a .gguf file.")
    try:
        if gguf:
            quantization = transformers.GgufConfig(dequantize=True)
            model_class = transformers.AutoModelForCausalLM
            return model_class.from_pretrained(**_gguf(source), quantization_config=quantization, dtype=dtype)
        architectures = transformers.AutoConfig.from_pretrained(source).architectures or [""]
        model_class = getattr(transformers, architectures[0], transformers.AutoModel)
        return model_class.from_pretrained(source, dtype=dtype)
    except (ValueError, ImportError, KeyError) as error:
        if isinstance(error, KansformerError):
            raise
        raise CheckpointError(f"{source!r} cannot be loaded: {error}") from error


def load_preprocessor(source: str) -> PreTrainedTokenizerBase | ProcessorMixin | None:
    """Load the tokenizer, or the processor of a model that reads more than text; None where there is none."""
    from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase

    if is_gguf(source):
        return AutoTokenizer.from_pretrained(**_gguf(source))
    for kind in (AutoProcessor, AutoTokenizer):
        try:
            result = kind.from_pretrained(source)
        except (OSError, ValueError, ImportError, KeyError):
            continue
        # Where a folder has no tokenizer files, transformers may make a tokenizer that knows its special tokens only.
        if not isinstance(result, PreTrainedTokenizerBase) or len(result) > len(result.all_special_ids):
            return result
    return None


def load_language_model(source: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer.

    Raises:
        CheckpointError: it is another kind of model, or has no tokenizer.
    """
    model = load_model(source)
    if not model.can_generate() or model.config.is_encoder_decoder:
        raise CheckpointError(
            f"{source!r} is a {type(model).__name__}. Only causal language models have a loss on plain text."
        )
    preprocessor = load_preprocessor(source)
    tokenizer: PreTrainedTokenizerBase | None = getattr(preprocessor, "tokenizer", preprocessor)
    if tokenizer is None:
        raise CheckpointError(f"{source!r} has no tokenizer; save one beside the model.")
    return model, tokenizer


def load_text(path: Path | None, max_tokens: int | None) -> tuple[str | list[str], str]:
    """A text file, or without a path the held-out files of the standard library, and what to call it.

    Raises:
        DataError: the file is missing, empty or not UTF-8.
    """
    from kansformer.training.corpus import standard_library_documents
    from kansformer.training.text import file_text

    if path is None:
        return standard_library_documents("held_out"), HELD_OUT
    return file_text(path, max_tokens=max_tokens), path.name


def read_blocks(
    text: str | Sequence[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    block: int,
    max_tokens: int | None,
) -> Tensor:
    """Token numbers of a text in blocks, (blocks, tokens), at most `max_tokens` of them.

    Raises:
        ConfigError: a block is longer than the model's positions.
        DataError: the text is shorter than one block.
    """
    from kansformer.training.corpus import tokenize_blocks

    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and block > positions:
        raise ConfigError(f"--block {block} is longer than the {positions} positions of this model.")
    return tokenize_blocks(text, tokenizer, block)[: None if max_tokens is None else max_tokens // block]


def check_block(block: int, max_tokens: int | None) -> None:
    """Raise a `ConfigError` where the tokens to read do not fill one block."""
    if max_tokens is not None and max_tokens < block:
        raise ConfigError(f"--max-tokens {max_tokens} is less than one block of {block} tokens.")


def is_gguf(source: str) -> bool:
    """Whether the name is that of a GGUF file."""
    return source.lower().endswith(".gguf")


def _gguf(source: str) -> dict[str, str]:
    path = Path(source)
    return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
