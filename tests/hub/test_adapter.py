"""Curves without their model: small files, the same logits, and a sentence for everything that does not fit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import randomize_curves
from transformers import AutoModelForCausalLM, BertConfig, BertForSequenceClassification

from kansformer import KANConfig, convert, is_converted, load_curves, revert, save_curves
from kansformer.conversion import replace_feed_forwards
from kansformer.embedded import embedded_model_path
from kansformer.errors import CheckpointError, ConfigError, ConversionStateError
from kansformer.hub import write_card
from kansformer.hub.adapter import SETTINGS, TENSORS

FIRST = "layers.0.mlp.act_fn.coefficients"
CONFIGS = {
    "llama": KANConfig(slots=("input", "up", "gate", "act", "down")),
    "gpt2": KANConfig(slots=("up", "act"), edges="low_rank", rank=2, basis="rational"),
    "bert": KANConfig(slots=("input", "down"), edges="group", groups=4, layers=1),
}


@pytest.fixture
def saved(make_converted, tmp_path):
    return save_curves(make_converted(), tmp_path / "curves")


def change_tensors(folder, **changes):
    tensors = load_file(folder / TENSORS)
    for name, change in changes.items():
        change(tensors[FIRST if name == "first" else name])
    save_file(tensors, folder / TENSORS)


def test_edited_settings_or_curves_are_refused_and_older_files_are_not(make, saved):
    settings = json.loads((saved / SETTINGS).read_text())
    change_settings(saved, conversion=settings["conversion"] | {"extrapolation": "clamp"})
    assert_refused(make("llama"), saved, "settings were changed after it was saved")
    with pytest.raises(CheckpointError, match="settings were changed after it was saved"):
        write_card(saved)
    change_settings(saved, conversion=settings["conversion"])
    change_tensors(saved, first=lambda tensor: tensor.mul_(2))
    assert_refused(make("llama"), saved, "curves are not those that were saved with")
    del settings["digest"]
    (saved / SETTINGS).write_text(json.dumps(settings))
    assert is_converted(load_curves(make("llama"), saved))


def change_settings(folder, **values):
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps({**settings, **values}))


def assert_refused(model, folder, sentence, error=CheckpointError):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(error, match=sentence):
        load_curves(model, folder)
    after = model.state_dict()
    assert not is_converted(model) and list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_plain_model_takes_them_and_has_the_same_logits(family, make, make_converted, outputs, tmp_path):
    tuned = make_converted(family, CONFIGS[family])
    save_curves(tuned, tmp_path / "curves")
    model = load_curves(make(family), tmp_path / "curves")
    assert torch.equal(outputs(model), outputs(tuned)) and not torch.equal(outputs(model), outputs(make(family)))
    model.save_pretrained(tmp_path / "whole")
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["quantization_config"]["sites"]
    assert torch.equal(outputs(revert(model)), outputs(make(family)))


def test_the_files_are_a_contract(saved):
    assert {file.name for file in saved.iterdir()} == {"curves.json", "curves.safetensors"}
    assert {FIRST, FIRST.replace("coefficients", "domain")} <= set(load_file(saved / TENSORS))
    settings = json.loads((saved / SETTINGS).read_text())
    assert set(settings) == {"format_version", "architecture", "conversion", "also", "base", "head", "digest"}
    assert settings["conversion"]["quant_method"] == "kansformer" and set(settings["head"]) == {"lm_head.weight"}
    entry = settings["base"]["embed_tokens.weight"]
    assert entry["shape"] == [24, 16] and entry["dtype"] == "float32" and {"checksum", "rounded"} < set(entry)


def test_they_are_small_beside_the_model(tmp_path):
    model = convert(AutoModelForCausalLM.from_pretrained(embedded_model_path()))
    sizes = {file.name: file.stat().st_size for file in save_curves(model, tmp_path / "curves").iterdir()}
    assert sizes[TENSORS] < 80_000 and sizes[SETTINGS] < 12_000
    assert 20 * sum(sizes.values()) < (embedded_model_path() / "model.safetensors").stat().st_size


def test_base_and_head_classes_take_the_same_curves(make, make_converted, outputs, tmp_path):
    tuned = make_converted()
    with_head, without = save_curves(tuned, tmp_path / "a"), save_curves(tuned.model, tmp_path / "b")
    assert torch.equal(outputs(load_curves(make("llama").model, with_head)), outputs(tuned.model))
    assert torch.equal(outputs(load_curves(make("llama"), without)), outputs(tuned))


def test_the_same_weights_in_another_dtype_take_them(make, saved, outputs):
    model = load_curves(make("llama").bfloat16(), saved)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert outputs(model).isfinite().all()


def test_curves_keep_a_dtype_of_their_own_beside_the_same_weights(make, make_converted, outputs, tmp_path):
    tuned = make_converted().bfloat16()
    for name, parameter in tuned.named_parameters():
        if name.endswith("coefficients"):
            parameter.data = parameter.data.float() + 1e-4
    save_curves(tuned, tmp_path / "curves")
    model = load_curves(make("llama").bfloat16(), tmp_path / "curves")
    assert model.get_parameter(f"model.{FIRST}").dtype == torch.float32
    assert torch.equal(outputs(model), outputs(tuned))


def test_a_model_with_the_same_curves_takes_new_values(make, saved, outputs):
    model = convert(make("llama"))
    parameter = model.get_parameter(f"model.{FIRST}")
    load_curves(model, saved)
    assert model.get_parameter(f"model.{FIRST}") is parameter and parameter.any()
    assert torch.equal(outputs(model), outputs(load_curves(make("llama"), saved)))


def test_a_new_head_goes_with_them(tmp_path):
    config = BertConfig(
        vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_labels=3
    )
    torch.manual_seed(0)
    tuned = BertForSequenceClassification(config).eval()
    base = {name: tensor.clone() for name, tensor in tuned.bert.state_dict().items()}
    convert(tuned)
    tokens = torch.arange(12).reshape(2, 6)

    def plain():
        model = BertForSequenceClassification(config).eval()
        model.bert.load_state_dict(base)
        return model

    save_curves(tuned, tmp_path / "without")
    assert_refused(plain(), tmp_path / "without", r"1 of \d+ weights differ .* instance classifier.weight.*also=")
    save_curves(tuned, tmp_path / "with", also=["classifier"])
    model = load_curves(plain(), tmp_path / "with")
    assert torch.equal(model(tokens).logits, tuned(tokens).logits)
    with pytest.raises(ConfigError, match="has no module 'score'"):
        save_curves(tuned, tmp_path / "never", also=["score"])
    with pytest.raises(ConfigError, match="'dropout' is not a part .* with weights of its own"):
        save_curves(tuned, tmp_path / "never", also=["dropout"])
    assert not (tmp_path / "never").exists()


def test_a_block_that_stands_at_two_paths(tmp_path):
    def make_stack():
        torch.manual_seed(0)
        first, second = (
            torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.SiLU(), torch.nn.Linear(8, 4)) for _ in "12"
        )
        return torch.nn.Sequential(first, second, first)

    model, x = randomize_curves(convert(make_stack())), torch.randn(3, 4)
    save_curves(model, tmp_path / "curves")
    assert torch.equal(load_curves(make_stack(), tmp_path / "curves")(x), model(x))


def test_other_weights_are_refused_unless_they_are_asked_for(make, saved):
    model = make("llama")
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-6  # far less than bfloat16 can tell
    assert_refused(model, saved, r"1 of \d+ weights differ from those .* instance norm.weight")
    assert is_converted(load_curves(model, saved, check_weights=False))


def test_other_models_are_refused(make, saved):
    assert_refused(make("gpt2"), saved, "belong to another model: this one has no weight")
    assert_refused(make("llama", tie_word_embeddings=False, attention_bias=True), saved, "theirs had no weight")
    other = make("llama")
    other.resize_token_embeddings(30, mean_resizing=False)
    assert_refused(other, saved, r"embed_tokens.weight has shape \(30, 16\) here and had \(24, 16\) there")


def test_a_model_with_other_curves_is_refused(make, saved):
    model = convert(make("llama"), KANConfig(slots=("down",)))
    with pytest.raises(ConversionStateError, match="has other curves already"):
        load_curves(model, saved)
    assert model.get_submodule("model.layers.0.mlp.down_proj.coefficients".rpartition(".")[0]).coefficients is not None


def test_what_cannot_stand_alone_is_refused(make, make_converted, tmp_path):
    with pytest.raises(ConversionStateError, match="not converted, so there are no curves"):
        save_curves(make("llama"), tmp_path / "x")
    narrow = replace_feed_forwards(make("llama"), KANConfig(), hidden=8)
    with pytest.raises(ConversionStateError, match="replaced by narrower ones"):
        save_curves(narrow, tmp_path / "x")
    model = make_converted()
    model.get_parameter(f"model.{FIRST}").data[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match=f"{FIRST} has non-finite values"):
        save_curves(model, tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"The weight model.embed_tokens.weight is not in memory"):
        save_curves(convert(make("llama").to("meta"), verify=False), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_only_a_folder_of_curves_is_written_over(make_converted, saved, outputs):
    model = make_converted(config=KANConfig(slots=("down",)))
    save_curves(model, saved)
    assert not any("act_fn" in name for name in load_file(saved / TENSORS))
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty"):
        save_curves(model, saved)
    assert (saved / "notes.txt").exists()


def test_wrong_files_are_refused(make, saved, tmp_path):
    model = make("llama")
    assert_refused(model, tmp_path, "holds no curves: curves.json and curves.safetensors")
    change_tensors(saved, first=lambda values: values[0, 0].fill_(torch.nan))
    assert_refused(model, saved, f"{FIRST} has non-finite values")
    change_tensors(saved, first=lambda values: values.zero_(), **{FIRST.replace("coefficients", "domain"): flip})
    assert_refused(model, saved, "domain has intervals without a width")


def flip(domain):
    domain.copy_(domain.flip(-1))


def test_tensors_that_the_settings_do_not_describe_are_refused(make, saved):
    tensors = load_file(saved / TENSORS)
    save_file({name: tensor for name, tensor in tensors.items() if name != FIRST}, saved / TENSORS)
    assert_refused(make("llama"), saved, f"{FIRST} is missing in the file")
    save_file({**tensors, "layers.7.x.coefficients": torch.ones(1)}, saved / TENSORS)
    assert_refused(make("llama"), saved, "no place for layers.7.x.coefficients")
    save_file({**tensors, FIRST: torch.ones(3, 8)}, saved / TENSORS)
    assert_refused(make("llama"), saved, r"has shape \(3, 8\) instead of \(24, 8\)")
    (saved / TENSORS).write_bytes(b"no tensors at all")
    assert_refused(make("llama"), saved, "curves.safetensors' cannot be read")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (dict(format_version=2), "has format version 2; this package reads 1"),
        (dict(also=3), "does not say which curves there are"),
        (dict(base=[]), "weights that the curves were trained on are not described"),
        (dict(base={"norm.weight": {"shape": [16]}}), "are not described"),
        (dict(conversion={"format_version": 1}), "name no sites"),
    ],
)
def test_wrong_settings_are_refused(make, saved, values, sentence):
    change_settings(saved, **values)
    assert_refused(make("llama"), saved, sentence)


def test_settings_that_are_no_table_are_refused(make, saved):
    (saved / SETTINGS).write_text("[]")
    assert_refused(make("llama"), saved, "curves.json must hold an object, got list")
    (saved / SETTINGS).write_text("{")
    assert_refused(make("llama"), saved, "is not JSON")
