"""`kansformer demo`, with few steps, offline."""

import json
import shutil
import socket

import pytest
from transformers import AutoModelForCausalLM

from kansformer import is_converted
from kansformer.cli.demo import run_demo

OUTPUT_FILES = {"config.json", "model.safetensors", "tokenizer.json", "demo.json", "held_out.txt"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(self, address):
        raise AssertionError(f"the demo tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_the_story_on_the_embedded_model(run, tmp_path):
    output = tmp_path / "kan"
    result = run("demo", "--steps", 2, "--output", output)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert [line.split()[0] for line in result.stdout.splitlines() if line[:2].strip().isdigit()] == list("123456789")
    assert result.stdout.count("original: 0.0\n") == 2 and "to the tuned model: 0.0\n" in result.stdout
    assert {path.name for path in output.iterdir()} >= OUTPUT_FILES
    assert is_converted(AutoModelForCausalLM.from_pretrained(output))
    results = json.loads((output / "demo.json").read_text())
    assert results["steps"] == 2 and results["loss_before"]["code"] == pytest.approx(2.93, abs=0.15)
    assert f"{results['loss_after']['english']:.4f}" in result.stdout


def test_only_an_earlier_demo_is_replaced(tiny, refused, tmp_path, monkeypatch, capsys):
    code, english = ["def f(x): return x\n" * 400], "The dog sleeps on.\n" * 400
    monkeypatch.setattr("kansformer.training.corpus.standard_library_documents", lambda split: code)
    monkeypatch.setattr("kansformer.training.corpus.language_reference_text", lambda split: english)
    output = tmp_path / "kan"
    for steps in (1, 2):
        run_demo(tiny, output, steps)
        assert json.loads((output / "demo.json").read_text())["steps"] == steps
        (output / "audit").mkdir(exist_ok=True)
        (output / "notes.txt").write_text("mine")
    assert "Done in" in capsys.readouterr().out
    assert (output / "notes.txt").read_text() == "mine" and (output / "audit").is_dir()
    shutil.copy(tiny / "model.safetensors", output)  # as after more training
    sentence = "are not replaced: by its demo.json they are not those of an earlier demo. Choose another --output."
    assert refused("demo", "--output", output).endswith(sentence)
    assert (output / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    (output / "demo.json").unlink()
    assert "is not empty" in refused("demo", "--output", output)
    assert (output / "model.safetensors").is_file()


def test_a_folder_with_any_other_demo_json_is_refused(refused, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for content in ("{}", "[]", "{"):
        (tmp_path / "demo.json").write_text(content)
        assert "demo.json" in refused("demo", "--output", tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"thesis.txt", "demo.json"}
