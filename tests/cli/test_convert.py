"""`kansformer convert`: folders that load, sentences when something is wrong, and nothing half-written."""

import json
import os
import shutil
import sys

import pytest
import torch
from tiny_models import randomize_curves
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
)

from kansformer import KANConfig, convert, freeze_curves, is_converted
from kansformer.conversion.record import record_of
from kansformer.errors import ProofError

IDS = torch.arange(1, 13).reshape(1, 12)


def test_what_it_writes_loads_and_computes_the_same(run, tiny, tmp_path):
    output = tmp_path / "new" / "kan"
    result = run("convert", tiny, output)
    assert result.exit_code == 0, result.output
    assert "Converted 2 sites, each proved equal to the bit" in result.stdout
    assert "Saved model and tokenizer" in result.stdout and str(output) in result.stdout
    model, plain = (AutoModelForCausalLM.from_pretrained(path) for path in (output, tiny))
    assert is_converted(model) and type(model) is type(plain)
    assert torch.equal(model(IDS).logits, plain(IDS).logits)
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer("the dog") == AutoTokenizer.from_pretrained(tiny)("the dog")
    assert [path.name for path in output.parent.iterdir()] == ["kan"]


def test_every_option_reaches_the_config(run, tiny, tmp_path):
    options = (
        "--basis rational --grid-size 3 --order 4 --domain -2 3 --edges group --groups 4 --slots act,input --layers=-1 "
        "--dtype bfloat16 --no-verify"
    )
    result = run("convert", tiny, tmp_path / "kan", *options.split())
    assert result.exit_code == 0, result.output
    assert "not proved" in result.stdout
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "kan")
    config = record_of(model).config
    assert (config.basis, config.grid_size, config.order, config.domain) == ("rational", 3, 4, (-2.0, 3.0))
    assert (config.edges, config.groups, config.slots, config.layers) == ("group", 4, ("input", "act"), (-1,))
    assert model.dtype == torch.bfloat16
    options = "--edges low_rank --rank 2 --slots down --layers 1:"
    result = run("convert", tiny, tmp_path / "ranks", *options.split())
    assert result.exit_code == 0, result.output
    config = record_of(AutoModelForCausalLM.from_pretrained(tmp_path / "ranks")).config
    assert (config.edges, config.rank, config.slots, config.layers) == ("low_rank", 2, ("down",), "1:")


def test_curves_of_a_file_are_shared_and_fixed(run, refused, tiny, tmp_path):
    source = convert(AutoModelForCausalLM.from_pretrained(tiny), KANConfig(edges="group", groups=4))
    freeze_curves(randomize_curves(source), tmp_path / "found.safetensors", share="model")
    given = ("--curves", tmp_path / "found.safetensors", "--share", "model")
    result = run("convert", tiny, tmp_path / "kan", *given, "--fixed")
    assert result.exit_code == 0, result.output
    assert "proved equal to the bit, with the curves found@" in result.stdout
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "kan")
    config, acts = record_of(model).config, [layer.mlp.act_fn for layer in model.model.layers]
    assert (config.share, config.trainable, config.groups) == ("model", False, 4)
    assert acts[0].coefficients is acts[1].coefficients and not acts[0].coefficients.requires_grad
    assert "trainable=False without curves" in refused("convert", tiny, tmp_path / "new", "--fixed")
    assert "no curves 'valley'" in refused("convert", tiny, tmp_path / "new", "--curves", "valley")


def test_models_with_named_activations_are_read_and_unknown_ones_named(run, refused, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "named")
    file = tmp_path / "named" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"hidden_act": "silu-cosine"}))
    result = run("convert", tmp_path / "named", tmp_path / "kan")
    assert result.exit_code == 0 and "each proved equal to the bit" in result.stdout, result.output
    file.write_text(json.dumps(config | {"hidden_act": "silu-sine"}))
    sentence = refused("convert", tmp_path / "named", tmp_path / "new")
    assert "transformers does not know the activation 'silu-sine'. In Python, register it first, by" in sentence


def test_only_no_verify_skips_the_proof(run, refused, tiny, tmp_path, monkeypatch):
    def fail(model, site, modules):
        raise ProofError(f"{site.path} differs.")

    monkeypatch.setattr(sys.modules["kansformer.conversion.convert"], "verify_site", fail)
    assert refused("convert", tiny, tmp_path / "kan") == "model.layers.0.mlp differs."
    assert run("convert", tiny, tmp_path / "kan", "--no-verify").exit_code == 0


