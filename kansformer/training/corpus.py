"""Offline corpora: Python's standard library, its language reference, and scikit-learn's digits.

Which of them are held out is decided by the SHA-256 of names, so it is the same on every machine and in every version.
Shape letters: N images.
"""

import ast
import hashlib
import importlib
import os
import sysconfig
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from kansformer.errors import ConfigError, DataError

Split = Literal["train", "held_out"]

SEPARATOR = "\n\n"
MIN_BYTES = 500
FILES_HELD_OUT, TOPICS_HELD_OUT, SNIPPETS_HELD_OUT = 6, 20, 25
"""Per cent. The files whose snippets are held out contain those that are held out as documents."""

# Tests, programs and packages that are installed beside the library, and folders of data written as Python.
EXCLUDED_FOLDERS = {
    "test", "tests", "idle_test", "site-packages", "dist-packages", "idlelib", "lib2to3", "turtledemo", "encodings",
    "pydoc_data", "ensurepip", "__pycache__", "__phello__",
}  # fmt: skip
# Mostly generated tables, which a language model gains nothing from.
EXCLUDED_FILES = {
    "html/entities.py", "keyword.py", "locale.py", "opcode.py", "stringprep.py", "symbol.py", "this.py", "token.py",
    "_opcode_metadata.py",
}  # fmt: skip
SNIPPET_LINES = 12
MIN_PACKAGE_FILES = 6
MAX_SNIPPETS: dict[Split, int] = {"train": 500, "held_out": 100}
"""Per package: a large one would otherwise have most of the rows."""

DIGITS_WHITE = 16.0  # the largest value of a pixel


def is_held_out(name: str, percent: int) -> bool:
    """Whether the thing of this name is held out, which `percent` of all names are."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 100 < percent


def standard_library_files() -> dict[str, Path]:
    """The core modules of the running Python's standard library by their paths inside it, sorted.

    Tests, bundled programs, generated tables and files below 500 bytes are left out.

    Raises:
        DataError: this Python comes without the library's source, as zipped and frozen ones do.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files = {path.relative_to(root).as_posix(): path for path in _sources_below(root)}
    core = {name: path for name, path in sorted(files.items()) if _is_core(name, path)}
    if not core:
        raise DataError(
            f"No Python source was found in {str(root)!r}, where this Python keeps its standard library. "
            "Use a Python that is installed with its source, or pass a text of your own."
        )
    return core


def language_documents(corpus: str, split: Split) -> list[str]:
    """Read one split of a corpus for language models, "standard-library" or "language-reference"."""
    return standard_library_documents(split) if corpus == "standard-library" else [language_reference_text(split)]


def standard_library_documents(split: Split) -> list[str]:
    """Read one split of the standard library: a document per file, as UTF-8, without the invalid bytes.

    About 6 % of the files are held out.

    Raises:
        DataError: `split` is another word, or the source is not on this machine.
    """
    held_out = _is_evaluation(split, "standard library")
    files = standard_library_files().items()
    return [_source(path) for name, path in files if is_held_out(name, FILES_HELD_OUT) == held_out]


def standard_library_text(split: Split) -> str:
    """Read one split of the standard library as one string, its files joined by an empty line."""
    return SEPARATOR.join(standard_library_documents(split))


def language_reference_text(split: Split) -> str:
    """Read one split of Python's language reference: the topics of `help()`, such as `help("with")`.

    It is English prose about code, which the model in `kansformer/embedded/` has not seen. Topics quote each other, so
    a paragraph that is in the held-out split, or earlier in the training split, is left out of the training split.

    Topics are in the order of their names, joined by an empty line. About 20 % are held out.

    Raises:
        DataError: `split` is another word, or this Python comes without the topics.
    """
    evaluation = _is_evaluation(split, "language reference")
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except (ImportError, AttributeError):
        raise DataError(
            "This Python comes without its help topics (pydoc_data.topics). Use a complete Python, or pass a text of "
            "your own."
        ) from None
    paragraphs: dict[bool, list[str]] = {True: [], False: []}
    for name in sorted(topics):
        inside = [paragraph.strip("\n") for paragraph in topics[name].split(SEPARATOR) if paragraph.strip()]
        paragraphs[is_held_out(name, TOPICS_HELD_OUT)] += inside
    if evaluation:
        return SEPARATOR.join(paragraphs[True])
    kept: dict[str, str] = {}
    for paragraph in paragraphs[False]:
        kept.setdefault(_words(paragraph), paragraph)
    held_out = set(map(_words, paragraphs[True]))
    return SEPARATOR.join(paragraph for words, paragraph in kept.items() if words not in held_out)


