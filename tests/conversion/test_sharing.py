"""`share="model"`: one set of curves for the same slot of all layers, whatever is done to the model."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import make, randomize_curves, tiny_llama
from transformers import AutoModelForCausalLM

from kansformer import (
    KANConfig,
    convert,
    load_curves,
    optimizer_groups,
    plan_conversion,
    refine_grid,
    revert,
    save_curves,
    update_grid,
)
from kansformer.conversion import slots
from kansformer.errors import CheckpointError, ConfigError
from kansformer.hub.model_folder import ModelFolder
from kansformer.interp import prune
from kansformer.nn.curves import curved_modules
from kansformer.nn.optim import curve_parameters
from kansformer.training.sharding import check_shardable

IDS = torch.arange(12).reshape(2, 6)
SHARED = KANConfig(slots=("up", "act"), edges="group", groups=4, share="model")
CONFIGS = {
    "groups": SHARED,
    "channels": KANConfig(slots=("input", "down"), share="model"),
    "rational": KANConfig(slots=("act",), basis="rational", share="model"),
}


def shared_model(config=SHARED):
    return randomize_curves(convert(tiny_llama().eval(), config))


def assert_tied(model, layers=2):
    """Every curve parameter is there once, and every domain is equal in all layers."""
    modules = [module for _, module in curved_modules(model)]
    for slot in range(len(modules) // layers):
        first, *others = modules[slot :: len(modules) // layers]
        assert len(others) == layers - 1
        for other in others:
            assert other.coefficients is first.coefficients and other.denominator is first.denominator
            assert torch.equal(other.domain, first.domain)


@pytest.mark.parametrize("case", CONFIGS)
def test_the_swap_is_exact_and_curves_count_once(case):
    model = tiny_llama().eval()
    before, plan = model(IDS).logits, plan_conversion(model, CONFIGS[case])
    parameters = model.num_parameters()
    convert(model, CONFIGS[case])
    assert torch.equal(model(IDS).logits, before)
    assert_tied(model)
    assert model.num_parameters() == plan.parameters_after > parameters == plan.parameters_before
    assert sum(p.numel() for _, p in curve_parameters(model)) == plan.parameters_after - parameters
    assert "shared by all" in str(plan)


def test_one_gradient_and_one_state_of_the_optimizer():
    model, own = shared_model(), convert(tiny_llama().eval(), KANConfig(slots=("up", "act"), edges="group", groups=4))
    for (_, module), (_, other) in zip(curved_modules(model), curved_modules(own), strict=True):
        other.load_state_dict(module.state_dict())
    for each in (model, own):
        each(IDS, labels=IDS).loss.backward()
    summed = own.model.layers[0].mlp.act_fn.coefficients.grad + own.model.layers[1].mlp.act_fn.coefficients.grad
    assert torch.allclose(model.model.layers[0].mlp.act_fn.coefficients.grad, summed, rtol=1e-4, atol=1e-7)
    groups = optimizer_groups(model, 1e-3)
    assert sum(len(g["params"]) for g in groups if g["name"].startswith("curves")) == 2
    torch.optim.AdamW(groups).step()
    assert_tied(model)


@pytest.mark.parametrize("case", CONFIGS)
def test_a_checkpoint_is_tied_again(case, tmp_path):
    model = shared_model(CONFIGS[case])
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "given", state_dict=model.state_dict())
    save_curves(model, tmp_path / "curves")
    expected = model(IDS).logits
    for loaded in (
        AutoModelForCausalLM.from_pretrained(tmp_path / "whole"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "given"),
        load_curves(tiny_llama().eval(), tmp_path / "curves"),
        load_curves(shared_model(CONFIGS[case]), tmp_path / "curves"),
    ):
        assert_tied(loaded)
        assert torch.equal(loaded(IDS).logits, expected)
    weights = ModelFolder.read(tmp_path / "whole").weights
    assert weights.parameters == model.num_parameters()
    assert weights.curve_parameters == sum(p.numel() for _, p in curve_parameters(model))
    keys = load_file(tmp_path / "whole" / "model.safetensors")
    assert set(keys) == set(model.state_dict())  # under the usual names, for servers


def test_layers_on_several_devices_load_as_copies_with_a_warning(tmp_path, monkeypatch):
    model = shared_model()
    model.save_pretrained(tmp_path)

    def refuse(modules):
        if not any(module.coefficients.is_meta for module in modules.values()):  # not yet loaded
            raise ConfigError("on two devices")

    monkeypatch.setattr(slots, "check_alike", refuse)
    with pytest.warns(UserWarning, match="copy of the curves that it shares, so do not train them: on two devices"):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    with pytest.raises(ConfigError, match="on two devices"):
        convert(tiny_llama(), SHARED)


def test_layers_that_differ_in_a_file_are_refused(tmp_path):
    model = convert(tiny_llama().eval(), KANConfig())
    randomize_curves(model)
    record = model.config.quantization_config
    model.save_pretrained(tmp_path / "whole")
    save_curves(model, tmp_path / "curves")
    object.__setattr__(record.config, "share", "model")
    for save in (model.save_pretrained, lambda folder: save_curves(model, folder)):
        with pytest.raises(CheckpointError, match=r"are different.*copies were trained apart"):
            save(tmp_path / "new")
    for file, entry in (("whole/config.json", "quantization_config"), ("curves/curves.json", "conversion")):
        values = json.loads((tmp_path / file).read_text())
        for settings in (values, values[entry]):
            settings.pop("digest", None)
        values[entry] |= {"share": "model", "format_version": 5}
        (tmp_path / file).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"\.0\.mlp\.act_fn and model\.layers\.1\.mlp\.act_fn are different"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    plain = tiny_llama().eval()
    with pytest.raises(CheckpointError, match=r"layers share their curves, and the file has different ones"):
        load_curves(plain, tmp_path / "curves")
    assert not list(curved_modules(plain))


def test_copies_casts_and_from_config_stay_tied_and_revert_unties():
    model = shared_model()
    for other in (copy.deepcopy(model), copy.deepcopy(model).to(torch.bfloat16), copy.deepcopy(model).double()):
        assert_tied(other)
    assert_tied(AutoModelForCausalLM.from_config(model.config))
    assert_tied(shared_model().train().half())
    revert(model)
    assert torch.equal(model(IDS).logits, tiny_llama().eval()(IDS).logits)


def test_a_model_is_converted_while_loading(tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    assert_tied(AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=SHARED))


def test_grids_are_moved_and_refined_once_for_all_layers():
    model = shared_model(KANConfig(share="model"))
    activations = [layer.mlp.act_fn for layer in model.model.layers]
    seen = []
    hooks = [act.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach())) for act in activations]
    model(IDS)
    for hook in hooks:
        hook.remove()
    update_grid(model, IDS, margin=0.0)
    assert_tied(model)
    x = torch.stack(seen).flatten(0, 2)  # of both layers
    narrowest = 0.05 * 8
    wide = x.amax(0) - x.amin(0) > narrowest
    assert wide.any()
    assert torch.allclose(activations[0].domain[wide], torch.stack([x.amin(0), x.amax(0)], dim=-1)[wide], atol=1e-5)
    before = model(IDS).logits
    refine_grid(model, 10)
    assert_tied(model)
    assert activations[0].coefficients.shape[1] == 13
    assert torch.allclose(model(IDS).logits, before, atol=1e-5)


def test_what_needs_a_layer_of_its_own_is_refused():
    model = shared_model(KANConfig(share="model"))
    with pytest.raises(ConfigError, match=r"FSDP needs curves of its own .*Choose share='slot', or train without FSDP"):
        check_shardable(model)
    with pytest.raises(ConfigError, match="prune needs curves of its own in every layer"):
        prune(model, {}, sparsity=0.5)


def test_copies_that_were_trained_apart_are_not_saved(tmp_path):
    model = shared_model(KANConfig(share="model"))
    mlp = model.model.layers[1].mlp
    mlp.act_fn = copy.deepcopy(mlp.act_fn)  # as PEFT's modules_to_save does
    model.save_pretrained(tmp_path / "equal")
    assert_tied(AutoModelForCausalLM.from_pretrained(tmp_path / "equal"))
    with torch.no_grad():
        mlp.act_fn.coefficients.add_(1.0)
    with pytest.raises(CheckpointError, match="are different.*PEFT's modules_to_save"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(share="layer"), r"Unknown share 'layer'. Choose one of: slot, model"),
        (dict(share="model", edges="full", slots=("up",)), r"edges='full' with share='model'.*channel' or 'group'"),
        (dict(share="model", edges="low_rank", slots=("up", "act")), r"edges='low_rank' with share='model'"),
    ],
)
def test_settings_that_cannot_be_shared_are_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        KANConfig(**settings)


def test_layers_of_different_widths_are_refused():
    model = make("llama")
    mlp = model.layers[1].mlp
    for name, shape in {"gate_proj": (64, 96), "up_proj": (64, 96), "down_proj": (96, 64)}.items():
        setattr(mlp, name, torch.nn.Linear(*shape, bias=False))
    with pytest.raises(ConfigError, match=r"layers\.0\.mlp\.act_fn has 160 channels and layers\.1\.mlp\.act_fn 96"):
        convert(model, KANConfig(share="model"))
    assert not list(curved_modules(model))
    convert(model, KANConfig(share="model", layers=[0, 2]))
    assert_tied(model)


@pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded", "ignore:Every layer has a copy")
def test_a_model_that_lies_partly_on_the_disk_is_saved_again(tmp_path):
    model = randomize_curves(convert(tiny_llama(num_hidden_layers=3), KANConfig(share="model")))
    model.save_pretrained(tmp_path / "first")
    places = dict.fromkeys(["model.embed_tokens", "lm_head", "model.norm", "model.rotary_emb", "model.layers.1"], "cpu")
    places |= {"model.layers.0": "disk", "model.layers.2": "disk"}
    name = tmp_path / "first"
    loaded = AutoModelForCausalLM.from_pretrained(name, device_map=places, offload_folder=tmp_path / "offloaded")
    loaded.save_pretrained(tmp_path / "second")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "second")
    assert torch.equal(again(IDS).logits, model(IDS).logits)
