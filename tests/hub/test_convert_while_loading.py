"""`from_pretrained(plain, quantization_config=KANConfig(...))`, and what else may stand in `quantization_config`."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    LlamaForCausalLM,
    TorchAoConfig,
)

from kansformer import KANConfig, freeze_curves, is_converted, revert
from kansformer.errors import ConfigError, ConversionStateError, NoSiteError

AUTO = {"llama": AutoModelForCausalLM, "gpt2": AutoModelForCausalLM, "bert": AutoModelForMaskedLM}


@pytest.fixture
def plain(make, tmp_path):
    make("llama").save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", AUTO)
def test_the_logits_are_those_of_the_plain_model(family, dtype, make, outputs, tmp_path):
    make(family).save_pretrained(tmp_path / "plain")
    config = KANConfig(slots=("up", "act", "down"), edges="group", groups=4)
    loaded = AUTO[family].from_pretrained(tmp_path / "plain", quantization_config=config, dtype=dtype)
    reference = AUTO[family].from_pretrained(tmp_path / "plain", dtype=dtype)
    assert torch.equal(outputs(loaded), outputs(reference))
    added = {name: p for name, p in loaded.named_parameters() if name.endswith("coefficients")}
    assert len(added) == 6 and {p.dtype for p in added.values()} == {dtype}
    assert is_converted(loaded) and not loaded.training
    assert not {"hf_quantizer", "is_quantized", "quantization_method"} & set(vars(loaded))
    loaded.save_pretrained(tmp_path / "converted")
    assert torch.equal(outputs(AUTO[family].from_pretrained(tmp_path / "converted", dtype=dtype)), outputs(reference))


@pytest.mark.parametrize("load", [LlamaForCausalLM, AutoModel])
def test_other_classes_and_device_maps(load, plain, outputs):
    loaded = load.from_pretrained(plain, quantization_config=KANConfig(layers=-1), device_map="auto")
    assert [m for m, _ in loaded.named_modules() if m.endswith("act_fn")][-1].endswith("layers.1.mlp.act_fn")
    assert torch.equal(outputs(loaded), outputs(load.from_pretrained(plain)))
    revert(loaded)
    assert not hasattr(loaded.config, "quantization_config")


def test_weights_on_disk_are_refused(plain, tmp_path):
    places = {"model": "disk", "lm_head": "cpu"}
    with pytest.raises(
        ConversionStateError, match=r"stay on disk cannot be converted .* Convert it in memory, save it"
    ):
        AutoModelForCausalLM.from_pretrained(
            plain, quantization_config=KANConfig(), device_map=places, offload_folder=tmp_path
        )


def test_what_convert_refuses_is_refused(plain):
    with pytest.raises(ConfigError, match="There is no layer 5"):
        AutoModelForCausalLM.from_pretrained(plain, quantization_config=KANConfig(layers=5))


def test_a_model_without_ffn(tmp_path):
    from transformers import ResNetConfig, ResNetModel

    sizes = dict(embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1])
    ResNetModel(ResNetConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(NoSiteError, match="convolutional network"):
        ResNetModel.from_pretrained(tmp_path, quantization_config=KANConfig())


def test_a_record_is_no_config(plain, make_converted):
    record = make_converted().config.quantization_config
    with pytest.raises(ConfigError, match=r"pass quantization_config=KANConfig\(\.\.\.\), got ConversionRecord"):
        AutoModelForCausalLM.from_pretrained(plain, quantization_config=record)


def test_equal_settings_are_accepted_and_others_refused(make_converted, outputs, tmp_path):
    model = make_converted("llama", KANConfig(grid_size=4))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=KANConfig(grid_size=4))
    assert torch.equal(outputs(loaded), outputs(model))
    with pytest.raises(
        ConversionStateError, match=r"already, with grid_size=4, .* asks for grid_size=7\. Load it without"
    ):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=KANConfig(grid_size=7))


def test_the_same_given_curves_are_equal_settings(plain, make_converted, outputs, tmp_path):
    trained = make_converted("llama", KANConfig(edges="group", groups=4))
    freeze_curves(trained, tmp_path / "found.safetensors", share="model")
    config = KANConfig(curves=tmp_path / "found.safetensors", share="model", trainable=False)
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=config)
    model.save_pretrained(tmp_path / "model")
    for same in (config, model.config.quantization_config.config):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", quantization_config=same)
        assert torch.equal(outputs(loaded), outputs(model))
    with pytest.raises(ConversionStateError, match=r"with share='model', .* asks for share='slot'"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "model", quantization_config=replace(config, share="slot"))


def test_another_quantisation_on_top_is_refused_with_the_way_to_combine(make_converted, tmp_path):
    make_converted().save_pretrained(tmp_path)
    other = object.__new__(TorchAoConfig)  # its own constructor wants torchao
    other.quant_method = "torchao"
    with pytest.raises(
        ConversionStateError, match=r"TorchAoConfig would quantise .* quantise the loaded model in place"
    ):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=other)


def test_a_quantised_checkpoint_is_not_converted(plain):
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (plain / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ConversionStateError, match=r"is quantised with 'bitsandbytes', .* Load it dequantised, convert"
    ):
        AutoModelForCausalLM.from_pretrained(plain, quantization_config=KANConfig())
