"""Libraries for levels of processors: which one is taken, what happens where it is damaged, and what each computes."""

import logging
import platform
import re
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from numerics import assert_close_to_float64

from kansformer.basis import Basis
from kansformer.ops.backend import BACKENDS
from kansformer.ops.native import build, cache, edges_bf16, kernels, library, prebuilt
from kansformer.ops.native.prebuilt import LEVELS, best_level

HASWELL = "fpu sse sse2 avx avx2 bmi1 bmi2 f16c fma abm movbe"
SKYLAKE = f"{HASWELL} avx512f avx512dq avx512bw avx512vl avx512cd"


@pytest.mark.parametrize(
    ("features", "name"),
    [
        ("flags : fpu sse sse2", "x86_64"),
        ("", "x86_64"),
        (HASWELL.replace(" fma", ""), "x86_64"),
        (HASWELL, "avx2"),
        (SKYLAKE.replace(" avx512vl", ""), "avx2"),
        (SKYLAKE, "avx512"),
        (f"{SKYLAKE} avx512_bf16 amx_bf16 amx_tile", "amx"),
    ],
)
def test_the_best_level_of_a_processor(features, name):
    assert best_level(features).name == name


@pytest.fixture
def wheel(monkeypatch, tmp_path):
    """A folder of prebuilt libraries, with one for every processor."""
    monkeypatch.setattr(prebuilt, "FOLDER", tmp_path)
    monkeypatch.setattr(prebuilt, "processor_features", lambda: HASWELL)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    for level in LEVELS:
        (tmp_path / "new").write_bytes(level.name.encode())
        cache.store_library(tmp_path / "new", tmp_path, level.name)
    return tmp_path


def test_a_wheel_s_library_is_taken(wheel, monkeypatch):
    assert prebuilt.find_prebuilt().read_bytes() == b"avx2"
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert prebuilt.find_prebuilt() is None
    monkeypatch.setattr(prebuilt, "FOLDER", wheel / "missing")
    assert prebuilt.find_prebuilt() is None


def test_a_damaged_one_is_told_and_passed_over(wheel, caplog):
    (taken,) = wheel.glob("avx2-*.so")
    taken.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert prebuilt.find_prebuilt() is None
    assert "has no undamaged library for avx2 processors: reinstall kansformer" in caplog.text


def test_one_that_cannot_be_loaded_is_replaced_by_one_built_here(wheel, caplog):
    library._state.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert library.reason_unavailable() is None
    finally:
        library._state.cache_clear()
    assert "cannot be loaded" in caplog.text and "so kansformer builds its own" in caplog.text


def test_only_sources_with_flags_of_their_own_depend_on_them():
    """Levels share the objects of the others."""
    depends = re.compile("__AMX|__AVX512BF16|WITHOUT_TILES")
    texts = {
        path.name: path.read_text(encoding="utf-8") for path in (*build.HERE.glob("*.cpp"), *build.HERE.glob("*.h"))
    }
    assert {name for name, text in texts.items() if depends.search(text)} == {*build.BF16_SOURCES, "tiles.h"}
    assert {name for name, text in texts.items() if '"tiles.h"' in text} <= set(build.BF16_SOURCES)


def _can_run(level):
    linux = sys.platform == "linux" and platform.machine() == "x86_64"
    return linux and level.features <= set(build.processor_features().split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "level",
    [
        pytest.param(
            level,
            id=level.name,
            marks=pytest.mark.skipif(not _can_run(level), reason=f"this processor cannot run {level.name} libraries"),
        )
        for level in LEVELS
    ],
)
def test_every_level_computes_the_same(level, prebuilt_wheel, make_case, monkeypatch, tmp_path):
    with zipfile.ZipFile(prebuilt_wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.startswith(f"kansformer/ops/native/prebuilt/{level.name}-"))
        loaded = library.load_library(Path(archive.extract(name, tmp_path)))
    for module in (kernels, edges_bf16):
        monkeypatch.setattr(module, "library", lambda: loaded)
    for operation, names in (("apply_curves", ("bspline", "chebyshev", "rational")), ("sum_edges", ("bspline",))):
        for name in names:
            for order in (1, 3, 5):
                for tokens in (1, 75):
                    case = make_case(Basis(name=name, order=order), operation, tokens, 37, 35)
                    _compare(operation, case, torch.float32)
    for tokens in (1, 75):
        _compare("apply_curves", make_case(Basis(), "apply_curves", tokens, 37), torch.bfloat16)
    if level.name == "amx" and not loaded.edges_tiles_supported():
        pytest.skip("the system refuses the matrix unit")
    assert loaded.edges_tiles_supported() == (level.name == "amx")
    assert loaded.edges_pairs_supported() == (level.name in ("amx", "avx512_bf16"))
    for form in (name for name in ("tiles", "pairs") if getattr(loaded, f"edges_{name}_supported")()):
        monkeypatch.setattr(edges_bf16, "forms", lambda form=form: (form,))
        _compare("sum_edges", make_case(Basis(), "sum_edges", 75, 37, 35), torch.bfloat16)


def _compare(operation, case, stored_dtype):
    results = []
    for backend, dtype in (("native", stored_dtype), ("reference", torch.float64)):
        stored = case.to(stored_dtype).to(dtype)
        x, curves = stored.x.requires_grad_(), stored.curves
        curves.coefficients.requires_grad_()
        width = 35 if operation == "sum_edges" else 37
        rows = torch.randn(2, len(x), width, generator=torch.Generator().manual_seed(1)).to(stored_dtype).to(dtype)
        added = rows[:1] if operation == "sum_edges" else rows
        y = getattr(BACKENDS[backend], operation)(x, curves, *added)
        results.append((y, dict(zip(("x", "a"), torch.autograd.grad(y.sum(), (x, curves.coefficients)), strict=True))))
    (y, gradients), (expected, expected_gradients) = results
    looser = 2.0 if case.basis.name == "rational" else 1.25
    assert_close_to_float64(y, expected, stored_dtype, looser=looser)
    assert_close_to_float64(gradients, expected_gradients, stored_dtype, gradient=True, looser=looser)
