"""Build the wheel and the source distribution, check what is in them, and run the demo from the wheel alone.

    python scripts/release.py [--out dist]

Needs the package `build` (`pip install build`). The demo runs in a fresh virtual environment outside of the repository.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IN_WHEEL = ("kansformer/__init__.py", "kansformer/recipes/tiny-cpu.yaml", "kan_kernels/__init__.py")
IN_SOURCE = (
    *("README.md", "LICENSE", "CHANGELOG.md", "mkdocs.yml", "docs/index.md", "model_cards/embedded.md"),
    *("tests/tiny_models.py", "kernels/build.toml"),
)
NOT_IN_EITHER = ("results/", "__pycache__", ".ci/")
MAX_BYTES = 7_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    out = parser.parse_args().out
    _run(sys.executable, "-m", "build", "--outdir", str(out), str(ROOT))
    wheel, source = (max(out.glob(f"kansformer-*{suffix}"), key=_age) for suffix in (".whl", ".tar.gz"))
    with zipfile.ZipFile(wheel) as archive:
        check(wheel, archive.namelist(), IN_WHEEL)
    with tarfile.open(source) as archive:
        check(source, [name.partition("/")[2] for name in archive.getnames()], IN_SOURCE)
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "env", with_pip=True)
        programs = Path(folder) / "env" / "bin"
        _run(str(programs / "pip"), "install", "--quiet", str(wheel))
        _run(str(programs / "kansformer"), "demo", "--steps", "20", cwd=folder)
    print(f"{wheel} and {source} are complete, and the demo ran from the wheel.")


def check(path: Path, names: list[str], needed: tuple[str, ...]) -> None:
    """Check that a distribution is small, has what it needs, and nothing that is not to be released.

    Args:
        path: of the wheel or the archive of sources.
        names: of its files, from its top folder on.
        needed: some that it must have.

    Raises:
        SystemExit: it is too large, misses some of these, or has unwanted files.
    """
    missing = sorted(set(needed) - set(names))
    unwanted = [name for name in names if any(part in name for part in NOT_IN_EITHER)]
    if missing or unwanted or path.stat().st_size > MAX_BYTES:
        raise SystemExit(
            f"{path.name}: missing {missing}, not to be released {unwanted}, {path.stat().st_size:,} bytes."
        )


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _run(*command: str, cwd: str | None = None) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, check=True, cwd=cwd)


if __name__ == "__main__":
    main()
