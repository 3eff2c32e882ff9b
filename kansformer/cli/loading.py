"""What several commands read: a model by Hub id, folder or GGUF file, its tokenizer, and a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kansformer.errors import ConfigError
from kansformer.progress import progress_lines
from kansformer.wording import counted

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

HELD_OUT = "the standard library's held-out files"

ModelArgument = Annotated[str, typer.Argument(help="A Hub id, the folder of a language model, or a GGUF file.")]
TextOption = Annotated[Path | None, typer.Option(help="A text file to read.", show_default=HELD_OUT)]
BlockOption = Annotated[int, typer.Option(help="Tokens in a block; each block is read on its own.")]
DeviceOption = Annotated[
    str | None,
    typer.Option(help="Where the model computes, such as cpu or cuda:1.", show_default="the GPU, if CUDA finds one"),
]


def quiet_transformers() -> None:
    """Switch progress bars and warnings of transformers off: this program prints its own."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def register_known_activations() -> None:
    """Let transformers make and load models with the activations of `KNOWN_ACTIVATIONS`."""
    from kansformer.discover import KNOWN_ACTIVATIONS, register_activation

    for activation in KNOWN_ACTIVATIONS.values():
        register_activation(activation)


def prepare_transformers() -> None:
    """Before this program loads a model with transformers."""
    quiet_transformers()
    register_known_activations()


def split_names(text: str) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def load_model(source: str, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
    """`read_model`, while transformers prints nothing."""
    from kansformer.conversion.sources import check_exists, read_model

    check_exists(source)  # before transformers is imported, which takes seconds
    prepare_transformers()
    with progress_lines(f"loading {source}"):
        return read_model(source, dtype=dtype)


def usable_device(name: str | None = None) -> torch.device:
    """The device of this name; without one CUDA's, or the CPU where there is none.

    Raises:
        ConfigError: torch does not know it, or nothing can be computed on it.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.ones(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # as torch does without CUDA
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(f"--device {name} cannot be used here: {reason}. Choose cpu, or leave it out.") from error


def load_text(path: Path | None, max_tokens: int | None, column: str = "text") -> tuple[str | list[str], str]:
    """A text file, or a column of a CSV or JSON lines file, and what to call it; without a path the held-out files of
    the standard library.

    Raises:
        DataError: the file is missing, empty or not UTF-8, or has no such column.
    """
    from kansformer.training.corpus import standard_library_documents
    from kansformer.training.data.load import table_texts
    from kansformer.training.data.texts import file_text

    if path is None:
        return standard_library_documents("held_out"), HELD_OUT
    rows = table_texts(path, column)
    return file_text(path, max_tokens=max_tokens) if rows is None else rows, path.name


def load_model_and_blocks(
    source: str, text: str | Sequence[str], block: int, max_tokens: int | None, device: str | None
) -> tuple[PreTrainedModel, Tensor]:
    """A language model, and token numbers of a text in blocks, (blocks, tokens), at most `max_tokens` of them, both on
    a `usable_device`.

    Raises:
        ConfigError: a block is longer than the model's positions, or than `max_tokens`; or the device is unusable.
        DataError: the text is shorter than one block.
    """
    from kansformer.conversion.sources import check_exists, read_language_model
    from kansformer.training.data.packing import tokenize_blocks

    check_exists(source)  # before transformers is imported, which takes seconds
    if max_tokens is not None and max_tokens < block:
        raise ConfigError(f"--max-tokens {max_tokens} is less than one block of {counted(block, 'token')}.")
    place = usable_device(device)
    prepare_transformers()
    with progress_lines(f"loading {source}"):
        model, tokenizer = read_language_model(source)
        model.to(place)  # type: ignore[arg-type]  # transformers hides the signature
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and block > positions:
        raise ConfigError(f"--block {block} is longer than the {counted(positions, 'position')} of this model.")
    with progress_lines("tokenizing"):
        blocks_NT = tokenize_blocks(text, tokenizer, block)
    return model, blocks_NT[: None if max_tokens is None else max_tokens // block].to(place)
