"""The layout and the direction of imports, as a test: a package may import only what stands above it."""

import ast
import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "kansformer"

# Rows from the foundation up; names in one row are peers that never import each other.
ORDER = [
    {"errors", "version", "_moved", "progress", "wording"},
    {"files", "safe_io", "checks", "import_hooks", "embedded", "figure", "hub_files", "autoload"},
    {"basis"},
    {"ops"},
    {"nn"},
    {"symbolic", "config"},
    {"sites"},
    {"conversion"},
    {"training", "hub", "interp", "kan", "serving"},
    {"fitting"},  # old names of kan
    {"views", "discover"},
    {"cli"},
]
RANK = {name: rank for rank, row in enumerate(ORDER) for name in row}

# Third-party packages with one home.
HOMES = {
    "triton": {"kan_kernels"},
    "matplotlib": {"figure", "kan", "views"},
    "datasets": {"training", "cli"},
    "accelerate": {"training"},
    "peft": {"conversion", "hub", "training"},
    "yaml": {"training"},
    "pydantic": {"training"},
    "sympy": {"symbolic", "kan", "discover"},
    "scipy": {"interp"},
    "sklearn": {"kan", "training"},
    "plotly": {"views"},
    "typer": {"cli"},
    "gradio": {"cli"},
    "rich": {"cli"},
    "huggingface_hub": {"hub", "hub_files"},
    "vllm": {"serving"},
    "sglang": {"serving"},
    "transformers": {"sites", "conversion", "training", "hub", "cli", "discover"},
}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


SOURCES = sorted(
    p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.name not in ("__init__.py", "__main__.py")
)


def test_a_module_imports_only_what_stands_above_it():
    violations = []
    for path in SOURCES:
        own = part_of(path)
        if own not in RANK:
            violations.append(f"{path.relative_to(ROOT)}: {own} has no place in the order of imports")
            continue
        for name in sorted(imported_modules(path)):
            root, part, *_ = *name.split("."), ""
            if root == "kansformer" and part in RANK and part != own and RANK[part] >= RANK[own]:
                violations.append(f"{path.relative_to(ROOT)} imports {name}, which stands below it")
            if name == "kansformer":
                violations.append(f"{path.relative_to(ROOT)} imports the top of the package")
    assert not violations, "\n" + "\n".join(violations)


def test_imports_are_absolute():
    violations = [
        f"{path.relative_to(ROOT)}:{node.lineno} imports relatively; write the package's name"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not violations, "\n" + "\n".join(violations)


def test_a_third_party_package_has_one_home():
    violations = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in SOURCES
        for name in sorted({n.split(".")[0] for n in imported_modules(path)})
        if part_of(path) not in HOMES.get(name, {part_of(path)})
    ]
    assert not violations, "\n" + "\n".join(violations)


def test_the_kernels_folder_is_no_package():
    # transformers imports a package named `kernels`; an __init__.py here would shadow it and break every model.
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "tests" / "kernels" / "__init__.py").exists()


def test_the_kernels_import_nothing_but_their_own_torch_and_triton():
    violations = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "kernels").rglob("*.py")
        for name in sorted(imported_modules_loosely(path) - {"torch", "triton"} - sys.stdlib_module_names)
    ]
    assert not violations, "\n" + "\n".join(violations)


def imported_modules_loosely(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain = {alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    absolute = {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level}
    return plain | absolute


def test_every_package_is_listed_for_the_wheel():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # tomllib is not in Python 3.10
    listed = set(re.findall(r'"([^"]+)"', re.search(r"^packages = \[(.*?)^\]", text, re.S | re.M).group(1)))
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in PACKAGE.rglob("__init__.py")}
    elsewhere = {"kan_kernels", "kansformer.cards", "kansformer.recipes"}  # in the repository
    assert listed == found | elsewhere
