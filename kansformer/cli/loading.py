"""Load what a user names: a Hub id, a folder or a GGUF file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kansformer.errors import CheckpointError, KansformerError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin


def quiet_transformers() -> None:
    """Leave the words to this program: no bars and no warnings of transformers."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_model(source: str, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
    """Load a model in the class that it was saved from, so that its head is kept.

    Args:
        source: a Hub id, a folder, or a GGUF file, which is dequantised.
        dtype: of the weights; "auto" keeps the saved one.

    Raises:
        CheckpointError: nothing is there, or transformers cannot load it.
    """
    _refuse_missing(source)
    try:
        if is_gguf(source):
            from transformers import AutoModelForCausalLM, GgufConfig

            gguf = GgufConfig(dequantize=True)
            return AutoModelForCausalLM.from_pretrained(**_gguf(source), quantization_config=gguf, dtype=dtype)
        return _model_class(source).from_pretrained(source, dtype=dtype)
    except (ValueError, ImportError, KeyError) as error:
        if isinstance(error, KansformerError):
            raise
        raise CheckpointError(f"{source!r} cannot be loaded: {error}") from error


def load_preprocessor(source: str) -> PreTrainedTokenizerBase | ProcessorMixin | None:
    """Load the tokenizer, or the processor of a model that reads more than text; None where there is none."""
    from transformers import AutoProcessor, AutoTokenizer

    if is_gguf(source):
        return AutoTokenizer.from_pretrained(**_gguf(source))
    for kind in (AutoProcessor, AutoTokenizer):
        try:
            found = kind.from_pretrained(source)
        except (OSError, ValueError, ImportError, KeyError):
            continue
        # Where a folder has no tokenizer files, transformers may make a tokenizer that knows its special tokens only.
        if not hasattr(found, "all_special_ids") or len(found) > len(found.all_special_ids):
            return found
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
    tokenizer: Any = getattr(preprocessor, "tokenizer", preprocessor)
    if tokenizer is None:
        raise CheckpointError(f"{source!r} has no tokenizer; save one beside the model.")
    return model, tokenizer


def is_gguf(source: str) -> bool:
    """Whether the name is that of a GGUF file."""
    return source.lower().endswith(".gguf")


def _gguf(source: str) -> dict[str, str]:
    path = Path(source)
    return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}


def _model_class(source: str) -> Any:
    import transformers

    config = transformers.AutoConfig.from_pretrained(source)
    name = (config.architectures or [None])[0]
    return getattr(transformers, name or "", None) or transformers.AutoModel


def _refuse_missing(source: str) -> None:
    # A Hub id is "name" or "owner/name"; everything else can only be a path.
    looks_like_path = is_gguf(source) or source.startswith((".", "~", os.sep)) or source.count("/") > 1
    if looks_like_path and not Path(source).exists():
        raise CheckpointError(f"There is no file or folder {source!r}.")
    if Path(source).is_file() and not is_gguf(source):
        raise CheckpointError(f"{source!r} is a file. Give the folder of a model, a Hub id, or a .gguf file.")
