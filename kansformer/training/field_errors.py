"""One sentence for a recipe's field with a wrong value, made of pydantic's errors."""

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import get_args, get_type_hints

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kansformer.errors import ConfigError

TYPES = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a table of named fields",
    "dataclass": "a table of named fields",
    "invalid": "a table of named fields",
}
"""Descriptions of types, by the first word of pydantic's names of errors."""

UNION_TAGS = ("str", "int", "float", "bool")
LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@contextmanager
def config_errors(root: type, prefix: str = "") -> Iterator[None]:
    """Turn pydantic's errors into a `ConfigError`: one sentence with the field's path, the value and the choices.

    Args:
        root: the dataclass whose fields are checked.
        prefix: path of the value in the recipe, such as "training.max_steps"; empty for the whole recipe.
    """
    try:
        yield
    except ValidationError as error:
        # A misspelt field is the cause of a missing one.
        details = min(error.errors(), key=lambda one: one["type"] != "unexpected_keyword_argument")
        raise ConfigError(_sentence(details, root, prefix)) from None


def _sentence(details: ErrorDetails, root: type, prefix: str) -> str:
    kind, place, context, value = details["type"], details["loc"], details.get("ctx", {}), details["input"]
    if kind == "unexpected_keyword_argument":
        return f"Unknown field {_dotted(place)!r}. Choose from: {', '.join(_field_names(root, place[:-1]))}."
    # What follows the names of fields are indices, and the types of a union.
    names = takewhile(lambda part: isinstance(part, str) and part.isidentifier() and part not in UNION_TAGS, place)
    path = _dotted([*filter(None, [prefix]), *names])
    if kind == "missing":
        return f"The field {path!r} is missing."
    if kind == "value_error":  # raised by the section itself, perhaps without its name
        message = str(context["error"])
        names_field = message.split()[0].partition("=")[0] in _field_names(root, place)
        return message if message.startswith(path) else f"{path}{'.' if names_field else ': '}{message}"
    if "expected" in context:
        choices = context["expected"].replace("' or '", "', '").replace("'", "")
        return f"{path} is {value!r:.80}. Choose one of: {choices}."
    limit = next((f"{word} {context[name]:g}" for name, word in LIMITS.items() if name in context), None)
    expected = limit or TYPES.get(kind.partition("_")[0])
    return f"{path} must be {expected}, got {value!r:.80}." if expected else f"{path}: {details['msg']}."


def _dotted(parts: Iterable[object]) -> str:
    return ".".join(map(str, parts))


def _field_names(root: type, path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        hint = get_type_hints(root)[str(part)]
        root = next(
            kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and dataclasses.is_dataclass(kind)
        )
    return [field.name for field in dataclasses.fields(root)]
