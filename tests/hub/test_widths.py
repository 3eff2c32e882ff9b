"""Checkpoints of models with narrower feed-forward networks: format 2, loaded by transformers alone, checked."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import randomize_curves
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from kansformer import KANConfig, is_converted
from kansformer.conversion import ConversionRecord, replace_feed_forwards
from kansformer.conversion.record import narrowed_paths
from kansformer.errors import CheckpointError, ConversionStateError
from kansformer.sites import Slot

CONFIGS = {
    "full": KANConfig(edges="full", slots=("up", "down"), basis="chebyshev", order=2, layers=1),
    "per channel": KANConfig(slots=("input", "act"), layers=1),
}
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def make_narrow(make):
    """make_narrow(family, config, hidden): its curves bent at random."""

    def build(family="llama", config=CONFIGS["full"], hidden=10, **settings):
        return randomize_curves(replace_feed_forwards(make(family, **settings), config, hidden=hidden))

    return build


@pytest.fixture
def checkpoint(make_narrow, tmp_path):
    make_narrow().save_pretrained(tmp_path)
    return tmp_path


def settings_of(path):
    return json.loads((path / "config.json").read_text())["quantization_config"]


def change_settings(path, change):
    config = json.loads((path / "config.json").read_text())
    change(config["quantization_config"])
    (path / "config.json").write_text(json.dumps(config))


def change_weights(path, change):
    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("hidden", [10, 16])  # 16 is the model's own width
@pytest.mark.parametrize("settings", CONFIGS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_saved_and_loaded_bit_for_bit(family, settings, hidden, make_narrow, outputs, tmp_path):
    model = make_narrow(family, CONFIGS[settings], hidden)
    model.save_pretrained(tmp_path / "first")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    assert torch.equal(outputs(loaded), outputs(model))
    assert is_converted(loaded) and narrowed_paths(loaded) == narrowed_paths(model) and len(narrowed_paths(model)) == 1
    loaded.save_pretrained(tmp_path / "second")
    assert settings_of(tmp_path / "second") == settings_of(tmp_path / "first")
    assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(tmp_path / "second")), outputs(model))


def test_head_to_base_and_base_to_head(make_narrow, make, outputs, tmp_path):
    model = make_narrow()
    model.save_pretrained(tmp_path / "head")
    base = AutoModel.from_pretrained(tmp_path / "head")
    assert torch.equal(outputs(base), outputs(model.model))
    assert narrowed_paths(base) == ["layers.1.mlp"] and narrowed_paths(model) == ["model.layers.1.mlp"]
    base.save_pretrained(tmp_path / "base")
    head = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", pad_token_id=0)
    assert torch.equal(outputs(head.model), outputs(base))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes(dtype, checkpoint, outputs):
    whole, half = (AutoModelForCausalLM.from_pretrained(checkpoint, dtype=d) for d in (torch.float32, dtype))
    assert torch.equal(outputs(half), outputs(whole.to(dtype)))


def test_the_settings_are_a_contract(checkpoint):
    settings = settings_of(checkpoint)
    assert settings["format_version"] == 3 and set(settings["digest"]) == {"settings", "curves"}
    assert settings["widths"] == {"layers.1.mlp": 10}
    assert settings["sites"] == [
        {"slot": "up", "path": "layers.1.mlp.up_proj", "features": 16},
        {"slot": "down", "path": "layers.1.mlp.down_proj", "features": 10},
    ]
    assert load_file(checkpoint / "model.safetensors")[DOWN].shape == (16, 10)


def test_without_widths_and_digest_the_first_format_is_written(make_converted, tmp_path):
    make_converted().save_pretrained(tmp_path, variant="fp16")
    assert settings_of(tmp_path)["format_version"] == 1 and not {"widths", "digest"} & set(settings_of(tmp_path))


def test_records_go_through_json():
    slots = (Slot(name="down", path="layers.1.mlp.down_proj", features=10),)
    for widths, version in (({}, 1), ({"layers.1.mlp": 10, "layers.7.mlp": 3}, 2)):
        record = ConversionRecord(KANConfig(slots=("down",)), slots, widths)
        assert record.format_version == version
        assert ConversionRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
        assert record.with_grid_size(9).widths == widths


@pytest.mark.parametrize(
    ("widths", "match"),
    [
        ({"layers.1.mlp": 0}, r"The width of layers\.1\.mlp must be a whole number of at least 1, got 0"),
        ({"layers.1.mlp": True}, "must be a whole number of at least 1, got True"),
        ({"layers.1.mlp": "10"}, "must be a whole number of at least 1, got '10'"),
        ({"../x": 3}, "not a module's path"),
        (["layers.1.mlp"], "must be a table of paths"),
        ({"layers.1.mlp": 25}, r"width does not fit at model\.layers\.1\.mlp: .* from 1 to 24, got 25"),
        ({"layers.9.mlp": 3}, r"with 3 hidden channels at model\.layers\.9\.mlp, but LlamaForCausalLM has none there"),
        ({"layers.1.self_attn": 3}, "has none there"),
        ({"layers.1.mlp": 11}, r"curves for 10 inputs at model\.layers\.1\.mlp\.down_proj, .* with 11 inputs"),
        ({"layers.1.mlp": 10, "layers.0.mlp": 5}, r"layers\.0\.mlp\.\w+\.weight has shape \(\d+, \d+\) instead of"),
        ({}, r"curves for 10 inputs at model\.layers\.1\.mlp\.down_proj, .* with 24 inputs"),
    ],
)
def test_wrong_widths(widths, match, checkpoint):
    change_settings(checkpoint, lambda settings: settings.update(widths=widths))
    with pytest.raises(CheckpointError, match=match):
        AutoModelForCausalLM.from_pretrained(checkpoint)


def test_widths_in_the_first_format_are_unknown(checkpoint):
    change_settings(checkpoint, lambda settings: settings.update(format_version=1) or settings.pop("digest"))
    with pytest.raises(CheckpointError, match="Unknown setting 'widths'"):
        AutoModelForCausalLM.from_pretrained(checkpoint)


@pytest.mark.parametrize("ignore", [False, True])
def test_a_misshapen_weight_of_a_narrowed_layer(ignore, checkpoint):
    change_weights(checkpoint, lambda weights: weights.update({DOWN: torch.zeros(16, 24)}))
    with pytest.raises(CheckpointError, match=rf"{re.escape(DOWN)} has shape \(16, 24\) instead of \(16, 10\)\."):
        AutoModelForCausalLM.from_pretrained(checkpoint, ignore_mismatched_sizes=ignore)


@pytest.mark.parametrize("name", ["up_proj", "gate_proj", "down_proj"])
def test_a_missing_weight_of_a_narrowed_layer(name, checkpoint):
    key = f"model.layers.1.mlp.{name}.weight"
    change_weights(checkpoint, lambda weights: weights.pop(key))
    with pytest.raises(CheckpointError, match=rf"{re.escape(key)} is missing\."):
        AutoModelForCausalLM.from_pretrained(checkpoint)


def test_a_base_weight_of_a_layer_that_kept_its_width_stays_with_transformers(checkpoint):
    change_weights(checkpoint, lambda weights: weights.update({"lm_head.weight": torch.zeros(5, 16)}))
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(checkpoint)
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint, ignore_mismatched_sizes=True)
    weights, state = load_file(checkpoint / "model.safetensors"), loaded.state_dict()
    assert state["lm_head.weight"].shape == (24, 16) and 0 < state["lm_head.weight"].std() < 1
    assert all(torch.equal(state[name], weights[name]) for name in state if name != "lm_head.weight")


def test_a_loaded_model_is_not_reverted(checkpoint):
    from kansformer import revert

    with pytest.raises(ConversionStateError, match="The original layers are gone"):
        revert(AutoModelForCausalLM.from_pretrained(checkpoint))
