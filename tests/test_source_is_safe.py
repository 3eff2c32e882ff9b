"""What no source may do, since the package reads what strangers wrote: run it, unpickle it, import by its names."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(p for f in ("kansformer", "kernels", "scripts", "model_cards") for p in (ROOT / f).rglob("*.py"))

BUILTINS = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "code", "runpy", "pty"}
CALLS = {"popen", "sympify", "parse_expr", "parse_latex", "unsafe_load", "full_load", "load_module"}
"""Names of functions that run text or start a shell, whatever they are imported from; `system` is one of os only."""

# Reviewed: file, what it does, and why that is no danger.
EXCEPTIONS = {
    ("kansformer/_moved.py", "import_module"): "the names of modules are a table in our own source, and no file's",
    ("kansformer/serving/vllm/own_classes.py", "import_module"): "as above: modules of vLLM, by a table in our source",
    ("kansformer/training/recipe_file.py", "yaml.load"): "its loader is a SafeLoader that refuses more, not less",
}


def find_unsafe(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and kind of everything in a syntax tree that may not be there."""
    safe_loaders = {"SafeLoader", "CSafeLoader"}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            forbidden = {(node.module or "").split(".")[0]} & MODULES if not node.level else set()
            forbidden |= names & (CALLS | {"import_module"} | ({"system"} if node.module == "os" else set()))
            found += [(node.lineno, name) for name in sorted(forbidden)]
        elif isinstance(node, ast.Name) and node.id in BUILTINS:  # also under another name, or passed on
            found.append((node.lineno, node.id))
        elif isinstance(node, ast.Attribute) and (node.attr in CALLS or dotted(node) == "os.system"):
            found.append((node.lineno, node.attr))
        elif isinstance(node, ast.Call):
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            shell = keywords.get("shell")
            if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
                found.append((node.lineno, "shell"))
            called = dotted(node.func)
            last = called.rpartition(".")[2]
            if last in ("import_module", "__import__") and not is_literal(node.args[:1]):
                found.append((node.lineno, "import_module"))
            only_weights = keywords.get("weights_only")
            if called in ("torch.load", "torch.jit.load", "torch.package.PackageImporter") and not (
                called == "torch.load" and isinstance(only_weights, ast.Constant) and only_weights.value is True
            ):
                found.append((node.lineno, called))
            if called in ("yaml.load", "yaml.load_all"):
                loaders = [*map(dotted, [*node.args[1:2], *filter(None, [keywords.get("Loader")])])]
                if not loaders or loaders[0].rpartition(".")[2] not in safe_loaders:
                    found.append((node.lineno, "yaml.load"))
            if called.endswith(("np.load", "numpy.load")) and "allow_pickle" in keywords:
                found.append((node.lineno, called))
            if last == "read_pickle" or (last == "from_pretrained" and "trust_remote_code" in keywords):
                found.append((node.lineno, last))
    return found


def dotted(node: ast.expr) -> str:
    """A name with its dots; empty in front of what is no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def is_literal(arguments: list[ast.expr]) -> bool:
    return len(arguments) == 1 and isinstance(arguments[0], ast.Constant)


def test_no_source_runs_what_it_reads_and_every_exception_is_needed():
    found = {}
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        for line, what in find_unsafe(ast.parse(path.read_text(encoding="utf-8"))):
            found[place, what] = line
    assert len(SOURCES) > 100
    assert found.keys() == EXCEPTIONS.keys(), f"new, or no longer there: {found}"


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "run = exec",
        "compile(text, 'x', 'exec')",
        "import pickle",
        "from marshal import loads",
        "import dill as safe",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "__import__(name)",
        "importlib.import_module(name)",
        "from importlib import import_module",
        "sympy.sympify(text)",
        "from sympy.parsing.sympy_parser import parse_expr",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=flag)",
        "os.system(command)",
        "from os import system",
        "numpy.load(path, allow_pickle=True)",
        "pandas.read_pickle(path)",
        "AutoModel.from_pretrained(path, trust_remote_code=flag)",
    ],
)
def test_the_walk_sees(line):
    assert find_unsafe(ast.parse(line))


@pytest.mark.parametrize(
    "line",
    [
        "model.eval()",
        "re.compile(text)",
        "torch.compile(model)",
        "torch.load(path, weights_only=True)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "importlib.import_module('sympy')",
        "subprocess.run(command, shell=False)",
    ],
)
def test_the_walk_lets_through(line):
    assert not find_unsafe(ast.parse(line))