def test_heads_are_kept_and_a_missing_tokenizer_is_said(run, tmp_path):
    config = BertConfig(
        vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_labels=5
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    result = run("convert", tmp_path / "bert", tmp_path / "kan")
    assert result.exit_code == 0, result.output
    assert "Saved the model (its source has no tokenizer)" in result.stdout
    model = BertForSequenceClassification.from_pretrained(tmp_path / "kan")
    assert is_converted(model) and model.classifier.out_features == 5
    assert is_converted(AutoModel.from_pretrained(tmp_path / "kan", add_pooling_layer=True))


def test_a_damaged_tokenizer_or_processor_is_said(run, refused, tiny, tmp_path):
    source = shutil.copytree(tiny, tmp_path / "damaged")
    (source / "preprocessor_config.json").write_text("{broken")
    with pytest.warns(UserWarning, match="The processor of .* cannot be read, its tokenizer can: .*not a valid JSON"):
        assert "Saved model and tokenizer" in run("convert", source, tmp_path / "kan").stdout
    (source / "preprocessor_config.json").unlink()
    (source / "tokenizer.json").write_text("{broken")
    sentence = refused("convert", source, tmp_path / "new")
    assert sentence.startswith(f"The tokenizer of '{source}' cannot be read: Expecting property name")
    assert sentence.endswith("out of the folder to go on without it: tokenizer.json, tokenizer_config.json.")
    for file in source.glob("tokenizer*"):
        file.unlink()
    assert "its source has no tokenizer" in run("convert", source, tmp_path / "new").stdout
    (source / "preprocessor_config.json").write_text("{broken")
    assert "The processor of" in refused("convert", source, tmp_path / "third")


def test_weights_that_a_checkpoint_lacks_are_said(run, tmp_path):
    shape = dict(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**shape, tie_word_embeddings=False))
    model.model.save_pretrained(tmp_path / "body")
    settings = json.loads((tmp_path / "body/config.json").read_text()) | {"architectures": ["LlamaForCausalLM"]}
    (tmp_path / "body/config.json").write_text(json.dumps(settings))
    with pytest.warns(UserWarning, match="1 parameter of a LlamaForCausalLM, such as lm_head.weight: they are random"):
        assert run("convert", tmp_path / "body", tmp_path / "kan").exit_code == 0


def test_the_plan_alone_writes_nothing(run, tiny, tmp_path):
    result = run("convert", tiny, tmp_path / "kan", "--plan-only")
    assert result.exit_code == 0, result.output
    assert "model.layers.*.mlp" in result.stdout and "Converted" not in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--basis wavelet", "Unknown basis 'wavelet'."),
        ("--slots act,attention", "Unknown slot 'attention'. Choose any of: input, up, gate, act, down."),
        ("--slots ,", "No slot was chosen"),
        ("--edges full", "edges='full' need weights, which the slot 'act' does not have."),
        ("--layers 7", "There is no layer 7: choose from 0 to 1"),
        ("--layers first", "Unknown layers 'first'."),
        ("--edges group --groups 7", "groups=7 does not divide the 24 input channels."),
        ("--slots down --edges low_rank --rank 17", "rank=17 is above 16, the smaller width of a layer from 24 to 16"),
        ("--dtype int8", "Unknown dtype 'int8'. Choose one of: auto, float32, float16, bfloat16."),
    ],
)
def test_bad_settings_end_in_a_sentence(refused, tiny, tmp_path, options, sentence):
    assert sentence in refused("convert", tiny, tmp_path / "kan", *options.split())
    assert not list(tmp_path.iterdir())


def test_a_used_output_is_refused(refused, tiny, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    assert refused("convert", tiny, tmp_path).endswith("is not empty. Choose another one, or remove it first.")
    assert "note.txt' is a file." in refused("convert", tiny, tmp_path / "note.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_it_writes_into_the_current_folder(run, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("convert", tiny, ".")
    assert result.exit_code == 0 and " 0 bytes" not in result.stdout, result.output
    assert os.path.samefile(".", tmp_path) and (tmp_path / "model.safetensors").is_file()


def test_missing_sources_are_named(refused, tiny, tmp_path):
    kan = tmp_path / "kan"
    assert refused("convert", tmp_path / "nowhere", kan) == f"There is no file or folder '{tmp_path / 'nowhere'}'."
    assert "There is no file or folder" in refused("convert", "model.gguf", kan)
    assert "is a file. Give the folder" in refused("convert", tiny / "config.json", kan)
    (tmp_path / "broken.gguf").write_bytes(b"nothing")
    assert "broken.gguf' cannot be loaded" in refused("convert", tmp_path / "broken.gguf", kan)
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("convert", tmp_path / "empty", kan)
    assert not kan.exists()


@pytest.mark.parametrize(
    "change",
    [None, {"hidden_size": "x"}, {"num_attention_heads": 0}, {"architectures": [3]}, {"dtype": "foo"}],
    ids=str,
)
def test_a_damaged_config_is_a_sentence(refused, tiny, tmp_path, change):
    shutil.copytree(tiny, tmp_path / "damaged")
    file = tmp_path / "damaged" / "config.json"
    file.write_text(json.dumps(change and json.loads(file.read_text()) | change))
    assert "damaged' cannot be loaded: " in refused("convert", tmp_path / "damaged", tmp_path / "kan")
    assert not (tmp_path / "kan").exists()


def test_converting_twice_is_refused_before_it_is_loaded(run, refused, tiny, tmp_path, monkeypatch):
    run("convert", tiny, tmp_path / "once")
    sentence = f"'{tmp_path / 'once'}' has curves already. Convert the model that it was made from instead."
    monkeypatch.setattr("kansformer.cli.convert.load_model", None)
    assert refused("convert", tmp_path / "once", tmp_path / "twice") == sentence
    assert refused("convert", tmp_path / "once", tmp_path / "twice", "--plan-only") == sentence
    assert not (tmp_path / "twice").exists()


def test_a_failure_while_saving_leaves_nothing(run, refused, tiny, tmp_path, monkeypatch):
    def fail(self, folder, *args, **kwargs):
        (folder / "config.json").write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fail)
    assert refused("convert", tiny, tmp_path / "kan") == "No space left on device"
    assert not list(tmp_path.iterdir())
