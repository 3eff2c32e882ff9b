"""Read a recipe from a YAML file, or by the name of one that comes with kansformer, and change fields of it."""

import difflib
import re
from importlib import resources
from pathlib import Path

import yaml
from pydantic import JsonValue
from yaml.composer import ComposerError

from kansformer.errors import ConfigError
from kansformer.files import atomic_write_text
from kansformer.safe_io import MAX_DEPTH, check_json_value
from kansformer.training.data.spec import SOURCE_OF, SOURCES
from kansformer.training.recipe import Recipe, Table

MAX_CHARACTERS = 100_000
"""Of a file, also with its aliases written out, since a few lines of YAML can stand for gigabytes. PyYAML needs a
second for that many."""


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, which YAML 1.1 takes for text since it has no dot, and 1:10 and 010 as texts, which it
    takes for 70 and 8; refuses endless aliases and fields that stand twice."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        """One value, whose aliases count as what they stand for."""
        mark = self.peek_event().start_mark
        is_alias = self.check_event(yaml.AliasEvent)
        if self._depth > MAX_DEPTH:  # before more is read: PyYAML takes the square of the depth
            raise ComposerError(None, None, f"found more than {MAX_DEPTH} levels of nesting", mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if is_alias and id(node) not in self._sizes:
            raise ComposerError(None, None, "found a value that is part of itself", mark)
        if not is_alias:
            self._sizes[id(node)] = 1 + self._characters(node)
        if self._sizes[id(node)] > MAX_CHARACTERS:
            raise ComposerError(None, None, f"found more than {MAX_CHARACTERS} characters, aliases written out", mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A table, in which no field stands twice: the last one would win."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise ComposerError(None, None, f"found the field {key.value!r} twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def _characters(self, node: yaml.Node) -> int:
        if not isinstance(node, yaml.CollectionNode):
            return len(node.value)
        parts = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        return sum(self._sizes[id(part)] for part in parts)


class _Dumper(yaml.SafeDumper):
    """Quotes the text "1e-3", which the loader would read as a number."""

    def ignore_aliases(self, data: object) -> bool:
        """Always: a value that occurs twice is written twice."""
        return True


for _kind in (_Loader, _Dumper):
    _kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:int"]
        for first, resolvers in _kind.yaml_implicit_resolvers.items()
    }
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"), list("-+0123456789")
    )
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
    )

PACKAGE = "kansformer.recipes"
"""The package of the files in `scripts/recipes`."""


def recipe_names() -> list[str]:
    """Names of the recipes that come with kansformer."""
    return sorted(p.name.removesuffix(".yaml") for p in resources.files(PACKAGE).iterdir() if p.name.endswith(".yaml"))


def read_recipe(source: str | Path, changes: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: a YAML file, or the name of a recipe that comes with kansformer.
        changes: `field=value` with the value in YAML and dots for sections, such as `training.max_steps=100` or
            `kan.slots=[act]`; `kan=null` takes a section out. Later ones win. One of `data.corpus`, `data.files` and
            `data.dataset` takes the place of the recipe's one, and of the fields that mean something with that only.

    Returns:
        The recipe, for `train`.

    Raises:
        ConfigError: there is no such recipe, it is not YAML, or a field is unknown or impossible.

    Examples:
        >>> from kansformer.training import read_recipe
        >>> recipe = read_recipe("tiny-cpu", ["training.max_steps=100", "kan.slots=[act]"])
        >>> recipe.training["max_steps"], recipe.kan.config.slots
        (100, ('act',))
    """
    text, place = _text_of(source)
    values = _load(text, place)
    if not isinstance(values, dict):
        raise ConfigError(f"{place} must hold a table of named fields.")
    for change in changes:
        _apply(values, change)
    _drop_other_sources(values, changes)
    try:
        return Recipe.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error!s:.1000}") from error


def recipe_title(name: str) -> str:
    """The first line of a recipe that comes with kansformer: its title."""
    return _text_of(name)[0].splitlines()[0].lstrip("# ")


def dump_recipe(recipe: Recipe) -> str:
    """A recipe as YAML, for `read_recipe`."""
    return yaml.dump(recipe.to_dict(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe as YAML."""
    atomic_write_text(path, dump_recipe(recipe))


def first_difference(one: Recipe, other: Recipe) -> str | None:
    """The first field in which two recipes differ, with both values; None if they are equal."""
    return _difference(one.to_dict(), other.to_dict(), "")


def _load(text: str, place: str) -> JsonValue:
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{place} has {len(text):,} characters; a recipe has {MAX_CHARACTERS:,} at most.")
    try:
        values = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except Exception as error:  # beside YAML's own, whatever Python says of impossible dates, numbers and depths
        raise ConfigError(f"{place} is not YAML: {' '.join(str(error).split())!s:.600}.") from None
    check_json_value(values, place, ConfigError)
    return values


def _text_of(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The recipe {str(path)!r} cannot be read: {error}.") from None
    names = recipe_names()
    if str(source) not in names:
        hint = "".join(f" Did you mean {name}?" for name in difflib.get_close_matches(str(source), names, n=1))
        raise ConfigError(
            f"There is no recipe {str(source)!r}.{hint} Choose a .yaml file or one of: {', '.join(names)}."
        )
    return resources.files(PACKAGE).joinpath(f"{source}.yaml").read_text(encoding="utf-8"), f"{source}.yaml"


def _apply(values: Table, change: str) -> None:
    path, equals, text = change.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"{change!r} is not a change of a field. Write field=value, such as training.max_steps=100.")
    value = _load(text, f"The value of {change!r:.200}")
    *sections, name = path.strip().split(".")
    table = values
    for section in sections:
        inner = table.get(section)
        if not isinstance(inner, dict):
            inner = table[section] = {}
        table = inner
    table[name] = value


def _drop_other_sources(values: Table, changes: list[str] | tuple[str, ...]) -> None:
    """Where a change names a source of the data, take out the recipe's others and the fields that belong to them."""
    data = values.get("data")
    if not isinstance(data, dict):
        return
    changed = {change.partition("=")[0].strip() for change in changes}
    chosen = [name for name in SOURCES if f"data.{name}" in changed and data.get(name) is not None]
    for name, source in {**{name: name for name in SOURCES}, **SOURCE_OF}.items():
        if chosen and source not in chosen and f"data.{name}" not in changed:
            data.pop(name, None)


def _difference(one: object, other: object, place: str) -> str | None:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys([*one, *other]):
            difference = _difference(one.get(name), other.get(name), f"{place}.{name}" if place else name)
            if difference is not None:
                return difference
        return None
    return None if one == other else f"{place} is {one!r:.300} in one and {other!r:.300} in the other"
