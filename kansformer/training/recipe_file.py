"""Read a recipe from a YAML file, or by the name of one that comes with kansformer, and change fields of it."""

import difflib
import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from kansformer.errors import ConfigError
from kansformer.files import write_text_whole
from kansformer.training.recipe import Recipe


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, which YAML 1.1 takes for text since it has no dot."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)

PACKAGE = "kansformer.recipes"
"""The files of `scripts/recipes`, which are installed under this name."""


def recipe_names() -> list[str]:
    """Names of the recipes that come with kansformer."""
    return sorted(p.name.removesuffix(".yaml") for p in resources.files(PACKAGE).iterdir() if p.name.endswith(".yaml"))


def read_recipe(source: str | Path, changes: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: a YAML file, or the name of a recipe that comes with kansformer.
        changes: `field=value` with the value in YAML and dots for sections, such as `training.max_steps=100` or
            `kan.slots=[act]`; `kan=null` takes a section out. Later ones win.

    Raises:
        ConfigError: there is no such recipe, it is no YAML, or a field is unknown or impossible; the sentence names it.
    """
    text, place = _text_of(source)
    try:
        values = _load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{place} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{place} must hold a table of named fields.")
    for change in changes:
        _apply(values, change)
    try:
        return Recipe.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def recipe_title(name: str) -> str:
    """The first line of a recipe that comes with kansformer, which says what it does."""
    text, _ = _text_of(name)
    return text.splitlines()[0].lstrip("# ")


def dump_recipe(recipe: Recipe) -> str:
    """A recipe as YAML, for `read_recipe`."""
    return yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True)


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe as YAML."""
    write_text_whole(path, dump_recipe(recipe))


def first_difference(one: Recipe, other: Recipe) -> str | None:
    """The first field in which two recipes differ, with both values; None if they are equal."""
    return _difference(one.to_dict(), other.to_dict(), "")


def _load(text: str) -> Any:
    return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader


def _text_of(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The recipe {str(path)!r} cannot be read: {error}.") from None
    names = recipe_names()
    if str(source) not in names:
        close = difflib.get_close_matches(str(source), names, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(
            f"There is no recipe {str(source)!r}.{hint} Choose a .yaml file or one of: {', '.join(names)}."
        )
    return resources.files(PACKAGE).joinpath(f"{source}.yaml").read_text(encoding="utf-8"), f"{source}.yaml"


def _apply(values: dict[str, Any], change: str) -> None:
    path, equals, text = change.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"{change!r} is no change of a field. Write field=value, such as training.max_steps=100.")
    try:
        value = _load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{change!r} has a value that is no YAML.") from None
    *sections, name = path.strip().split(".")
    table = values
    for section in sections:
        if not isinstance(table.get(section), dict):
            table[section] = {}
        table = table[section]
    table[name] = value


def _difference(one: Any, other: Any, place: str) -> str | None:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys([*one, *other]):
            found = _difference(one.get(name), other.get(name), f"{place}.{name}" if place else name)
            if found is not None:
                return found
        return None
    return None if one == other else f"{place} is {one!r} in one and {other!r} in the other"
