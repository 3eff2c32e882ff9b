"""Save and load: the same weights, keys and logits, whatever way transformers loads them."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    LlamaForCausalLM,
    LlamaModel,
    MixtralConfig,
    MixtralForCausalLM,
)

from kansformer import KANConfig, convert, is_converted, revert

AUTO = {"llama": AutoModelForCausalLM, "gpt2": AutoModelForCausalLM, "bert": AutoModelForMaskedLM}
ALL_SLOTS = {"llama": ("input", "up", "gate", "act", "down"), "gpt2": ("input", "up", "act", "down")}
OFFLOAD_WARNINGS = pytest.mark.filterwarnings("ignore:.*(offload|meta device).*")


def keys_of(path):
    keys = set()
    for file in path.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            keys |= set(tensors.keys())
    return keys


def config_of(path):
    return json.loads((path / "config.json").read_text())


def assert_ordinary(model):
    """Nothing of a quantizer is left on the model."""
    assert not {"hf_quantizer", "is_quantized", "quantization_method"} & set(vars(model))
    assert not any(hasattr(getattr(m, "config", None), "_is_quantized") for m in model.modules())


@pytest.mark.parametrize("family", AUTO)
def test_a_saved_model_loads_bit_for_bit(family, make_converted, outputs, tmp_path):
    model = make_converted(family)
    expected, state = outputs(model), model.state_dict()
    model.save_pretrained(tmp_path)
    loaded = AUTO[family].from_pretrained(tmp_path)
    assert torch.equal(outputs(loaded), expected)
    assert is_converted(loaded) and type(loaded) is type(model)
    assert_ordinary(loaded)
    assert list(loaded.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("basis", ["bspline", "chebyshev", "rbf", "fourier", "rational"])
@pytest.mark.parametrize("family", ALL_SLOTS)
def test_every_basis_loads_in_every_slot(family, basis, make_converted, outputs, tmp_path):
    model = make_converted(family, KANConfig(basis=basis, slots=ALL_SLOTS[family], grid_size=3))
    model.save_pretrained(tmp_path)
    loaded = AUTO[family].from_pretrained(tmp_path)
    assert torch.equal(outputs(loaded), outputs(model))


@pytest.mark.parametrize("edges", ["full", "low_rank", "group"])
@pytest.mark.parametrize("family", AUTO)
def test_every_kind_of_edges_loads(family, edges, make_converted, outputs, tmp_path):
    config = KANConfig(edges=edges, slots=("up", "act", "down"), rank=2, layers=-1, basis="rational")
    model = make_converted(family, config)
    model.save_pretrained(tmp_path)
    loaded = AUTO[family].from_pretrained(tmp_path)
    assert torch.equal(outputs(loaded), outputs(model))


def test_the_files_are_a_contract(make_converted, tmp_path):
    make_converted("llama", KANConfig(slots=("act", "down"), layers=1)).save_pretrained(tmp_path)
    prefix = "model.layers.1.mlp."
    assert {key.removeprefix(prefix) for key in keys_of(tmp_path) if key.startswith(prefix)} == {
        *("gate_proj.weight", "up_proj.weight", "down_proj.weight"),
        *("act_fn.coefficients", "act_fn.domain", "down_proj.coefficients", "down_proj.domain"),
    }
    config = config_of(tmp_path)
    assert config["quantization_config"]["quant_method"] == "kansformer"
    assert config["quantization_config"]["format_version"] == 1
    assert config["quantization_config"]["sites"] == [
        {"slot": "act", "path": "layers.1.mlp.act_fn", "features": 24},
        {"slot": "down", "path": "layers.1.mlp.down_proj", "features": 24},
    ]
    assert ["pip install kansformer" in key for key in config["fusion_config"]] == [True]
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_kansformer.LlamaForCausalLM"
    assert not [file for file in tmp_path.iterdir() if file.suffix in (".bin", ".pt", ".pkl")]


def test_shards(make_converted, outputs, tmp_path):
    model = make_converted()
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(tmp_path)), outputs(model))


@OFFLOAD_WARNINGS
@pytest.mark.parametrize("max_shard_size", ["2KB", "1GB"])
def test_disk_offload(max_shard_size, make_converted, outputs, tmp_path):
    model = make_converted(config=KANConfig(slots=("act", "down")))
    model.save_pretrained(tmp_path / "saved", max_shard_size=max_shard_size)
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"}
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", device_map=places, offload_folder=tmp_path / "offloaded"
    )
    assert loaded.model.layers[1].mlp.act_fn.coefficients.is_meta
    assert torch.equal(outputs(loaded), outputs(model))


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_device_map(device_map, make_converted, outputs, tmp_path):
    model = make_converted()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=device_map).to("cpu")
    assert torch.equal(outputs(loaded), outputs(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes(dtype, make_converted, outputs, tmp_path):
    model = make_converted()
    model.save_pretrained(tmp_path / "float32")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "float32", dtype=dtype)
    assert {value.dtype for value in loaded.state_dict().values()} == {dtype}
    assert torch.equal(outputs(loaded), outputs(model.to(dtype)))
    loaded.save_pretrained(tmp_path / "half")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert again.dtype == dtype and torch.equal(outputs(again), outputs(loaded))


def test_a_loaded_model_can_change_its_dtype(make_converted, tmp_path):
    make_converted().save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).half().dtype == torch.float16


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_tied_embeddings(family, make_converted, outputs, tmp_path):
    model = make_converted(family, tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(outputs(loaded), outputs(model))


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_head_to_base(family, make_converted, outputs, tmp_path):
    model = make_converted(family)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(outputs(loaded), outputs(model.base_model))


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_base_to_head(family, make, outputs, tmp_path):
    base = convert(make(family).base_model)
    base.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, pad_token_id=0)
    assert torch.equal(outputs(loaded.base_model), outputs(base))
    loaded.save_pretrained(tmp_path / "head")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "head")
    assert torch.equal(outputs(again), outputs(loaded))


def test_saving_again_gives_the_same_files(make_converted, outputs, tmp_path):
    model = make_converted()
    model.save_pretrained(tmp_path / "first")
    AutoModelForCausalLM.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert keys_of(tmp_path / "first") == keys_of(tmp_path / "second")
    assert config_of(tmp_path / "first") == config_of(tmp_path / "second")
    names = [{file.name for file in (tmp_path / folder).iterdir()} for folder in ("first", "second")]
    assert names[0] == names[1] and "modeling_kansformer.py" in names[0]
    assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(tmp_path / "second")), outputs(model))


def test_a_passed_state_dict_is_what_is_saved(make_converted, outputs, tmp_path):
    make_converted().save_pretrained(tmp_path / "first")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    state = {**loaded.state_dict(), "lm_head.weight": torch.zeros_like(loaded.lm_head.weight)}
    loaded.save_pretrained(tmp_path / "zero", state_dict=state)
    assert not outputs(AutoModelForCausalLM.from_pretrained(tmp_path / "zero")).any()


def test_reverted_and_saved_is_a_plain_model(make, make_converted, outputs, tmp_path):
    make_converted().save_pretrained(tmp_path / "converted")
    for model in (make_converted(), AutoModelForCausalLM.from_pretrained(tmp_path / "converted")):
        revert(model).save_pretrained(tmp_path / "plain")
        assert "save_pretrained" not in vars(model)
        make("llama").save_pretrained(tmp_path / "reference")
        assert config_of(tmp_path / "plain") == config_of(tmp_path / "reference")
        assert keys_of(tmp_path / "plain") == keys_of(tmp_path / "reference")
        assert {f.name for f in (tmp_path / "plain").iterdir()} == {f.name for f in (tmp_path / "reference").iterdir()}
        plain = LlamaForCausalLM.from_pretrained(tmp_path / "plain")
        assert not is_converted(plain) and torch.equal(outputs(plain), outputs(make("llama")))


def test_a_deep_copy_saves_itself(make_converted, outputs, tmp_path):
    model = make_converted()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
    twin.save_pretrained(tmp_path / "twin")
    model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "twin" / "modeling_kansformer.py").exists()
    assert not outputs(AutoModelForCausalLM.from_pretrained(tmp_path / "twin")).any()
    assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(tmp_path / "model")), outputs(model))
    revert(twin)
    assert is_converted(model) and not is_converted(twin)


def test_loading_with_a_config_that_was_loaded_already(make_converted, outputs, tmp_path):
    model = make_converted()
    model.save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path, config=model.config)
    assert torch.equal(outputs(loaded), outputs(model))
    assert is_converted(model) and model.config.fusion_config  # the config that was passed stays as it is


def test_a_model_made_by_its_class_with_the_config_is_plain_and_can_be_converted(make_converted, tmp_path):
    model = make_converted()
    fresh = LlamaForCausalLM(model.config)
    assert not any("coefficients" in key for key in fresh.state_dict())
    assert is_converted(convert(fresh, KANConfig(basis="rbf")))


def test_two_models_do_not_share_what_belongs_to_one(make, make_converted, tmp_path):
    model, other = make_converted(), make("llama")
    model.save_pretrained(tmp_path / "converted")
    AutoModelForCausalLM.from_pretrained(tmp_path / "converted")
    other.save_pretrained(tmp_path / "plain")
    assert "quantization_config" not in config_of(tmp_path / "plain")
    assert not any("coefficients" in key for key in LlamaModel.from_pretrained(tmp_path / "plain").state_dict())


def test_models_made_from_one_config_do_not_mark_each_other(make, tmp_path):
    plain = make("llama")
    model = convert(LlamaForCausalLM(plain.config))
    assert is_converted(model) and not is_converted(plain)
    assert model.model.config is model.config and model.model.layers[0].self_attn.config is model.config
    plain.save_pretrained(tmp_path)
    assert not {"quantization_config", "fusion_config", "auto_map"} & set(config_of(tmp_path))


def test_keys_that_transformers_renames(outputs, tmp_path):
    """Mixtral's feed-forward networks have another name in its files than in its modules; the curves go with them."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_local_experts=2)
    model = convert(MixtralForCausalLM(MixtralConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)).eval())
    for path, module in model.named_modules():
        if path.endswith("experts.act_fn"):
            torch.nn.init.normal_(module.coefficients)
    model.save_pretrained(tmp_path)
    curves = {key for key in keys_of(tmp_path) if key.endswith("coefficients")}
    assert len(curves) == 2 and not curves & set(model.state_dict())
    assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(tmp_path)), outputs(model))
