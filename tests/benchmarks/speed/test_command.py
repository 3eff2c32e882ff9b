"""`python -m benchmarks`, on tiny sizes for one round."""

import pytest
import torch
from provenance import processor
from speed.processors import result_file
from speed.sizes import SIZES
from speed.suites import Options, measure_size
from speed.table import read_rows
from speed.variants import variants_for
from tiny_models import tiny_llama
from transformers.utils import logging
from typer.testing import CliRunner

from benchmarks.__main__ import app

QUICK = ("--rounds", "1", "--seconds", "0", "--no-memory")


@pytest.fixture(autouse=True)
def _restore():
    verbosity, bars, threads = logging.get_verbosity(), logging.is_progress_bar_enabled(), torch.get_num_threads()
    yield
    logging.set_verbosity(verbosity)
    torch.set_num_threads(threads)
    if bars:
        logging.enable_progress_bar()


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})


def refused(*arguments, code=1):
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    return result.stderr.removeprefix("Error: ").rstrip("\n")


def test_the_cpu_suite_measures_in_two_processes_writes_and_draws(tmp_path):
    options = ["--shapes", "tiny", "--no-peers", "--no-compiled", "--threads", 1, "--out", tmp_path / "new"]
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        pass
    else:
        options += ["--plot", tmp_path / "plot.png"]
    result = run(*QUICK, *options)
    assert result.exit_code == 0, result.output
    path = result_file(tmp_path / "new", processor())
    rows = read_rows(path)
    variants = list(dict.fromkeys(row.variant for row in rows))
    assert [(row.allocator, row.variant, row.measure) for row in rows] == [
        (allocator, variant, measure)
        for allocator in ("memory kept", "as it comes")
        for variant in variants
        for measure in ("forward", "step")
    ]
    assert all(row.page_faults is not None and row.calls for row in rows)
    assert "| kansformer |" in path.with_suffix(".md").read_text()
    assert f"| allocator: memory kept | {processor()} |" in (tmp_path / "new" / "bench_cpu.md").read_text()
    assert (
        "1 threads" in result.stdout and "tiny: per edge, N=24, d=8, hidden 6 (MLP 54), G=5, float32" in result.stdout
    )
    assert "MLP: as many parameters as the KAN; the baseline" in result.stdout
    assert (tmp_path / "plot.png").exists() == ("--plot" in options)


def test_missing_peers_are_said(monkeypatch):
    monkeypatch.setattr("speed.peers.find_spec", lambda module: None)
    variants = variants_for(SIZES["tiny"], "cpu", compiled=False)
    skips = measure_size("cpu", SIZES["tiny"], variants, Options(rounds=1, least_seconds=0, memory=False)).skips
    assert ("pykan", "not installed; pip install pykan, or 'kansformer[bench]'") in [
        (skip.variant, skip.reason) for skip in skips
    ]


def test_the_backends_suite_says_what_auto_should_take(tmp_path):
    result = run(*QUICK, "--suite", "backends", "--shapes", "tiny", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "tiny: auto should take " in result.stdout
    assert read_rows(tmp_path / "bench_backends.csv")[0].baseline == "reference"


def test_the_model_suite_takes_a_folder(tmp_path):
    tiny_llama(num_hidden_layers=1, max_position_embeddings=80).save_pretrained(tmp_path / "model")
    result = run(*QUICK, "--suite", "model", "--model", tmp_path / "model", "--tokens", 20, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    rows = read_rows(tmp_path / "bench_model.csv")
    assert [row.measure for row in rows] == ["prefill", "prefill", "train", "train", "generate", "generate"]
    assert "tokens/s" in result.stdout


@pytest.mark.parametrize("suite", ["gpu", "tiles"])
def test_suites_of_a_gpu_need_one(suite, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    sentence = refused("--suite", suite, "--out", tmp_path / "new", code=2)
    expected = f"Suite '{suite}' needs a GPU that torch can use, and there is none. Choose cpu, model or backends."
    assert sentence == expected
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--suite tpu", "Unknown suite 'tpu'. Choose one of: cpu, model, gpu, backends, tiles."),
        ("--shapes S,M", "Unknown shape 'M' in --shapes. Choose any of: S, L, narrow"),
        ("--shapes ,", "--shapes names no shape."),
        ("--suite model --shapes S", "--shapes S belongs to blocks, and the suite 'model' has none. Leave it out."),
        ("--suite tiles --shapes S", "--shapes S belongs to blocks, and the suite 'tiles' has none. Leave it out."),
        ("--suite model --model ./nowhere", "There is no file or folder './nowhere'."),
        (f"--out {__file__}", "is a file. Give the folder to write into."),
    ],
)
def test_bad_settings_end_in_a_sentence(tmp_path, monkeypatch, options, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(*options.split())
    assert not list(tmp_path.iterdir())


def test_a_part_does_not_replace_whole_results(tmp_path, monkeypatch):
    (tmp_path / "bench_backends.csv").write_text("rows\n")
    monkeypatch.setattr("benchmarks.__main__.RESULTS", tmp_path)
    monkeypatch.chdir(tmp_path)
    sentence = refused("--suite", "backends", "--shapes", "tiny", "--out", ".")
    assert sentence == "--shapes tiny would replace all rows of bench_backends.csv by a part. Give a folder with --out."
    assert (tmp_path / "bench_backends.csv").read_text() == "rows\n"


def test_usage_errors_end_with_2():
    assert run("--rounds", "0").exit_code == 2
