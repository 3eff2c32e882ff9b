"""What is released: the wheel has the package and its data and nothing else, and runs without the repository."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from kansformer.version import __version__
from scripts.release import IN_SOURCE, IN_WHEEL, check

ROOT = Path(__file__).resolve().parent.parent
LARGEST_WHEEL = 5_000_000
BUILD = "import sys, setuptools.build_meta as backend; getattr(backend, sys.argv[1])(sys.argv[2])"
# Where a package lies in the wheel, and where in the repository.
PACKAGES = {
    "kansformer": "kansformer",
    "kan_kernels": "kernels/torch-ext/kan_kernels",
    "kansformer/recipes": "scripts/recipes",
}
DATA = (".py", ".typed", ".yaml", ".json", ".safetensors", ".cpp", ".h", ".html")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and source distribution, built without a network from a copy of the repository."""
    folder = tmp_path_factory.mktemp("release")
    unwanted = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "outputs")
    source = shutil.copytree(ROOT, folder / "source", ignore=unwanted)
    for step in ("build_sdist", "build_wheel"):
        job = subprocess.run(
            [sys.executable, "-c", BUILD, step, str(folder / "dist")], cwd=source, capture_output=True, text=True
        )
        assert job.returncode == 0, job.stderr
    return {path.suffix: path for path in (folder / "dist").iterdir()}


def test_the_wheel_has_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = wheel.read(f"kansformer-{__version__}.dist-info/METADATA").decode()
        entries = wheel.read(f"kansformer-{__version__}.dist-info/entry_points.txt").decode()
    expected = set()
    for inside, folder in PACKAGES.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in DATA and "__pycache__" not in path.parts:
                expected.add(f"{inside}/{path.relative_to(ROOT / folder).as_posix()}")
    expected |= {"kansformer/cards/__init__.py", "kansformer/cards/template.md"}
    assert names == expected
    assert {"kansformer/py.typed", "kansformer/embedded/model.safetensors"} <= names
    check(built[".whl"], sorted(names), IN_WHEEL)
    assert built[".whl"].stat().st_size < LARGEST_WHEEL
    assert f"Version: {__version__}" in metadata and "License-Expression: Apache-2.0" in metadata
    assert "# kansformer" in metadata, "the README is the description"
    assert "kansformer = kansformer.cli:main" in entries


def test_the_source_has_all_that_tests_need(built):
    with tarfile.open(built[".gz"]) as archive:
        check(built[".gz"], [name.partition("/")[2] for name in archive.getnames()], IN_SOURCE)


def test_a_release_that_is_not_complete_is_refused(tmp_path):
    (tmp_path / "a.whl").write_bytes(b"")
    with pytest.raises(SystemExit, match=r"a.whl: missing \['b'\], not to be released \['results/c'\], 0 bytes"):
        check(tmp_path / "a.whl", ["a", "results/c"], ("a", "b"))


def test_the_wheel_runs_without_the_repository(built, tmp_path):
    with zipfile.ZipFile(built[".whl"]) as wheel:
        wheel.extractall(tmp_path / "site")  # noqa: S202 - our own
    script = (
        "import kansformer, kan_kernels; from kansformer.training import recipe_file;"
        "print(kansformer.__file__); print(recipe_file.recipe_names())"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"}
    job = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert job.returncode == 0, job.stderr
    assert str(tmp_path / "site") in job.stdout and "tiny-cpu" in job.stdout


NUMBERS = """
import torch
from kansformer import LearnedActivation
from kansformer.ops.native import library
torch.manual_seed(0)
activation = LearnedActivation(64)
torch.nn.init.normal_(activation.coefficients)
x = torch.randn(300, 64, requires_grad=True)
y = activation(x)
y.sum().backward()
print(library.library()._name, y.double().sum().item(), x.grad.double().norm().item())
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the wheel is for Linux on x86-64"
)
def test_a_wheel_with_prebuilt_kernels_needs_no_compiler(prebuilt_wheel, tmp_path, capsys):
    assert re.fullmatch(r"kansformer-[\d.]+-py3-none-manylinux_2_\d+_x86_64\.whl", prebuilt_wheel.name)
    assert prebuilt_wheel.stat().st_size < LARGEST_WHEEL
    with zipfile.ZipFile(prebuilt_wheel) as archive:
        archive.extractall(tmp_path / "site")  # noqa: S202 - our own
        assert b"Root-Is-Purelib: false" in archive.read(f"kansformer-{__version__}.dist-info/WHEEL")
    environment = {"HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path / "site")}
    job = subprocess.run([sys.executable, "-c", NUMBERS], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert job.returncode == 0, job.stderr
    file, *numbers = job.stdout.split()
    with torch.random.fork_rng():
        exec(NUMBERS)  # noqa: S102 - as built here
    _, *expected = capsys.readouterr().out.split()
    assert Path(file).parent == tmp_path / "site" / "kansformer" / "ops" / "native" / "prebuilt"
    assert not list(tmp_path.glob(".cache/**/*.so"))
    assert [float(n) for n in numbers] == pytest.approx([float(n) for n in expected], rel=1e-6)


@pytest.mark.skipif(not (ROOT / ".ci").is_dir(), reason="the source distribution is without CI")
def test_the_oldest_versions_that_are_allowed_are_those_that_ci_runs():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # tomllib is not in Python 3.10
    allowed = {(name, Version(least)) for name, least in re.findall(r'"([\w-]+)>=([\d.]+)', text)}
    constraints = (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8")
    tested = {(name, Version(exact)) for name, exact in re.findall(r"^([\w-]+)==([\d.]+)$", constraints, re.M)}
    names = {name for name, _ in allowed}
    assert {(name, version) for name, version in tested if name in names} <= allowed
    dependencies = re.search(r"^dependencies = \[(.*?)^\]", text, re.S | re.M).group(1)
    assert set(re.findall(r'"([\w-]+)>=', dependencies)) <= {name for name, _ in tested}
