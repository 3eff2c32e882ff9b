"""The public names and their parameters, one a line, as `public_names.txt` keeps them.

    python tests/golden/public_names.py           # after names or optional parameters were added
    python tests/golden/public_names.py --breaks  # after others were removed, renamed or moved, on purpose

`=` stands for a default. Of a class it is the constructor and, once, what the class itself defines; of the program the
commands with their arguments and options.
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
# With `__all__`: that; others: the functions and classes that are written in them.
MODULES = (
    "kansformer.basis",
    "kansformer.conversion",
    "kansformer.embedded",
    "kansformer.errors",
    "kansformer.kan",
    "kansformer.hub",
    "kansformer.interp",
    "kansformer.nn",
    "kansformer.ops",
    "kansformer.sites",
    "kansformer.symbolic",
    "kansformer.training.distill",
    "kansformer.training.recipe",
    "kansformer.training.recipe_file",
    "kansformer.training.run",
    "kansformer.views",
    "kansformer",
)
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def public_names() -> list[str]:
    """A line for each."""
    seen: set[type] = set()
    lines = [line for name in MODULES for line in _of_module(importlib.import_module(name), seen)]
    return [*lines, *_of_program()]


def breaks(old: list[str], new: list[str]) -> list[str]:
    """What of the old lines no longer holds: each a sentence."""
    now = {line.partition("(")[0]: line for line in new}
    found = []
    for line in old:
        name = line.partition("(")[0]
        if name not in now:
            found.append(f"{name} is gone.")
        elif not _serves(_parameters(line), _parameters(now[name])):
            found.append(f"{line} was changed to {now[name]}.")
    return found


def _of_module(module: ModuleType, seen: set[type]) -> Iterator[str]:
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    for name in sorted(names):
        yield from _of_value(f"{module.__name__}.{name}", getattr(module, name), seen)


def _of_value(place: str, value: Any, seen: set[type]) -> Iterator[str]:
    if inspect.isclass(value):
        own = "__init__" in vars(value) or dataclasses.is_dataclass(value)
        yield place + (_of_callable(value) if own else "")
        if value in seen:
            return
        seen.add(value)
        fields = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
        for name in sorted({*(n for n in vars(value) if not n.startswith("_")), *fields}):
            member = inspect.getattr_static(value, name, None)
            function = getattr(member, "__func__", member)
            yield f"{place}.{name}" + (_of_callable(getattr(value, name)) if inspect.isfunction(function) else "")
    else:
        yield place + (_of_callable(value) if inspect.isroutine(value) else "")


def _of_callable(value: Any) -> str:
    parts, previous = [], None
    for parameter in inspect.signature(value).parameters.values():
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
    inside = line.partition("(")[2].removesuffix(")")
    parts = inside.split(", ") if inside else []
    star = next((i for i, part in enumerate(parts) if part.startswith("*")), len(parts))
    return parts[:star], parts[star + (parts[star : star + 1] == ["*"]) :]


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
