"""Read models and tokenizers from a Hub id, a folder or a GGUF file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, TypedDict
from warnings import warn

from kansformer.config import QUANT_METHOD
from kansformer.errors import CheckpointError, KansformerError
from kansformer.wording import counted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

GGUF = ".gguf"

FILES = {
    "tokenizer": ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.spm"),
    "processor": ("*processor_config.json",),
}
"""Names of files that a folder has only if it has a tokenizer, or a processor."""


class Source(TypedDict, total=False):
    """The arguments by which `from_pretrained` of any class finds a source."""

    pretrained_model_name_or_path: str
    gguf_file: str


def is_gguf(source: str) -> bool:
    """Whether this is the name of a GGUF file."""
    return source.lower().endswith(GGUF)


def source_arguments(source: str) -> Source:
    """The first arguments of `from_pretrained`, for a tokenizer or config; `read_model` reads models."""
    if not is_gguf(source):
        return {"pretrained_model_name_or_path": source}
    return {"pretrained_model_name_or_path": str(Path(source).parent), "gguf_file": Path(source).name}


def read_model(source: str, auto_class: type | None = None, *, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
    """Read a model, as `read_model_and_keys` does; warn of parameters that its checkpoint does not have."""
    model, missing = read_model_and_keys(source, auto_class, dtype=dtype)
    if missing:
        warn(
            f"{source!r} has no values for {counted(len(missing), 'parameter')} of a {type(model).__name__}, such as "
            f"{min(missing)}: they are random.",
            stacklevel=2,
        )
    return model


def read_model_and_keys(
    source: str,
    auto_class: type | None = None,
    *,
    dtype: torch.dtype | str = "auto",
    labels: Mapping[str, object] | None = None,
) -> tuple[PreTrainedModel, set[str]]:
    """Read a model, and say which parameters its checkpoint does not have, such as a new classifier's.

    Args:
        source: a Hub id, a folder or a GGUF file, which is dequantised.
        auto_class: of transformers, such as `AutoModelForCausalLM`; None for the class that the model was saved from,
            so that its head is kept.
        dtype: of the weights; "auto" keeps the saved one.
        labels: fields of the config about a classifier's labels; a head with another number of them is drawn anew.

    Raises:
        CheckpointError: nothing is there, or transformers cannot load it.
    """
    import transformers

    check_exists(source)
    settings: dict[str, object] = {**labels, "ignore_mismatched_sizes": True} if labels else {}
    try:
        if is_gguf(source):
            auto_class = auto_class or transformers.AutoModelForCausalLM
            settings["quantization_config"] = transformers.GgufConfig(dequantize=True)
        auto_class = auto_class or _saved_class(source)
        where = source_arguments(source)
        model, info = auto_class.from_pretrained(**where, dtype=dtype, output_loading_info=True, **settings)  # type: ignore[attr-defined]
    except KansformerError:
        raise
    except Exception as error:  # a damaged config fails in any way
        raise CheckpointError(f"{source!r} cannot be loaded: {unknown_activation(error) or error}") from error
    return model, set(info["missing_keys"]) | {entry[0] for entry in info["mismatched_keys"]}


def has_curves(source: str) -> bool:
    """Whether the config of a Hub id or folder says that its model is converted; nothing is loaded."""
    from transformers import PreTrainedConfig

    config: dict[str, object] = {}
    with suppress(Exception):  # a config that is missing or damaged fails in any way, as it does when it is loaded
        config, _ = PreTrainedConfig.get_config_dict(source)
    quantization = config.get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("quant_method") == QUANT_METHOD


def read_preprocessor(source: str) -> PreTrainedTokenizerBase | ProcessorMixin | None:
    """Read the tokenizer, or the processor of a model that reads more than text; None where there is none.

    A processor that cannot be read is left out with a warning where its tokenizer can.

    Raises:
        CheckpointError: a folder has files of a tokenizer or a processor that cannot be read.
    """
    from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase

    failures: dict[str, object] = {}
    for kind in (AutoTokenizer,) if is_gguf(source) else (AutoProcessor, AutoTokenizer):
        name = "processor" if kind is AutoProcessor else "tokenizer"
        try:
            result = kind.from_pretrained(**source_arguments(source))
        except Exception as error:  # damaged files fail in any way
            if is_gguf(source):
                raise
            failures[name] = str(error).rstrip(". \n") or type(error).__name__
            continue
        # Where a folder has no tokenizer files, transformers may make a tokenizer that knows its special tokens only.
        if not isinstance(result, PreTrainedTokenizerBase) or len(result) > len(result.all_special_ids):
            if "processor" in failures and _files(source, "processor"):
                reason = failures["processor"]
                warn(f"The processor of {source!r} cannot be read, its tokenizer can: {reason}.", stacklevel=2)
            return result
        failures[name] = "it knows its special tokens only"
    for name in ("tokenizer", "processor"):
        if files := _files(source, name):
            raise CheckpointError(
                f"The {name} of {source!r} cannot be read: {failures.get(name)}. Repair it, or take its files out of "
                f"the folder to go on without it: {', '.join(files)}."
            )
    return None


def _files(source: str, kind: str) -> list[str]:
    """Names of the files of a tokenizer or a processor in a folder; none of a Hub id."""
    entries = Path(source).glob("*") if Path(source).is_dir() else ()
    return sorted(entry.name for entry in entries if any(entry.match(pattern) for pattern in FILES[kind]))


def read_language_model(source: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a causal language model and its tokenizer.

    Raises:
        CheckpointError: it is another kind of model, or has no tokenizer.
    """
    from transformers import ProcessorMixin

    model = read_model(source)
    if not model.can_generate() or model.config.is_encoder_decoder:
        raise CheckpointError(
            f"{source!r} is a {type(model).__name__}. Only causal language models have a loss on plain text."
        )
    preprocessor = read_preprocessor(source)
    tokenizer = preprocessor.tokenizer if isinstance(preprocessor, ProcessorMixin) else preprocessor
    if tokenizer is None:
        raise CheckpointError(f"{source!r} has no tokenizer; save one beside the model.")
    return model, tokenizer


def unknown_activation(error: Exception) -> str | None:
    """What to do where transformers raised this since it does not know an activation; None for any other error."""
    frames = [frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__)]
    if not isinstance(error, KeyError) or frames[-1:] != ["transformers.activations"]:
        return None
    name = error.args[0]
    return (
        f"transformers does not know the activation {name!r}. In Python, register it first, by "
        f"kansformer.discover.register_activation({name!r}), or import the file that its NamedActivation.python() gave."
        " Programs know those of transformers and of kansformer.discover.KNOWN_ACTIVATIONS."
    )


def _saved_class(source: str) -> type:
    import transformers

    config = transformers.AutoConfig.from_pretrained(source)
    name = (config.architectures or [""])[0]
    return getattr(transformers, name, None) or transformers.AutoModel


def check_exists(source: str) -> None:
    """Raise a `CheckpointError` if this is a path and there is nothing, or a file of another kind; imports nothing."""
    # A Hub id is "name" or "owner/name"; everything else can only be a path.
    looks_like_path = is_gguf(source) or source.startswith((".", "~", os.sep)) or source.count("/") > 1
    if looks_like_path and not Path(source).exists():
        raise CheckpointError(f"There is no file or folder {source!r}.")
    if Path(source).is_file() and not is_gguf(source):
        raise CheckpointError(f"{source!r} is a file. Give the folder of a model, a Hub id, or a {GGUF} file.")
