"""Checkpoints that were changed by hand, saved incompletely, or written by a newer package are refused by name."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from kansformer import KANConfig
from kansformer.conversion.transformers_patches import check_action_ran, run_after_loading
from kansformer.errors import CheckpointError

ACT = "model.layers.0.mlp.act_fn"
SLOTS = KANConfig(slots=("act", "down"), edges="group", basis="rational", groups=4)


@pytest.fixture
def checkpoint(make_converted, tmp_path):
    make_converted("llama", SLOTS).save_pretrained(tmp_path)
    return tmp_path


def change_weights(path, change):
    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def change_settings(path, **values):
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] |= values
    (path / "config.json").write_text(json.dumps(config))


def load_fails(path, match, **options):
    with pytest.raises(CheckpointError, match=match):
        AutoModelForCausalLM.from_pretrained(path, **options)


@pytest.mark.parametrize("name", ["coefficients", "denominator", "domain"])
def test_a_missing_curve_tensor(name, checkpoint):
    change_weights(checkpoint, lambda weights: weights.pop(f"{ACT}.{name}"))
    load_fails(checkpoint, rf"do not fit its config: {re.escape(ACT)}\.{name} is missing\.")


def test_several_missing_ones_are_counted(checkpoint):
    def change(weights):
        for key in [k for k in weights if k.endswith("coefficients")]:
            del weights[key]

    change_weights(checkpoint, change)
    load_fails(checkpoint, rf"{re.escape(ACT)}\.coefficients is missing \(and 3 more\)\.")


def test_a_missing_one_is_found_with_disk_offload_and_from_the_base_class(checkpoint):
    change_weights(checkpoint, lambda weights: weights.pop(f"{ACT}.domain"))
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.act_fn\.domain is missing\."):
        AutoModel.from_pretrained(checkpoint)
    places = {"model": "disk", "lm_head": "cpu"}
    load_fails(checkpoint, "domain is missing", device_map=places, offload_folder=checkpoint / "offloaded")


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("name", ["coefficients", "domain"])
def test_a_misshapen_curve_tensor(name, ignore, checkpoint):
    change_weights(checkpoint, lambda weights: weights.update({f"{ACT}.{name}": torch.ones(3, 2)}))
    load_fails(
        checkpoint,
        rf"{re.escape(ACT)}\.{name} has shape \(3, 2\) instead of \(4, \d+\)\.",
        ignore_mismatched_sizes=ignore,
    )


def test_other_misshapen_weights_stay_with_transformers(checkpoint):
    change_weights(checkpoint, lambda weights: weights.update({"lm_head.weight": torch.zeros(5, 16)}))
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(checkpoint)
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint, ignore_mismatched_sizes=True)
    assert loaded.lm_head.weight.shape == (24, 16)


@pytest.mark.parametrize(
    "key",
    [f"{ACT}.mix", "model.layers.0.mlp.gate_proj.coefficients", "model.layers.7.mlp.act_fn.coefficients"],
)
def test_curve_weights_that_no_slot_takes(key, checkpoint):
    change_weights(checkpoint, lambda weights: weights.update({key: torch.zeros(4, 6)}))
    load_fails(checkpoint, rf"{re.escape(key)} does not belong to a slot of the config\.")


def test_a_slot_taken_out_of_the_config(checkpoint):
    sites = json.loads((checkpoint / "config.json").read_text())["quantization_config"]["sites"]
    change_settings(checkpoint, sites=sites[1:])
    load_fails(checkpoint, "does not belong to a slot of the config")


def test_other_unexpected_weights_are_no_error(checkpoint):
    change_weights(checkpoint, lambda weights: weights.update({"model.extra.weight": torch.zeros(2)}))
    AutoModelForCausalLM.from_pretrained(checkpoint)


def test_a_newer_format(checkpoint):
    change_settings(checkpoint, format_version=6)
    load_fails(checkpoint, r"format version 6; this package reads up to 5\. Upgrade it: pip install --upgrade kansform")


def test_an_unknown_setting(checkpoint):
    change_settings(checkpoint, splines="yes")
    load_fails(checkpoint, r"settings are wrong: Unknown setting 'splines'\. Choose from: basis, ")


def test_an_impossible_setting(checkpoint):
    change_settings(checkpoint, basis="wavelet")
    load_fails(checkpoint, "settings are wrong: .*wavelet")


def site(**changed):
    return {"slot": "down", "path": "layers.0.mlp.down_proj", "features": 24} | changed


@pytest.mark.parametrize(
    ("sites", "match"),
    [
        ([], "name no sites"),
        (
            [site(path="layers.9.mlp.down_proj")],
            r"curves at model\.layers\.9\.mlp\.down_proj, but LlamaFor.* has no such",
        ),
        ([site(features=16)], r"curves for 16 inputs at model\.layers\.0\.mlp\.down_proj, .* with 24 inputs"),
        ([site(path="layers.0.mlp")], r"curves for 24 inputs at model\.layers\.0\.mlp, where this model has LlamaMLP"),
        ([site(slot="act", path="layers.0.mlp.hidden_size")], r"an activation at .*hidden_size, which is 16 here"),
        ([site(slot="act", features=18)], r"an activation at model\.layers\.0\.mlp\.down_proj, which is Linear\("),
        ([site(slot="act", path="layers.0.mlp.act_fn", features=18)], "groups=4 does not divide the 18"),
        ([site(), site()], "name a slot twice"),
        ([site(slot="attention")], "Unknown slot of a site entry 'attention'"),
        ([site(path="../x")], "not a module's path"),
        ([site(extra=1)], "must have the keys slot, path and features"),
    ],
)
def test_wrong_sites(sites, match, checkpoint):
    change_settings(checkpoint, sites=sites)
    load_fails(checkpoint, match)


@pytest.mark.parametrize("path", ["layers.0.mlp.forward", "layers.0.mlp.__class__", "layers.0.share_memory"])
def test_a_site_that_names_a_method_is_no_activation(path, checkpoint):
    change_settings(checkpoint, sites=[site(slot="act", path=path)])
    load_fails(checkpoint, "but LlamaForCausalLM has no such module")


@pytest.mark.parametrize(
    ("place", "values", "match"),
    [
        ("quantization_config", {"edges": "low_rank", "rank": 10**12}, r"curves of \d[\d,]{14,} numbers up to .* hold"),
        ("quantization_config", {"grid_size": 10**12}, "grid_size must be a whole number from 1 to 10000"),
        ("quantization_config", {"sites": [site(slot="act", path="layers.0.mlp.act_fn", features=10**12)],
                                 "edges": "channel"}, r"curves of \d[\d,]{14,} numbers up to .* hold"),
        ("quantization_config", {"rank": 10**30}, "whole number of 100 bits; 64 is the maximum"),
        (None, {"num_hidden_layers": 10**9}, "asks for num_hidden_layers=1000000000; 1000 is the maximum"),
        (None, {"num_hidden_layers": 900}, r"a model of [\d,]+ numbers in [\d,]+ tensors, and its files hold"),
        (None, {"vocab_size": 10**10}, r"a model of 320,000,[\d,]+ numbers in .* tensors, and its files hold"),
        (None, {"auto_map": ["x"]}, r"auto_map in the checkpoint's config must be a table, got \['x'\]"),
    ],
)  # fmt: skip
def test_what_would_take_enormous_memory_is_refused_before(place, values, match, checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (config if place is None else config[place]).update(values)
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=match):
        LlamaForCausalLM.from_pretrained(checkpoint)


@pytest.mark.parametrize("key", ["model.layers.1.self_attn.q_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_a_missing_weight_is_not_made_up(key, checkpoint):
    change_weights(checkpoint, lambda weights: weights.pop(key))
    load_fails(checkpoint, rf"do not fit its config: {re.escape(key)} is missing\.")


def test_a_new_head_may_be_missing_but_no_layer(checkpoint):
    model = LlamaForSequenceClassification.from_pretrained(checkpoint, num_labels=3, pad_token_id=0)
    assert model.score.weight.isfinite().all()
    change_weights(checkpoint, lambda weights: weights.pop("model.layers.1.input_layernorm.weight"))
    with pytest.raises(CheckpointError, match=r"layers\.1\.input_layernorm\.weight is missing\."):
        LlamaForSequenceClassification.from_pretrained(checkpoint, num_labels=3, pad_token_id=0)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("coefficients", float("nan"), "non-finite values"),
        ("domain", float("inf"), "non-finite values"),
        ("domain", 1.0, "intervals without a width"),
    ],
)
def test_curves_that_no_model_can_use(name, value, match, checkpoint):
    change_weights(checkpoint, lambda weights: weights[f"{ACT}.{name}"].fill_(value))
    load_fails(checkpoint, rf"^{re.escape(ACT)}\.{name} has {match}")


def test_another_model_with_the_config(checkpoint):
    config = LlamaConfig.from_pretrained(checkpoint)
    config.num_hidden_layers = 1
    with pytest.raises(
        CheckpointError, match=r"model\.layers\.1\.mlp\.act_fn, but LlamaForCausalLM has no such module"
    ):
        LlamaForCausalLM.from_pretrained(checkpoint, config=config)


def test_a_way_of_loading_that_passes_the_check_by(make_converted):
    model = make_converted()
    run_after_loading(model, lambda loading_info: None)
    with pytest.raises(CheckpointError, match="in which its curves cannot be checked"):
        check_action_ran(model)
    check_action_ran(model)  # nothing of it is left


def test_a_failed_load_leaves_later_ones_alone(checkpoint, make_converted, outputs, tmp_path_factory):
    change_weights(checkpoint, lambda weights: weights.pop(f"{ACT}.domain"))
    load_fails(checkpoint, "is missing")
    model, sound = make_converted(), tmp_path_factory.mktemp("sound")
    model.save_pretrained(sound)
    assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(sound)), outputs(model))


EDITS = {
    "order": dict(order=2, grid_size=6),
    "extrapolation": dict(extrapolation="clamp"),
    "basis": dict(basis="rbf", grid_size=7),
    "domain": dict(domain=[-3.0, 3.0]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_settings_that_contradict_the_weights(edit, make_converted, outputs, tmp_path):
    model = make_converted("llama", KANConfig(basis="bspline", grid_size=5, order=3))
    model.save_pretrained(tmp_path)
    change_settings(tmp_path, **EDITS[edit])
    load_fails(tmp_path, "settings were changed after it was saved, so its curves would be other functions.*remove 'di")


def test_a_slot_moved_to_another_layer(make_converted, tmp_path):
    make_converted("llama", KANConfig(layers=0)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({key.replace("0.mlp.act_fn", "1.mlp.act_fn"): tensor for key, tensor in weights.items()},
              tmp_path / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    settings = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    change_settings(tmp_path, sites=[site | {"path": "layers.1.mlp.act_fn"} for site in settings["sites"]])
    load_fails(tmp_path, "settings were changed")


def swap_layers(weights):
    pairs = [(key, key.replace("layers.0", "layers.1")) for key in weights if key.startswith(ACT)]
    for one, other in pairs:
        weights[one], weights[other] = weights[other], weights[one]


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights[f"{ACT}.coefficients"][0, 0].add_(1),
        lambda weights: weights[f"{ACT}.domain"].mul_(2),
        lambda weights: weights[f"{ACT}.denominator"].mul_(2),
        lambda weights: weights.update({f"{ACT}.coefficients": weights[f"{ACT}.coefficients"].bfloat16()}),
        swap_layers,
    ],
    ids=["coefficients", "domain", "denominator", "dtype", "layers"],
)
def test_curves_that_were_not_saved_with_the_settings(change, checkpoint):
    change_weights(checkpoint, change)
    load_fails(checkpoint, "curves are not those that were saved with its kansformer settings")
    for options in ({"device_map": {"": "disk"}, "offload_folder": checkpoint / "off"}, {"dtype": torch.bfloat16}):
        load_fails(checkpoint, "curves are not those", **options)


def test_a_shard_that_is_missing_is_named(make_converted, tmp_path):
    make_converted().save_pretrained(tmp_path, max_shard_size="6KB")
    lost = sorted(tmp_path.glob("model-*.safetensors"))[0]
    lost.unlink()
    index = tmp_path / "model.safetensors.index.json"  # transformers looks for the shards only where they are named so
    index.write_text(index.read_text().replace(lost.name, f"../{tmp_path.name}/{lost.name}"))
    load_fails(tmp_path, f"{lost.name}' is not there, though the checkpoint's index names it")


def test_the_config_of_another_training_of_the_same_model(make_converted, tmp_path):
    model = make_converted()
    model.save_pretrained(tmp_path / "one")
    with torch.no_grad():
        model.model.layers[0].mlp.act_fn.coefficients.add_(1)
    model.save_pretrained(tmp_path / "other")
    (tmp_path / "one" / "config.json").write_bytes((tmp_path / "other" / "config.json").read_bytes())
    load_fails(tmp_path / "one", "curves are not those")


@pytest.mark.filterwarnings("ignore:.*(offload|meta device).*")
def test_a_checkpoint_with_a_digest_loads_in_every_way(checkpoint, outputs):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    expected = outputs(model)
    model.save_pretrained(checkpoint / "shards", max_shard_size="3KB")
    for options in ({}, {"dtype": torch.bfloat16}, {"dtype": torch.float16}, {"dtype": torch.float64}):
        assert AutoModelForCausalLM.from_pretrained(checkpoint / "shards", **options) is not None
    places = {"model": "disk", "lm_head": "cpu"}
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint, device_map=places, offload_folder=checkpoint / "off")
    assert torch.equal(outputs(loaded), expected)
    # a config that other weights share is of no use in telling them apart
    model.half().save_pretrained(checkpoint / "shards", variant="fp16")
    for variant in (None, "fp16"):
        AutoModelForCausalLM.from_pretrained(checkpoint / "shards", variant=variant)


def test_without_a_digest_a_checkpoint_loads_as_before(make_converted, tmp_path):
    make_converted().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    for version in (3, 1):
        settings = config["quantization_config"] | {"order": 2, "grid_size": 6, "format_version": version}
        del settings["digest"]
        file.write_text(json.dumps(config | {"quantization_config": settings}))
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("digest", ["", {}, {"settings": 1, "curves": "a"}, {"settings": "a"}])
def test_a_broken_digest(digest, checkpoint):
    change_settings(checkpoint, digest=digest)
    load_fails(checkpoint, "digest of a checkpoint must have the texts settings and curves")
