"""Build the wheel for Linux on x86-64 with the C++ kernels prebuilt, so that installing it needs no compiler.

    python scripts/build_wheel.py --out dist

It compiles one library per level of processors (`kansformer.ops.native.prebuilt`), with CXX or the first of c++, g++
and clang++ (GCC 11 or Clang 12 at least), strips them, and packs them into a copy of the sources. The platform tag says
the oldest Linux whose C and C++ libraries have all that they need. `scripts/release.py` builds the pure wheel.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Newest versions of symbols that a system of each tag has (PEP 600).
TAGS = {
    "manylinux_2_17_x86_64": {"GLIBC": (2, 17), "GLIBCXX": (3, 4, 19), "CXXABI": (1, 3, 7)},
    "manylinux_2_28_x86_64": {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 25), "CXXABI": (1, 3, 11)},
    "manylinux_2_34_x86_64": {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 29), "CXXABI": (1, 3, 13)},
}
NEEDED = re.compile(r"\b(GLIBC|GLIBCXX|CXXABI)_(\d[\d.]*)")

SETUP = """
from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel

class BinaryDistribution(Distribution):
    def has_ext_modules(self):  # its files belong among those of one platform
        return True

class PlatformWheel(bdist_wheel):
    def get_tag(self):  # of no particular Python: the libraries know none
        return "py3", "none", {tag!r}

setup(distclass=BinaryDistribution, cmdclass={{"bdist_wheel": PlatformWheel}})
"""
BUILD = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"


def build_wheel(out: Path) -> Path:
    """Build the wheel into a folder and return its path.

    Raises:
        OSError, subprocess.CalledProcessError: a tool is missing, or failed.
        SystemExit: the libraries need a newer system than any tag names.
    """
    from kansformer.ops.native import build, cache, prebuilt
    from kansformer.version import __version__

    compiler = shlex.split(build.compiler_command() or "c++")
    with tempfile.TemporaryDirectory() as temporary:
        unwanted = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "results", "outputs")
        source = shutil.copytree(ROOT, Path(temporary) / "source", ignore=unwanted)
        folder = source / prebuilt.FOLDER.relative_to(ROOT)
        folder.mkdir()
        target = Path(temporary) / "native.so"  # levels share the objects beside it whose flags are the same
        for level in prebuilt.LEVELS:
            build.compile_library(compiler, [*build.FLAGS, *level.flags], target, level.bf16_flags)
            subprocess.run(["strip", "--strip-unneeded", target], check=True)
            stored = cache.store_library(target, folder, level.name)
            print(f"{level.name}: {stored.stat().st_size:,} bytes", flush=True)
        tag = platform_tag(sorted(folder.glob("*.so")))
        out.mkdir(parents=True, exist_ok=True)
        (source / "setup.py").write_text(SETUP.format(tag=tag), encoding="utf-8")
        command = [sys.executable, "-c", BUILD, str(out.resolve())]
        subprocess.run(command, cwd=source, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = out.glob(f"kansformer-{__version__}-*-{tag}.whl")
    return wheel


def platform_tag(libraries: Sequence[Path]) -> str:
    """The tag of the oldest Linux that has all symbols these libraries need.

    Raises:
        SystemExit: none has.
    """
    needed: dict[str, tuple[int, ...]] = {}
    for library in libraries:
        for name, version in NEEDED.findall(_symbols(library)):
            numbers = tuple(map(int, version.split(".")))
            needed[name] = max(needed.get(name, ()), numbers)
    for tag, newest in TAGS.items():
        if all(numbers <= newest[name] for name, numbers in needed.items()):
            return tag
    versions = ", ".join(f"{name}_{'.'.join(map(str, numbers))}" for name, numbers in needed.items())
    raise SystemExit(f"The libraries need {versions}, newer than {list(TAGS)[-1]} has. Build on an older Linux.")


def _symbols(library: Path) -> str:
    environment = os.environ | {"LC_ALL": "C"}
    command = ["objdump", "-T", library]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("dist"), help="the folder for the wheel (dist)")
    print(f"Written: {build_wheel(parser.parse_args().out)}")


if __name__ == "__main__":
    main()
