"""Files that may come from strangers: read as data only, and refused before they take much memory or time."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kansformer.errors import CheckpointError, KansformerError

if TYPE_CHECKING:
    from torch import Tensor

MAX_DEPTH = 64
"""Levels of nesting. What the package writes has under ten, and Python's own limit lies near a thousand."""

MAX_NAME_LENGTH = 500
"""Characters of a tensor's name, which sentences repeat."""

MAX_INTEGER = 2**64
"""Checksums have 64 bits. Beyond 4300 digits Python refuses to print a number, and with it the sentence about it."""


def read_json(file: Path) -> Any:
    """A JSON file.

    Raises:
        CheckpointError: it is none, or holds what `check_json_value` refuses.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8 is a ValueError too
        raise CheckpointError(f"{str(file)!r} is no JSON, so it cannot be read: {error}.") from None
    check_json_value(values, repr(str(file)))
    return values


def check_json_value(values: Any, place: str, error: type[KansformerError] = CheckpointError) -> None:
    """See that tables and lists can be walked and shown in a sentence, whoever made them.

    Args:
        values: what a JSON or YAML file holds, without cycles.
        place: the file, for the message.
        error: what is raised.

    Raises:
        KansformerError: they are nested too deeply, or hold an enormous whole number, a text that is not Unicode, or
            what JSON does not have, such as a date.
    """
    waiting = [(values, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise error(f"{place} is nested more than {MAX_DEPTH} levels deep, which nothing that is read here is.")
        if isinstance(value, int) and not -MAX_INTEGER < value < MAX_INTEGER:
            raise error(f"{place} has a whole number of {value.bit_length()} bits; 64 is the most.")
        if isinstance(value, str) and not is_unicode(value):
            raise error(f"{place} has a text with half a character (a lone surrogate): {value!r:.80}.")
        if isinstance(value, dict):
            waiting += [(entry, depth + 1) for pair in value.items() for entry in pair]
        elif isinstance(value, list):
            waiting += [(entry, depth + 1) for entry in value]
        elif value is not None and not isinstance(value, (str, int, float)):  # of YAML, which has dates, sets and more
            raise error(f"{place} has a {type(value).__name__}, {value!r:.80}. If it is meant as a text, quote it.")


def read_tensors(file: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: it is none, or has numbers of a kind that no model here is made of.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    # Beside safetensors' own: torch has no such dtype, or no such size.
    except (SafetensorError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{str(file)!r} cannot be read: {error!s:.400}.") from error
    known = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
             torch.int8, torch.uint8, torch.bool)  # fmt: skip
    for name, tensor in tensors.items():
        if len(name) > MAX_NAME_LENGTH:
            raise CheckpointError(f"{str(file)!r} has a tensor whose name has {len(name):,} characters: {name:.80}…")
        if tensor.dtype not in known:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{str(file)!r} has {name!r:.120} in {kind}, which no curve or weight here can be.")
    return tensors


def count_numbers(files: Iterable[str | Path]) -> tuple[int, int]:
    """How many tensors, and how many numbers in them, safetensors files say they hold, by their headers alone.

    Raises:
        CheckpointError: one is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    shapes: list[list[int]] = []
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                shapes += [tensors.get_slice(key).get_shape() for key in tensors.keys()]  # noqa: SIM118 - no dict
        except SafetensorError as error:
            raise CheckpointError(f"{str(file)!r} cannot be read: {error!s:.400}.") from error
    return len(shapes), sum(map(math.prod, shapes))


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: no half of a pair of surrogates is in it."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
