"""Untrusted files: read as data only, and refused before they take much memory or time."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kansformer.errors import CheckpointError, KansformerError

if TYPE_CHECKING:
    from torch import Tensor

MAX_DEPTH = 64
"""Levels of nesting. What the package writes has under ten, and Python's own limit lies near a thousand."""

MAX_NAME_LENGTH = 500
"""Characters of a tensor's name, which sentences repeat."""

MAX_LINE_LENGTH = 1000
"""Characters of a text in the header or in a table of a model card."""

MAX_INTEGER = 2**64
"""Checksums have 64 bits. Beyond 4300 digits Python refuses to print a number, and with it the sentence about it."""


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        CheckpointError: it is not JSON, or `check_json_value` refuses it.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8 is a ValueError too
        raise CheckpointError(f"{str(file)!r} is not JSON, so it cannot be read: {error}.") from None
    check_json_value(values, repr(str(file)))
    return values


def read_versioned_json(file: Path, version: int) -> dict[str, Any]:
    """The table in a JSON file with this `format_version`.

    Raises:
        CheckpointError: as `read_json`; it is not a table, or of another version.
    """
    values = read_json(file)
    if not isinstance(values, dict):
        raise CheckpointError(f"{file.name} must hold an object, got {type(values).__name__}.")
    check_version(values, version, file.name)
    return values


def check_version(values: Mapping[str, Any], version: int, place: str) -> None:
    """Check the `format_version` of a file's table; `place` is the file, for the message.

    Raises:
        CheckpointError: it is another version.
    """
    if values.get("format_version") != version:
        raise CheckpointError(
            f"{place} has format version {values.get('format_version')!r:.40}; this package reads {version}. If it is "
            "newer: pip install --upgrade kansformer."
        )


def check_json_value(values: Any, place: str, error: type[KansformerError] = CheckpointError) -> None:
    """Check that tables and lists can be walked and shown in a message, whoever made them.

    Args:
        values: what a JSON or YAML file holds, without cycles.
        place: the file, for the message.
        error: what is raised.

    Raises:
        KansformerError: they are nested too deeply, or hold an enormous whole number, a text that is not Unicode, or
            a value that JSON does not have, such as a date.
    """
    waiting = [(values, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise error(f"{place} is nested more than {MAX_DEPTH} levels deep.")
        if isinstance(value, int) and not -MAX_INTEGER < value < MAX_INTEGER:
            raise error(f"{place} has a whole number of {value.bit_length()} bits; 64 is the maximum.")
        if isinstance(value, str) and not is_unicode(value):
            raise error(f"{place} has a text with half a character (a lone surrogate): {value!r:.80}.")
        if isinstance(value, dict):
            waiting += [(entry, depth + 1) for pair in value.items() for entry in pair]
        elif isinstance(value, list):
            waiting += [(entry, depth + 1) for entry in value]
        elif value is not None and not isinstance(value, (str, int, float)):  # of YAML, which has dates, sets and more
            raise error(f"{place} has a {type(value).__name__}, {value!r:.80}. If it is meant as a text, quote it.")


@dataclass(frozen=True)
class FieldKind:
    """The kind of value that an entry of a table must have: its description, for messages, and its check."""

    description: str
    check: Callable[[object], bool]


Fields = Mapping[str, "FieldKind | Mapping"]
"""Kind by name of an entry, or the fields of a table inside."""


def check_fields(values: object, fields: Fields, place: str, *, only: bool = False) -> dict[str, Any]:
    """A table without its null entries, once the named entries are of their kind.

    Args:
        values: the content of a file.
        fields: kinds of the entries that are read.
        place: the file, for messages.
        only: whether other entries are errors.

    Raises:
        CheckpointError: it is not a table, or an entry is of another kind.
    """
    if not isinstance(values, dict):
        raise CheckpointError(f"{place} must hold a table, got {values!r:.80}.")
    values = {name: value for name, value in values.items() if value is not None}
    for name, value in values.items():
        kind = fields.get(name)
        if isinstance(kind, FieldKind):
            if not kind.check(value):
                raise CheckpointError(f"{name} in {place} must be {kind.description}, got {value!r:.80}.")
        elif kind is not None:
            values[name] = check_fields(value, kind, f"{name} in {place}", only=only)
        elif only:
            raise CheckpointError(f"{place} has the unknown entry {name!r:.80}. Choose from: {', '.join(fields)}.")
    return values


def is_number(value: object) -> bool:
    """Whether this is a finite number; booleans are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_line(value: object) -> bool:
    """Whether this is a text that can stand in the header or in a table of a model card: one line, and not endless."""
    return (
        isinstance(value, str)
        and len(value) <= MAX_LINE_LENGTH
        and is_unicode(value)
        and not any(character < " " or character in "\x7f\x85\u2028\u2029" for character in value)
    )


NUMBER = FieldKind("a finite number", is_number)
LINE = FieldKind(f"one line of text, up to {MAX_LINE_LENGTH} characters", is_line)
LINES = FieldKind(
    f"a list of texts, each one line of up to {MAX_LINE_LENGTH} characters",
    lambda value: isinstance(value, (list, tuple)) and all(map(is_line, value)),
)
TABLE = FieldKind("a table", lambda value: isinstance(value, dict))
TABLES = FieldKind("a list of tables", lambda value: isinstance(value, list) and all(map(TABLE.check, value)))


def read_tensors(file: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: it cannot be read, or has a dtype that no model here has.
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


def read_metadata(file: Path, key: str) -> Any:
    """The JSON value that the metadata of a safetensors file have under a key.

    Raises:
        CheckpointError: the file cannot be read, or has no JSON there; or `check_json_value` refuses it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            text = (tensors.metadata() or {}).get(key)
        values = json.loads(text) if text is not None else None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{str(file)!r} cannot be read: {error!s:.400}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{key!r} in the metadata of {str(file)!r} is not JSON: {error!s:.200}.") from None
    if values is None:
        raise CheckpointError(f"{str(file)!r} has no metadata {key!r}, so it does not say what its tensors are.")
    check_json_value(values, repr(str(file)))
    return values


def count_numbers(files: Iterable[str | Path]) -> tuple[int, int]:
    """Numbers of tensors, and of values in them, of safetensors files, by their headers alone.

    Raises:
        CheckpointError: one is missing, or not a safetensors file.
    """
    shapes = [tensor.get_shape() for _, _, tensor in open_tensors(files)]
    return len(shapes), sum(map(math.prod, shapes))


def open_tensors(files: Iterable[str | Path]) -> Iterator[tuple[str | Path, str, Any]]:
    """File, name and safetensors' lazy slice of every tensor; only headers are read.

    Raises:
        CheckpointError: one is missing, or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - not a dict
                    yield file, key, tensors.get_slice(key)
        except FileNotFoundError as error:
            raise CheckpointError(f"{str(file)!r} is not there, though the checkpoint's index names it.") from error
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{str(file)!r} cannot be read: {error!s:.400}.") from error


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: no half of a pair of surrogates is in it."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
