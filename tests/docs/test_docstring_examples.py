"""Every public name has an example in its docstring; all examples of docstrings run and print what they say."""

import ast
import doctest
import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from golden.public_names import MODULES, names_of

import kansformer

ROOT = Path(kansformer.__file__).resolve().parent
PACKAGES = (*MODULES, "kansformer.ops")
WITHOUT_LIST = ("kansformer.embedded", "kansformer.errors")  # which have no `__all__`
FILES = sorted(ROOT.rglob("*.py"))
# Packages and modules with examples, public or not.
PARTS = sorted({f.relative_to(ROOT).parts[0].removesuffix(".py") for f in FILES if ">>> " in f.read_text("utf-8")})
SECTION = re.compile(r"^Examples:\n((?: {4}.*\n|\n)*)", re.MULTILINE)  # griffe renders `Example:` as an admonition
MAX_STATEMENTS = 5  # besides imports

# Public names whose examples have a fault all the same, and why.
NO_EXAMPLE, NOT_RUN = "no section `Examples:`", "a statement that is not run"
EXCEPTIONS = {
    "kansformer.errors.HubError": (NO_EXAMPLE, "needs a Hub that refuses"),
    "kansformer.errors.InterruptedRunError": (NO_EXAMPLE, "needs a process that gets SIGTERM"),
    "kansformer.errors.ProofError": (NO_EXAMPLE, "needs a model that computes something else than its modules say"),
    "kansformer.hub.push_folder": (NOT_RUN, "uploads to the Hub"),
}


def docstrings_of(file: Path) -> dict[str, str]:
    """The docstrings of a file's classes, functions, methods and documented constants, by their full names."""
    module = ".".join(["kansformer", *file.relative_to(ROOT).with_suffix("").parts])
    docstrings: dict[str, str] = {}

    def visit(node: ast.AST, place: str) -> None:
        body = getattr(node, "body", [])
        for child, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef)):
                docstrings[f"{place}.{child.name}"] = ast.get_docstring(child) or ""
                visit(child, f"{place}.{child.name}")
            elif isinstance(child, (ast.Assign, ast.AnnAssign)) and isinstance(following, ast.Expr):
                target = child.target if isinstance(child, ast.AnnAssign) else child.targets[0]
                if isinstance(target, ast.Name) and isinstance(following.value, ast.Constant):
                    docstrings[f"{place}.{target.id}"] = inspect.cleandoc(following.value.value)

    visit(ast.parse(file.read_text(encoding="utf-8")), module.removesuffix(".__init__"))
    return docstrings


@cache
def all_docstrings() -> dict[str, str]:
    """Those of the whole package."""
    return {name: text for file in FILES for name, text in docstrings_of(file).items()}


def docstring_of(module: ModuleType, name: str) -> str:
    """The docstring of a public name, which for a constant stands below its assignment."""
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        return all_docstrings()[f"{value.__module__}.{value.__qualname__}"]
    package = rf"{re.escape(module.__name__)}\.\w+\.{name}"
    return next((text for place, text in all_docstrings().items() if re.fullmatch(package, place)), "")


def faults_of(docstring: str) -> list[str]:
    """What a docstring's examples lack, each a phrase."""
    docstring += "\n"
    section = SECTION.search(docstring)
    if section is None:
        return [NO_EXAMPLE]
    statements = [example.source for example in doctest.DocTestParser().get_examples(section[1])]
    shown = [source for source in statements if not source.startswith(("import ", "from "))]
    faults = [] if shown else ["nothing but imports"]
    if len(shown) > MAX_STATEMENTS:
        faults.append(f"{len(shown)} statements besides imports, more than {MAX_STATEMENTS}")
    if "+SKIP" in section[1]:
        faults.append(NOT_RUN)
    if "    >>>" in docstring.replace(section[0], ""):
        faults.append("an example outside of its section")
    return faults


def run(name: str, docstring: str) -> str:
    """Run a docstring's examples in a namespace that has torch; what they print instead, or nothing."""
    torch.manual_seed(0)
    examples = doctest.DocTestParser().get_doctest(docstring, {"torch": torch}, name, name, 0)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(examples, out=report.append)
    return "".join(report)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_an_example(package):
    module = importlib.import_module(package)
    faults = {f"{package}.{name}": faults_of(docstring_of(module, name)) for name in names_of(module)}
    expected = {name: [fault] for name, (fault, _) in EXCEPTIONS.items() if name in faults}
    wrong = {name: what for name, what in faults.items() if what != expected.get(name, [])}
    assert not wrong, "\n" + "\n".join(f"{name}: {', '.join(what) or 'no fault'}" for name, what in wrong.items())


@pytest.mark.parametrize("package", [name for name in PACKAGES if name not in WITHOUT_LIST])
def test_the_site_sees_the_public_names(package):
    """griffe reads `__all__` as it is written, and takes `a.b` for the module where there is one of that name."""
    tree = ast.parse(Path(importlib.import_module(package).__file__).read_text(encoding="utf-8"))
    written = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    assert sorted(ast.literal_eval(written[0])) == names_of(importlib.import_module(package))
    imported = [f"{n.module}.{alias.name}" for n in tree.body if isinstance(n, ast.ImportFrom) for alias in n.names]
    files = [ROOT.parent / f"{name.replace('.', '/')}.py" for name in imported]
    assert not [file.name for file in files if file.is_file()]


def test_exceptions_are_public_names():
    assert {*EXCEPTIONS} <= {
        f"{package}.{name}" for package in PACKAGES for name in names_of(importlib.import_module(package))
    }


@pytest.mark.parametrize("part", PARTS)
def test_the_examples_run(part, tmp_path, monkeypatch):
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    reports = [run(name, text) for name, text in all_docstrings().items() if name.split(".")[1] == part]
    assert not any(reports), "\n".join(filter(None, reports))


@pytest.mark.parametrize(
    ("docstring", "faults"),
    [
        ("Add.\n\nExamples:\n    >>> 1 + 1\n    2", []),
        ("Add.", [NO_EXAMPLE]),
        ("Add.\n\nExample:\n    >>> 1 + 1\n    2", [NO_EXAMPLE]),
        ("Add.\n\nExamples:\n    >>> 1 + 1  # doctest: +SKIP\n    2", [NOT_RUN]),
        ("Add.\n\nExamples:\n    >>> import torch", ["nothing but imports"]),
        ("Add.\n\n    >>> 1\n    1\n\nExamples:\n    >>> 1\n    1", ["an example outside of its section"]),
        ("Add.\n\nExamples:\n" + 6 * "    >>> x = 1\n", ["6 statements besides imports, more than 5"]),
    ],
)
def test_what_is_a_fault(docstring, faults):
    assert faults_of(docstring) == faults


def test_an_example_that_prints_something_else_is_reported():
    assert run("add", "Add.\n\nExamples:\n    >>> 1 + 1\n    2") == ""
    assert "Got:\n    2" in run("add", "Add.\n\nExamples:\n    >>> 1 + 1\n    3")
    assert "NameError" in run("add", "Add.\n\nExamples:\n    >>> add(1, 1)\n    2")
