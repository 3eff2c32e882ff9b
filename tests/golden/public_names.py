"""The public names and their parameters, one a line, as `public_names.txt` keeps them.

    python tests/golden/public_names.py           # after names or optional parameters were added
    python tests/golden/public_names.py --breaks  # after others were removed, renamed or moved, on purpose

A line for each of:

- a name that a public package lists in `__all__`, in every package that lists it; the classes of `kansformer.errors`
  and the functions of `kansformer.embedded`, which have no `__all__`. With its parameters, `=` for a default, and for a
  class, each behind a colon, its properties. Fields of a dataclass are parameters of its constructor;
- a method that one of these classes defines, unless it overrides one of another library's class (`forward`), once,
  where the class comes first. Layers and scikit-learn's estimators have no such lines (`OTHERS_METHODS`): they are
  called as torch and scikit-learn prescribe, and their other methods are for `convert`;
- a command of the program, with its arguments and options.

Everything else may change, above all modules that no public package lists: `basis`, `ops`, `nn`, `sites`, `conversion`.
"""

import argparse
import dataclasses
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

FILE = Path(__file__).resolve().with_suffix(".txt")
MODULES = (
    "kansformer",
    "kansformer.discover",
    "kansformer.embedded",
    "kansformer.errors",
    "kansformer.hub",
    "kansformer.interp",
    "kansformer.kan",
    "kansformer.symbolic",
    "kansformer.training",
    "kansformer.views",
)
OTHERS_METHODS = (
    "GatedKANFeedForward", "KANClassifier", "KANFeedForward", "KANLinear", "KANRegressor", "LearnedActivation",
)  # fmt: skip
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def public_names() -> list[str]:
    """A line for each."""
    seen: set[type] = set()
    lines = [line for name in MODULES for line in _of_module(importlib.import_module(name), seen)]
    return [*lines, *_of_program()]


def breaks(old: list[str], new: list[str]) -> list[str]:
    """What of the old lines no longer holds: each a sentence."""
    now = {line.partition("(")[0].partition(":")[0]: line for line in new}
    found = []
    for line in old:
        name = line.partition("(")[0].partition(":")[0]
        if name not in now:
            found.append(f"{name} is gone.")
        elif not _serves(_parameters(line), _parameters(now[name])) or not _properties(line) <= _properties(now[name]):
            found.append(f"{line} was changed to {now[name]}.")
    return found


def names_of(module: ModuleType) -> list[str]:
    """The public names of a module, in order."""
    return sorted(
        getattr(module, "__all__", None)
        or [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
    )


def _of_module(module: ModuleType, seen: set[type]) -> Iterator[str]:
    for name in names_of(module):
        yield from _of_value(f"{module.__name__}.{name}", getattr(module, name), seen)


def _of_value(place: str, value: Any, seen: set[type]) -> Iterator[str]:
    if not inspect.isclass(value):
        yield place + (_of_callable(value) if inspect.isroutine(value) else "")
        return
    fields = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
    own = {name: member for name, member in vars(value).items() if not name.startswith("_") and name not in fields}
    has_constructor = "__init__" in vars(value) or dataclasses.is_dataclass(value)
    properties = sorted(name for name, member in own.items() if isinstance(member, property))
    yield place + (_of_callable(value) if has_constructor else "") + "".join(f": {name}" for name in properties)
    if value in seen or value.__name__ in OTHERS_METHODS:
        return
    seen.add(value)
    for name, member in sorted(own.items()):
        if inspect.isfunction(getattr(member, "__func__", member)) and not _is_inherited(value, name):
            yield f"{place}.{name}{_of_callable(getattr(value, name), is_method=inspect.isfunction(member))}"


def _is_inherited(kind: type, name: str) -> bool:
    """Whether a base class outside this package has a method of this name."""
    return any(name in vars(base) for base in kind.__mro__ if not base.__module__.startswith("kansformer"))


def _of_callable(value: Any, is_method: bool = False) -> str:
    parts, previous = [], None
    for parameter in list(inspect.signature(value).parameters.values())[is_method:]:
        if parameter.kind is parameter.KEYWORD_ONLY and previous not in (parameter.KEYWORD_ONLY, VARIABLE[0]):
            parts.append("*")
        previous = parameter.kind
        stars = {VARIABLE[0]: "*", VARIABLE[1]: "**"}.get(parameter.kind, "")
        parts.append(f"{stars}{parameter.name}" + ("" if parameter.default is parameter.empty else "="))
    return f"({', '.join(parts)})"


def _of_program() -> Iterator[str]:
    import typer

    from kansformer.cli import app

    program: Any = typer.main.get_command(app)
    for name, command in {"": program, **program.commands}.items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = sorted(
            spelling + ("" if option.required else "=")
            for option in command.params
            if option.param_type_name == "option"
            for spelling in (*option.opts, *option.secondary_opts)
        )
        parts = [argument.name + ("" if argument.required else "=") for argument in arguments]
        yield f"$ kansformer {name}".rstrip() + f"({', '.join([*parts, '*', *options] if options else parts)})"


def _parameters(line: str) -> tuple[list[str], list[str]]:
    """Those that go by place, and those that go by name only."""
    inside = line.partition("(")[2].partition(")")[0]
    parts = inside.split(", ") if inside else []
    star = next((i for i, part in enumerate(parts) if part.startswith("*")), len(parts))
    return parts[:star], parts[star + (parts[star : star + 1] == ["*"]) :]


def _properties(line: str) -> set[str]:
    """Those that can be read of a class."""
    return set(line.rpartition(")")[2].split(": ")[1:])


def _serves(old: tuple[list[str], list[str]], new: tuple[list[str], list[str]]) -> bool:
    """Whether every call that the old parameters took is one that the new ones take."""
    for was, becomes in zip(old[0], new[0], strict=False):
        if becomes not in (was, f"{was}="):
            return False
    by_name = {part.removesuffix("="): part for part in (*new[0], *new[1])}
    if len(new[0]) < len(old[0]) or any(
        by_name.get(part.removesuffix("=")) not in (part, f"{part}=") for part in old[1]
    ):
        return False
    known = {part.removesuffix("=") for part in (*old[0], *old[1])}
    return all(part.endswith("=") or part.startswith("*") for name, part in by_name.items() if name not in known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--breaks", action="store_true", help="also write what breaks the code of others")
    new = public_names()
    broken = breaks(FILE.read_text(encoding="utf-8").splitlines(), new) if FILE.is_file() else []
    if broken and not parser.parse_args().breaks:
        sys.exit("\n".join([*broken, "Nothing was written. If that is meant: --breaks, and tell it in CHANGELOG.md."]))
    FILE.write_text("\n".join(new) + "\n", encoding="utf-8")
    print(f"Wrote {len(new)} names to {FILE.name}.")


if __name__ == "__main__":
    main()
