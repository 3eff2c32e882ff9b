"""Snippets of the standard library's functions, to be classified by the package they are from."""

import ast
import hashlib
import sysconfig
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from kansformer.errors import DataError
from kansformer.training.corpus import Split, standard_library_files

LINES = 12
MINIMUM_FILES = 6
# By the same hash as the 6 % that `standard_library_documents` holds out, so these are among them: a model that was
# trained on the rest has not seen them, but 6 % would leave some packages without a file to evaluate on.
HELD_OUT_PERCENT = 25
# A large package would otherwise be most of the rows.
MOST_PER_LABEL: dict[Split, int] = {"train": 500, "held_out": 100}

Row = tuple[str, str]


def standard_library_snippets() -> tuple[list[Row], list[Row]]:
    """Cut the functions of the standard library's packages into snippets of 12 lines.

    Packages with 6 files or more take part, if both splits have a snippet of them. A file is held out, about every
    fourth, by the SHA-256 of its path inside the library; no snippet of a file that is trained on is evaluated. Of a
    package with many snippets, evenly spaced ones are kept; a snippet that occurs twice is kept once.

    Returns:
        Pairs of snippet and package for training and for evaluation.

    Raises:
        DataError: this Python comes without the library's source, or with less than two such packages.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files: dict[str, dict[Split, list[Path]]] = defaultdict(lambda: {"train": [], "held_out": []})
    for path in standard_library_files():
        inside = path.relative_to(root)
        if len(inside.parts) > 1:
            files[inside.parts[0]][_split_of(inside.as_posix())].append(path)
    labels = [
        label
        for label, splits in sorted(files.items())
        if len(splits["train"]) + len(splits["held_out"]) >= MINIMUM_FILES
    ]
    seen: set[str] = set()
    # The evaluation takes first: what it has is left out of training.
    held_out, train = (
        [(snippet, label) for label in labels for snippet in _snippets_of(files[label][split], seen, limit)]
        for split, limit in sorted(MOST_PER_LABEL.items())
    )
    common = {label for _, label in train} & {label for _, label in held_out}
    train, held_out = ([row for row in rows if row[1] in common] for rows in (train, held_out))
    if len(common) < 2:
        raise DataError(
            "This Python's standard library has too few packages to tell apart. Use a complete Python, or give files."
        )
    return train, held_out


def _split_of(inside: str) -> Split:
    digest = hashlib.sha256(inside.encode()).digest()
    return "held_out" if int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT else "train"


def _snippets_of(paths: Sequence[Path], seen: set[str], limit: int) -> list[str]:
    snippets = []
    for path in paths:
        for snippet in _snippets(path.read_text(encoding="utf-8", errors="ignore")):
            if snippet not in seen:
                seen.add(snippet)
                snippets.append(snippet)
    return [snippets[i * len(snippets) // limit] for i in range(limit)] if len(snippets) > limit else snippets


def _snippets(source: str) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old escapes in old modules
        try:
            tree = ast.parse(source)
        except SyntaxError:  # a file for another Python
            return
    lines = source.split("\n")
    for node in _outermost_functions(tree):
        body = lines[node.lineno - 1 : node.end_lineno]
        for first in range(0, len(body) - LINES + 1, LINES):
            yield textwrap.dedent("\n".join(body[first : first + LINES]))


def _outermost_functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        else:
            yield from _outermost_functions(child)
