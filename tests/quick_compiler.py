"""A C++ compiler that takes no time: it gives the library that is built already."""

from pathlib import Path

from kansformer.ops.native import build


def write_quick_compiler(folder: Path, *, seconds: float = 0.0) -> Path:
    """Write a program which builds what `c++` has built before, and appends its calls to the file `calls` beside it.

    Args:
        folder: where it is written.
        seconds: what linking takes.
    """
    compiler = folder / "c++"
    built = build.build_for_this_machine(["c++"])
    compiler.write_text(f"""#!/bin/sh
case "$*" in *--version) exec c++ --version ;; esac
for last; do :; done
case "$*" in
*-shared*) echo "linked $*" >> "{folder}/calls"; sleep {seconds}; cp "{built}" "$last" ;;
*) echo "compiled $*" >> "{folder}/calls"; : > "$last" ;;
esac
""")
    compiler.chmod(0o755)
    return compiler


def calls(compiler: Path) -> list[str]:
    """What it did, one word for each call."""
    return [line.split()[0] for line in compiler.with_name("calls").read_text().splitlines()]
