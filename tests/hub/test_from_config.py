"""A model made from the config of a converted checkpoint has its curves, straight, and what it saves loads again."""

import copy

import pytest
import torch
from tiny_models import assert_same_state
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    LlamaForCausalLM,
)

from kansformer import KANConfig, convert, is_converted, revert
from kansformer.conversion import replace_feed_forwards
from kansformer.conversion.record import record_of
from kansformer.errors import CheckpointError
from kansformer.nn.curves import curved_modules

CONFIGS = {
    "act": KANConfig(),
    "input and groups": KANConfig(slots=("input", "act"), edges="group", domain=(-3.0, 2.0)),
    "low rank": KANConfig(slots=("up", "act", "down"), edges="low_rank", rank=2, basis="rational", layers=1),
    "full": KANConfig(slots=("up", "down"), edges="full", basis="chebyshev"),
}
AUTO = {"llama": AutoModelForCausalLM, "gpt2": AutoModelForCausalLM, "bert": AutoModelForMaskedLM}


def from_config(auto, config, **settings):
    torch.manual_seed(3)
    return auto.from_config(config, **settings).eval()


@pytest.mark.parametrize("settings", CONFIGS)
@pytest.mark.parametrize("family", AUTO)
def test_it_is_what_convert_makes_of_the_plain_model(family, settings, make, make_converted, outputs, tmp_path):
    make_converted(family, CONFIGS[settings]).save_pretrained(tmp_path / "converted")
    config = AutoConfig.from_pretrained(tmp_path / "converted")
    before = copy.deepcopy(config.to_dict())
    model = from_config(AUTO[family], config)
    assert config.to_dict() == before
    plain = from_config(AUTO[family], make(family).config)
    expected = outputs(plain)
    assert torch.equal(outputs(model), expected)
    convert(plain, CONFIGS[settings])
    assert record_of(model) == record_of(plain)
    assert_same_state(model, plain.state_dict())
    model.save_pretrained(tmp_path / "new")
    loaded = AUTO[family].from_pretrained(tmp_path / "new")
    assert_same_state(loaded, model.state_dict())
    assert torch.equal(outputs(loaded), expected)
    assert torch.equal(outputs(revert(model)), expected) and not is_converted(model)


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForSequenceClassification])
def test_other_classes_than_the_one_that_was_saved(auto, make_converted, outputs, tmp_path):
    make_converted().save_pretrained(tmp_path / "converted")
    model = from_config(auto, AutoConfig.from_pretrained(tmp_path / "converted", pad_token_id=0), dtype=torch.bfloat16)
    assert len(list(curved_modules(model))) == 2
    assert {tensor.dtype for tensor in model.parameters()} == {torch.bfloat16}
    model.save_pretrained(tmp_path / "new")
    assert torch.equal(outputs(auto.from_pretrained(tmp_path / "new")), outputs(model))


def test_the_config_of_a_model_in_memory_and_the_meta_device(make_converted, outputs):
    model = make_converted()
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(model.config)
    assert empty.config is not model.config and is_converted(empty)
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.load_state_dict(model.state_dict(), assign=True)
    empty.model.rotary_emb = model.model.rotary_emb  # a buffer that no state dict has
    assert torch.equal(outputs(empty.eval()), outputs(model))


def test_narrower_layers(make, outputs, tmp_path):
    config = KANConfig(edges="full", slots=("up", "down"), layers=1)
    replace_feed_forwards(make("llama"), config, hidden=10).save_pretrained(tmp_path / "narrow")
    model = from_config(AutoModelForCausalLM, AutoConfig.from_pretrained(tmp_path / "narrow"))
    assert model.model.layers[1].mlp.up_proj.weight.shape[0] == 10
    model.save_pretrained(tmp_path / "new")
    assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(tmp_path / "new")), outputs(model))


def test_with_the_checkpoints_own_code(make_converted, outputs, tmp_path):
    make_converted().save_pretrained(tmp_path / "converted")
    config = AutoConfig.from_pretrained(tmp_path / "converted")
    model = from_config(AutoModelForCausalLM, config, trust_remote_code=True)
    assert type(model) is LlamaForCausalLM and is_converted(model)


def test_curves_that_do_not_fit_the_config(make_converted):
    config = copy.deepcopy(make_converted().config)
    config.num_hidden_layers = 1
    with pytest.raises(CheckpointError, match=r"has curves at model.layers.1.mlp.act_fn, but LlamaForCausalLM has no"):
        AutoModelForCausalLM.from_config(config)
    config.quantization_config = config.quantization_config.to_dict() | {"format_version": 99}
    with pytest.raises(CheckpointError, match="format version 99"):
        AutoModelForCausalLM.from_config(config)


def test_a_model_with_another_one_inside_gets_its_curves_once(make, tmp_path):
    replace_feed_forwards(make("llama"), CONFIGS["full"], hidden=10).save_pretrained(tmp_path / "converted")
    config = AutoConfig.from_pretrained(tmp_path / "converted", pad_token_id=0)
    model = from_config(AutoModelForSequenceClassification, config)
    paths = {f"model.layers.{layer}.mlp.{name}" for layer in (0, 1) for name in ("up_proj", "down_proj")}
    assert set(dict(curved_modules(model))) == paths
