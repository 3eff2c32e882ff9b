"""The code speaks plain technical English and uses the field's names: marks of its first dialect do not come back."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("kansformer", "kernels", "scripts", "benchmarks", "docs")
SUFFIXES = {".py", ".cpp", ".h", ".cu", ".yaml", ".md"}
FILES = [ROOT / "README.md", *(p for f in FOLDERS for p in sorted((ROOT / f).rglob("*")) if p.suffix in SUFFIXES)]

# In docstrings, comments, messages and the README; a blank also stands for the end of a line.
PHRASES = {
    r"See that\b": "Check that …",
    r"(?<![Tt]here) is no (?!longer\b|more\b|\w+er\b)[a-z]+": "is not a …",
    r"\b(?:that|which) (?:is|are) none\b": "an adjective, such as non-finite",
    r"\b[Ss]hall\b": "must, or should",
    r"\b(?:so|as) many as\b|\bso many\b": "the number",
    r"whole or not (?:there|at all)": "atomic",
    r"\bloses nothing\b": "the fact",
    r"\bhardly anyone\b": "rare",
}
BLANK = r"(?:[ \t]|\n[ \t]*(?:#|//|\*)?[ \t]*)"

# Of variables, parameters, functions, classes and attributes.
NAMES = {
    r"_*(?:MOST|FEWEST|LONGEST|FINEST|LARGEST|DEEPEST)(?:_\w+)?": "MAX_… or MIN_…",
    "found": "result",
    "wanted": "expected",
    "told": "given",
    "written_whole": "atomic_file",
    "check_plain": "check_json_value",
    "rereadable": "replayable",
    "(?:control_)?faith": "fidelity",
    "all_or_nothing": "transaction",
}
ANY_NAME = re.compile("|".join(NAMES))
# The name that a node binds, or nothing.
BOUND = {
    ast.Name: lambda node: node.id if isinstance(node.ctx, ast.Store) else "",
    ast.Attribute: lambda node: node.attr if isinstance(node.ctx, ast.Store) else "",
    ast.arg: lambda node: node.arg,
    ast.FunctionDef: lambda node: node.name,
    ast.ClassDef: lambda node: node.name,
}


def phrases_in(text: str) -> Iterator[tuple[int, str]]:
    """Line and message of every phrase of the dialect."""
    for pattern, plain in PHRASES.items():
        for match in re.finditer(pattern.replace(" ", BLANK + "+"), text):
            yield text.count("\n", 0, match.start()) + 1, f"{' '.join(match[0].split())!r}: write {plain}"


def names_in(text: str) -> Iterator[tuple[int, str]]:
    """Line and message of every name of the dialect that is bound."""
    for node in ast.walk(ast.parse(text)):
        name = BOUND[type(node)](node) if type(node) in BOUND else ""
        if name and ANY_NAME.fullmatch(name):
            plain = next(plain for pattern, plain in NAMES.items() if re.fullmatch(pattern, name))
            yield node.lineno, f"the name {name}: write {plain}"


def test_no_mark_of_the_dialect():
    violations = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        lines = [*phrases_in(text), *(names_in(text) if path.suffix == ".py" else ())]
        violations += [f"{path.relative_to(ROOT)}:{line}: {message}" for line, message in sorted(lines)]
    assert not violations, "\n".join([f"{len(violations)} marks of the dialect:", *violations])


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ('"""See that tables can be walked."""', ["'See that'"]),
        ("# A function that is no\n# table.", ["'is no # table'"]),
        ('raise ValueError("numbers that are none")', ["'that are none'"]),
        ("MOST_EDGES = 3\nfound = MOST_EDGES", ["the name MOST_EDGES", "the name found"]),
        ("def f(wanted): pass", ["the name wanted"]),
        ('"There is no table, and it is no longer there: shallow, None."', []),
        ("MAX_EDGES = 3\nresult = found(MAX_EDGES)", []),
    ],
)
def test_what_is_a_mark(text, messages):
    lines = [message for _, message in [*phrases_in(text), *names_in(text)]]
    assert [line.partition(": write ")[0] for line in lines] == messages
