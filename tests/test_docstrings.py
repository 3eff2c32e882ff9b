"""Docstrings of public names say what their parameters are: all of them, and no others; summaries are one sentence."""

import importlib
import inspect
import pkgutil
import re

import kansformer

PACKAGES = ["kansformer", *(f"kansformer.{m.name}" for m in pkgutil.iter_modules(kansformer.__path__) if m.ispkg)]
SECTION = re.compile(r"^Args:\n((?:[ ]{4}.*\n|\n)*)", re.MULTILINE)
ENTRY = re.compile(r"^ {4}([\w*, ]+):", re.MULTILINE)


def public_names():
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                found[f"{thing.__module__}.{name}"] = thing
    return dict(sorted(found.items()))


def documented(thing) -> list[str]:
    """Names in the section `Args:`, where several may share a line."""
    section = SECTION.search(f"{inspect.getdoc(thing)}\n")
    return [] if section is None else [n.strip(" *") for line in ENTRY.findall(section[1]) for n in line.split(",")]


def test_every_parameter_is_documented():
    wrong = {}
    for name, thing in public_names().items():
        names = documented(thing)
        if not names or issubclass(thing if inspect.isclass(thing) else object, Exception):
            continue
        takes = [p for p in inspect.signature(thing).parameters if not p.startswith(("self", "_"))]
        if sorted(names) != sorted(takes):
            wrong[name] = f"documented {sorted(names)}, takes {sorted(takes)}"
    assert not wrong, "\n" + "\n".join(f"{name}: {what}" for name, what in wrong.items())


def test_the_summary_is_a_sentence():
    summaries = {name: inspect.getdoc(thing).partition("\n\n")[0] for name, thing in public_names().items()}
    wrong = {name: summary for name, summary in summaries.items() if not re.search(r"[.!?:]$", summary)}
    assert not wrong, "\n" + "\n".join(f"{name}: {summary!r}" for name, summary in wrong.items())
