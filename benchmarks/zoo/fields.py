"""Looking a value up in a configuration and its sub-configurations."""

from __future__ import annotations

from collections.abc import Iterator

from transformers import PreTrainedConfig

from zoo.rules import TOKEN_ID


def find(config: PreTrainedConfig, *names: str, first: str = "") -> object | None:
    """The first of `names` that is set, in `config` or its parts; parts whose field name contains `first` go before."""
    for part in _parts(config, first):
        for name in names:
            value = vars(part).get(name)
            if value is None and name in type(part).attribute_map:
                value = vars(part).get(type(part).attribute_map[name])
            if value is not None:
                return value
    return None


def special_tokens(config: PreTrainedConfig) -> set[int]:
    """Ids with a meaning (image token, end of text, …), which ordinary text must not contain."""
    fields = set()
    for part in _parts(config, ""):
        for name, value in vars(part).items():
            if TOKEN_ID.search(name):
                fields.update(
                    item for item in (value if isinstance(value, (list, tuple)) else [value]) if type(item) is int
                )
    return fields


def _parts(config: PreTrainedConfig, first: str) -> Iterator[PreTrainedConfig]:
    children = [(name, value) for name, value in vars(config).items() if isinstance(value, PreTrainedConfig)]
    if first:
        preferred = [value for name, value in children if first in name]
        for child in preferred:
            yield from _parts(child, first)
    yield config
    for name, child in children:
        if not first or first not in name:
            yield from _parts(child, first)
