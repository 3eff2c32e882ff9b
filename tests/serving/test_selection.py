"""Which of vLLM's classes serves a checkpoint, read from the checkpoint alone."""

import pytest
from tiny_models import make, tiny_bert, tiny_llama

from kansformer import KANConfig, convert
from kansformer.conversion.record import ConversionRecord, record_of
from kansformer.errors import CheckpointError, ConfigError
from kansformer.serving.vllm.selection import (
    GENERAL_CLASSES,
    OWN_CLASSES,
    check_adapters,
    has_curved_experts,
    select_classes,
)


def record(**settings):
    return record_of(convert(tiny_llama(), KANConfig(**settings)))


@pytest.mark.parametrize("model_impl", ["auto", "vllm"])
def test_a_class_of_vllm_with_transformers_names_serves_it(model_impl):
    selection = select_classes(record(), ["LlamaForCausalLM"], model_impl)
    assert selection.model_impl == model_impl
    assert selection.classes == {"LlamaForCausalLM": "kansformer.serving.vllm.own_classes:LlamaForCausalLM"}


@pytest.mark.parametrize(
    ("architectures", "model_impl"), [(["BertModel"], "auto"), (["LlamaForCausalLM"], "transformers"), ([], "auto")]
)
def test_everything_else_goes_through_the_general_classes(architectures, model_impl):
    selection = select_classes(record_of(convert(tiny_bert())), architectures, model_impl)
    assert selection.model_impl == "transformers" and set(selection.classes) == set(GENERAL_CLASSES)
    assert selection.classes["TransformersForCausalLM"] == "kansformer.serving.vllm.general:TransformersForCausalLM"


def test_narrower_networks_than_the_config_says_go_through_the_general_classes():
    old = record()
    narrow = ConversionRecord(old.config, old.slots, {"layers.0.mlp": 8})
    assert select_classes(narrow, ["LlamaForCausalLM"]).model_impl == "transformers"
    with pytest.raises(ConfigError, match="narrower than its config says"):
        select_classes(narrow, ["LlamaForCausalLM"], "vllm")


def test_a_class_that_was_asked_for_and_cannot_is_refused():
    with pytest.raises(ConfigError, match="cannot serve this checkpoint of FalconForCausalLM .* LlamaForCausalLM, Mis"):
        select_classes(record(), ["FalconForCausalLM"], "vllm")


@pytest.mark.parametrize(
    "settings",
    [dict(slots=("input", "act")), dict(slots=("up", "down"), edges="low_rank"), dict(slots=("gate",), edges="full")],
)
def test_adapters_go_with_curves_that_leave_the_inputs_of_layers(settings):
    check_adapters(record(**settings))


def test_adapters_on_layers_with_bent_inputs_are_refused_by_name():
    with pytest.raises(CheckpointError, match=r"inputs of layers\.0\.mlp\.down_proj .* without --enable-lora"):
        check_adapters(record(slots=("act", "down")))


def test_experts_with_curves_are_seen():
    mixture = convert(make("mixtral"), KANConfig())
    assert has_curved_experts(record_of(mixture)) and not has_curved_experts(record())


def test_names_of_classes_are_in_vllm():
    registry = pytest.importorskip("vllm.model_executor.models.registry", reason="needs vllm: pip install vllm")
    for name, own in OWN_CLASSES.items():
        assert registry._VLLM_MODELS[name] == (own.module, name)
    assert set(GENERAL_CLASSES) == set(registry._TRANSFORMERS_BACKEND_MODELS)
