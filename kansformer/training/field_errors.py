"""Sections of a recipe: frozen dataclasses whose fields pydantic checks, with one sentence for a wrong value."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import takewhile
from typing import Annotated, TypeVar, get_args, get_type_hints

import numpy
import pydantic
from pydantic import ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import dataclass_transform

from kansformer.errors import ConfigError

Section = TypeVar("Section")
Count = Annotated[int, Field(strict=True, ge=0)]
PositiveInteger = Annotated[int, Field(strict=True, ge=1)]
Number = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
PositiveNumber = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]

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


@dataclass_transform(kw_only_default=True, frozen_default=True)
def section(cls: type[Section]) -> type[Section]:
    """Make a frozen dataclass that raises a `ConfigError` where a field is unknown, missing or has a wrong value."""
    made = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)
    construct = made.__init__

    @wraps(construct)
    def checked(self: Section, /, **values: object) -> None:
        # As pydantic's __init__, which checks the names; a recipe may have a field "self".
        with config_errors(cls):
            construct(self, **{name: _without_numpy(value) for name, value in values.items()})

    made.__init__ = checked  # type: ignore[method-assign, assignment]
    return made  # type: ignore[return-value]


def _without_numpy(value: object) -> object:
    """A value with Python's numbers and lists in the place of numpy's, at any depth."""
    if isinstance(value, numpy.generic | numpy.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {_without_numpy(name): _without_numpy(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_numpy(inner) for inner in value]
    return tuple(_without_numpy(inner) for inner in value) if type(value) is tuple else value


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
        return f"Unknown field {'.'.join(map(str, place))!r}. Choose from: {', '.join(_field_names(root, place[:-1]))}."
    # What follows the names of fields are indices, and the types of a union.
    names = takewhile(lambda part: isinstance(part, str) and part.isidentifier() and part not in UNION_TAGS, place)
    path = ".".join(map(str, [*filter(None, [prefix]), *names]))
    if kind == "missing":
        return f"The field {path!r} is missing."
    if kind == "value_error":  # raised by the section itself, perhaps without its name
        message = str(context["error"])
        names_field = message.split()[0].partition("=")[0] in _field_names(root, place)
        return message if message.startswith(path) else f"{path}{'.' if names_field else ': '}{message}"
    if "expected" in context:
        choices = context["expected"].replace("' or '", "', '").replace("'", "")
        return f"{path} is {value!r:.80}. Choose one of: {choices}."
    if kind.endswith("too_short"):
        return f"{path} must not be empty."
    limit = next((f"{word} {context[name]:g}" for name, word in LIMITS.items() if name in context), None)
    expected = limit or TYPES.get(kind.partition("_")[0])
    return f"{path} must be {expected}, got {value!r:.80}." if expected else f"{path}: {details['msg']}."


def _field_names(root: type, path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        hint = get_type_hints(root)[str(part)]
        kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
        if not kinds:  # the part is a field itself
            return []
        root = kinds[0]
    return [field.name for field in dataclasses.fields(root)]
