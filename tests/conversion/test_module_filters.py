"""`target_modules` and `exclude_modules`: which slots take curves, and what the error lists where none would."""

import json

import pytest
import torch
from tiny_models import assert_same_state, make, randomize_curves, snapshot, tiny_llama
from transformers import AutoModelForCausalLM

from kansformer import KANConfig, convert, load_curves, plan_conversion, save_curves
from kansformer.conversion import replace_feed_forwards
from kansformer.errors import ConfigError, ConversionStateError
from kansformer.nn.curves import curved_modules

CHOSEN = {
    "a name": (dict(target_modules=["act_fn"]), ["0.mlp.act_fn", "1.mlp.act_fn"]),
    "the end of a path": (dict(target_modules=["layers.1.mlp.act_fn"]), ["1.mlp.act_fn"]),
    "a network": (dict(slots=("input", "act"), target_modules=["0.mlp"]), ["0.mlp.input_curve", "0.mlp.act_fn"]),
    "an expression": (dict(slots=("up", "down"), target_modules=r".*\.1\..*_proj"),
                      ["1.mlp.up_proj", "1.mlp.down_proj"]),
    "all but": (dict(exclude_modules=["layers.0.mlp"]), ["1.mlp.act_fn"]),
    "some but": (
        dict(slots=("up", "down"), target_modules=["mlp"], exclude_modules=r".*0\.mlp\.down_proj"),
        ["0.mlp.up_proj", "1.mlp.up_proj", "1.mlp.down_proj"],
    ),
    "in some layers": (dict(layers=1, target_modules=["mlp"]), ["1.mlp.act_fn"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CHOSEN)
def test_slots_are_chosen_by_module(case, tmp_path):
    settings, expected = CHOSEN[case]
    config, model = KANConfig(**settings), tiny_llama().eval()
    plan = plan_conversion(model, config)
    convert(model, config)
    assert sorted(path for path, _ in curved_modules(model)) == sorted(f"model.layers.{path}" for path in expected)
    assert plan.parameters_after == sum(parameter.numel() for parameter in model.parameters())
    assert not plan.skipped and str(plan)
    randomize_curves(model).save_pretrained(tmp_path / "whole")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    ids = torch.arange(12).reshape(2, 6)
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert again.config.quantization_config.config == config == KANConfig.from_pretrained(tmp_path / "whole")
    curves = save_curves(model, tmp_path / "curves")
    assert torch.equal(load_curves(tiny_llama().eval(), curves)(ids).logits, model(ids).logits)
    assert KANConfig.from_pretrained(curves) == config
    written = json.loads((tmp_path / "whole" / "config.json").read_text())["quantization_config"]
    assert written["format_version"] == 4


def test_bias_free_names_of_another_family():
    model = make("gpt2")
    convert(model, KANConfig(slots=("up", "down"), target_modules=["c_fc", "c_proj"], exclude_modules=["h.0.mlp"]))
    assert [path for path, _ in curved_modules(model)] == ["h.1.mlp.c_fc", "h.1.mlp.c_proj"]


REFUSED = {
    "no such name": (dict(target_modules=["up_proj"]), r"target_modules: 'up_proj' matches no module of the slot act\. "
                     r"Choose from: act_fn, mlp; in full, such as 'model\.layers\.0\.mlp\.act_fn'"),
    "one of two names": (dict(target_modules=["act_fn", "gelu"]), "target_modules: 'gelu' matches no module"),
    "no such expression": (dict(slots=("up", "act"), target_modules="act_fn"), "target_modules: 'act_fn' matches no "
                           "module of the slots up, act. Choose from: up_proj, mlp, act_fn; in full"),
    "nothing to exclude": (dict(exclude_modules=["layers.7.mlp"]), "exclude_modules: 'layers.7.mlp' matches no module"),
    "nothing is left": (dict(target_modules=["mlp"], exclude_modules=r".*act.*"),
                        r"target_modules=\('mlp',\), exclude_modules='\.\*act\.\*' leaves no module of the slot act"),
    "a slot is left out": (dict(slots=("up", "act"), target_modules=["act_fn"]),
                           r"leaves no slot 'up', which slots=\('up', 'act'\) asks for\. Take it out of the slots"),
    "in another layer": (dict(layers=0, target_modules=["1.mlp"]), "target_modules: '1.mlp' matches no module"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_matches_nothing_is_an_error_that_lists_what_there_is(case):
    settings, sentence = REFUSED[case]
    model = tiny_llama()
    before = snapshot(model)
    for change in (plan_conversion, convert):
        with pytest.raises(ConfigError, match=sentence):
            change(model, KANConfig(**settings))
    assert_same_state(model, before)


def test_the_filters_of_a_checkpoint_are_part_of_its_settings(tmp_path):
    convert(tiny_llama(), KANConfig(target_modules=["0.mlp"])).save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=KANConfig(target_modules=["0.mlp"]))
    with pytest.raises(
        ConversionStateError, match=r"with target_modules=\('0.mlp',\), and .* asks for target_modules=None"
    ):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=KANConfig())


def test_networks_without_chosen_slots_are_not_narrowed():
    settings = dict(edges="full", slots=("up", "down"), grid_size=2, target_modules=["0.mlp"])
    plan, model = plan_conversion(tiny_llama(), KANConfig(**settings), hidden=8), tiny_llama()
    replace_feed_forwards(model, KANConfig(**settings), hidden=8)
    assert plan.parameters_after == sum(parameter.numel() for parameter in model.parameters())