def standard_library_snippets() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Cut the functions of the standard library's packages into snippets of 12 lines.

    Packages with 6 files or more take part, if both splits have a snippet of them. About every fourth file is held out;
    no snippet of a file that is trained on is evaluated. Of a package with many snippets, evenly spaced ones are kept;
    a snippet that occurs twice is kept once.

    Returns:
        Pairs of snippet and package for training and for evaluation.

    Raises:
        DataError: this Python comes without the library's source, or with less than two such packages.
    """
    packages: dict[str, dict[str, Path]] = defaultdict(dict)
    for name, path in standard_library_files().items():
        package, _, module = name.partition("/")
        if module:
            packages[package][name] = path
    seen: set[str] = set()
    rows: dict[Split, list[tuple[str, str]]] = {"held_out": [], "train": []}
    for split in rows:  # the evaluation takes first: what it has is left out of training
        for package, files in sorted(packages.items()):
            if len(files) >= MIN_PACKAGE_FILES:
                chosen = [p for n, p in files.items() if is_held_out(n, SNIPPETS_HELD_OUT) == (split == "held_out")]
                rows[split] += [(snippet, package) for snippet in _snippets(chosen, seen, MAX_SNIPPETS[split])]
    common = {package for _, package in rows["train"]} & {package for _, package in rows["held_out"]}
    if len(common) < 2:
        raise DataError(
            "This Python's standard library has too few packages to tell apart. Use a complete Python, or give files."
        )
    train, evaluation = ([row for row in rows[split] if row[1] in common] for split in ("train", "held_out"))
    return train, evaluation


def digits() -> tuple[Tensor, list[int], tuple[str, ...]]:
    """Read the 8x8 images that come with scikit-learn.

    Returns:
        Pixels from -1 to 1, float32 of shape (N, 1, 8, 8); the labels; and their names.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigError('corpus="digits" comes with scikit-learn. Install it: pip install scikit-learn') from None
    bunch = load_digits()
    pixels = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / DIGITS_WHITE
    return (pixels - 0.5) / 0.5, bunch.target.tolist(), tuple(map(str, bunch.target_names))


def _is_evaluation(split: str, corpus: str) -> bool:
    if split not in get_args(Split):
        raise DataError(f"split={split!r} is not a split of the {corpus}; choose from {get_args(Split)}.")
    return split == "held_out"


def _source(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="ignore")


def _sources_below(root: Path) -> Iterator[Path]:
    """All Python files outside of excluded folders, which are not entered: installed packages may be many."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in EXCLUDED_FOLDERS and not name.startswith("config-")]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def _is_core(name: str, path: Path) -> bool:
    return (
        name not in EXCLUDED_FILES
        and not path.name.startswith("_sysconfigdata")  # each platform's build writes its own
        and path.is_file()
        and path.stat().st_size >= MIN_BYTES
    )


def _words(paragraph: str) -> str:
    """The paragraph without its indentation, in which quoted topics differ."""
    return " ".join(paragraph.split())


def _snippets(paths: Sequence[Path], seen: set[str], limit: int) -> list[str]:
    """At most `limit` snippets that were not seen, which are added to `seen`."""
    new = list(dict.fromkeys(snippet for path in paths for snippet in _cut(_source(path)) if snippet not in seen))
    seen.update(new)
    return [new[i * len(new) // limit] for i in range(limit)] if len(new) > limit else new


def _cut(source: str) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old escapes in old modules
        try:
            tree = ast.parse(source)
        except SyntaxError:  # a file for another Python
            return
    lines = source.split("\n")
    for node in _outermost_functions(tree):
        body = lines[node.lineno - 1 : node.end_lineno]
        for first in range(0, len(body) - SNIPPET_LINES + 1, SNIPPET_LINES):
            yield textwrap.dedent("\n".join(body[first : first + SNIPPET_LINES]))


def _outermost_functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        else:
            yield from _outermost_functions(child)
