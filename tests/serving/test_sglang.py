"""SGLang's plug-in beside stand-ins of SGLang: equal outputs, on one rank and on two, and refusals by name."""

import importlib
import json
import sys
from types import SimpleNamespace

import pytest
import sglang_stand_in as stand_in
import torch
from safetensors.torch import load_file
from tiny_models import randomize_curves, tiny_llama
from torch import nn
from transformers import AutoConfig

from kansformer import KANConfig, convert
from kansformer.errors import CheckpointError, ConfigError

CONFIGS = {
    "activations": KANConfig(basis="rational"),
    "inputs and groups": KANConfig(slots=("input", "act"), edges="group", groups=4),
    "channel": KANConfig(slots=("up", "gate", "down")),
    "low rank": KANConfig(slots=("up", "down"), edges="low_rank", rank=3),
    "full": KANConfig(slots=("gate", "down"), edges="full", layers=(0,)),
}


@pytest.fixture(autouse=True)
def sglang(monkeypatch):
    stand_in.install(monkeypatch)
    yield
    for name in [name for name in sys.modules if name.startswith("kansformer.serving.sglang")]:
        del sys.modules[name]


def load(name):
    return importlib.import_module(f"kansformer.serving.sglang.{name}")


@pytest.fixture
def save(tmp_path):
    def save(config=None):
        model = randomize_curves(convert(tiny_llama(), config or KANConfig())).eval()
        model.save_pretrained(tmp_path)
        return model

    save.folder = tmp_path
    return save


def quant_config(folder):
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    return load("quantization").CurveConfig.from_config(settings | {"packed_modules_mapping": {}, "hf_config": None})


def serve(folder, monkeypatch, rank=0, ranks=1, weights=None):
    """A checkpoint as one rank serves it."""
    monkeypatch.setattr(stand_in.LinearBase, "now", stand_in.Group(rank_in_group=rank, world_size=ranks))
    config = AutoConfig.from_pretrained(folder)
    served = load("general").with_curves(stand_in.TransformersForCausalLM)(
        config=config, quant_config=quant_config(folder)
    )
    loaded = served.load_weights((weights or load_file(folder / "model.safetensors")).items())
    assert loaded == {name for name, _ in served.named_parameters()}
    assert config.quantization_config is not None
    return served.eval()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_a_served_model_computes_what_the_converted_one_does(name, save, monkeypatch):
    model = save(CONFIGS[name])
    served = serve(save.folder, monkeypatch)
    tokens = torch.arange(12).reshape(2, 6)
    torch.testing.assert_close(served.model(tokens)[0], model.model(tokens)[0])


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_two_ranks_add_up_to_the_converted_block(name, save, monkeypatch):
    model = save(CONFIGS[name])
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(2))
    parts = [serve(save.folder, monkeypatch, rank, 2).model.layers[0].mlp(x) for rank in range(2)]
    torch.testing.assert_close(parts[0] + parts[1], model.model.layers[0].mlp(x), atol=1e-5, rtol=1e-5)


def test_weights_are_packed_as_sglang_does(save, monkeypatch):
    save(CONFIGS["full"])
    layer = serve(save.folder, monkeypatch).model.layers[0].mlp.down_proj
    layer.quant_method.process_weights_after_loading(layer)
    assert layer.is_packed


def test_layers_without_curves_are_left_to_sglang(save, monkeypatch):
    save()
    served = serve(save.folder, monkeypatch)
    assert type(served.model.layers[0].mlp.up_proj.quant_method) is stand_in.UnquantizedLinearMethod
    assert served.quant_config.get_quant_method(nn.Embedding(2, 2), "model.embed_tokens") is None


def test_sglang_is_told_about_converted_checkpoints():
    plugin = load("plugin")
    plugin.register()
    methods = sys.modules["sglang.srt.layers.quantization"]
    assert methods.QUANTIZATION_METHODS == methods.CPU_QUANTIZATION_METHODS != {}
    assert stand_in.HookRegistry.hooks == [
        ("sglang.srt.model_loader.utils.get_model_architecture", plugin.choose_class, stand_in.HookType.AROUND)
    ]


def model_config(settings, impl="auto"):
    return SimpleNamespace(hf_config=SimpleNamespace(quantization_config=settings), model_impl=stand_in.ModelImpl(impl))


def choose(config, model_class=stand_in.TransformersForCausalLM):
    return load("plugin").choose_class(lambda config: (model_class, config.model_impl.value), config)


@pytest.mark.parametrize("settings", [None, {"quant_method": "fp8"}])
def test_other_checkpoints_keep_their_class(settings):
    assert choose(model_config(settings, "sglang")) == (stand_in.TransformersForCausalLM, "sglang")


@pytest.mark.parametrize("impl", ["auto", "transformers"])
def test_converted_checkpoints_get_a_class_with_curves(impl):
    model_class, architecture = choose(model_config({"quant_method": "kansformer"}, impl))
    assert architecture == "transformers" and model_class.__name__ == "TransformersForCausalLM"
    assert issubclass(model_class, load("general").CurvesMixin)
    assert load("general").with_curves(model_class) is model_class


def test_a_class_of_sglang_own_is_refused():
    with pytest.raises(ConfigError, match="model_impl 'sglang' cannot serve .* choices: auto, transformers"):
        choose(model_config({"quant_method": "kansformer"}, "sglang"))
    with pytest.raises(CheckpointError, match="by Linear, which cannot take curves"):
        choose(model_config({"quant_method": "kansformer"}), nn.Linear)


def test_a_plug_in_that_was_not_applied_is_no_silent_loss(save):
    save()
    with pytest.raises(CheckpointError, match="would leave its curves out"):
        stand_in.TransformersForCausalLM(tiny_llama().config, quant_config(save.folder))


def test_another_quantization_is_refused():
    with pytest.raises(ConfigError, match="Leave --quantization out"):
        load("general").with_curves(stand_in.TransformersForCausalLM)(config=tiny_llama().config)


def test_curves_inside_experts_are_refused(save):
    save()
    config = quant_config(save.folder)
    config.has_model = True
    with pytest.raises(CheckpointError, match=r"curves at layers\.0\.mlp\.act_fn, inside a mixture .* with vLLM"):
        config.get_quant_method(stand_in.FusedMoE(), "model.layers.0.mlp")
    assert config.get_quant_method(stand_in.FusedMoE(), "model.layers.0.mlp.experts") is None


def test_adapters_are_refused(save, monkeypatch):
    save()
    with pytest.raises(CheckpointError, match="does not serve LoRA adapters"):
        serve(save.folder, monkeypatch).should_apply_lora("model.layers.0.mlp.up_proj")


def test_a_missing_curve_is_refused(save, monkeypatch):
    save()
    weights = load_file(save.folder / "model.safetensors")
    del weights["model.layers.1.mlp.act_fn.coefficients"]
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.act_fn\.coefficients is missing"):
        serve(save.folder, monkeypatch, weights=weights)
