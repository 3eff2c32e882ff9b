"""What the swap refuses, and that a model comes out of a failure as it went in."""

import re

import peft
import pytest
import torch
import transformers
from tiny_models import MODELS, TINY, assert_same_state, make, run, snapshot, tiny_llama

from kansformer import KANConfig, convert, is_converted, load_curves, plan_conversion, revert, save_curves
from kansformer.conversion import convert as convert_module
from kansformer.conversion import replace_feed_forwards
from kansformer.errors import ConfigError, ConversionStateError, NoSiteError, ProofError, SlotError

NOT_A_MODEL = {
    "gpt2": "must be a torch.nn.Module.*; got the name 'gpt2'. Load it first: AutoModelForCausalLM.from_pretrained",
    None: "got a NoneType",
    torch.nn.Linear: "got the class Linear",
}


@pytest.mark.parametrize("wrong", NOT_A_MODEL)
@pytest.mark.parametrize(
    "function",
    [
        convert,
        revert,
        is_converted,
        lambda model: plan_conversion(model, KANConfig()),
        lambda model: replace_feed_forwards(model, KANConfig(), hidden=4),
    ],
)
def test_what_is_not_a_model_is_named(function, wrong):
    with pytest.raises(ConfigError, match=NOT_A_MODEL[wrong]):
        function(wrong)


@pytest.mark.parametrize("wrong", [{"slots": ["act"]}, KANConfig, "act"])
def test_what_is_not_a_config_is_named(wrong):
    for function in (convert, plan_conversion):
        with pytest.raises(ConfigError, match=r"config must be a KANConfig, such as KANConfig\(slots"):
            function(make("llama"), wrong)


def test_a_rank_above_the_smaller_width_is_refused():
    model = make("llama")
    before = snapshot(model)
    message = r"layers\.0\.mlp: rank=65 is above 64, the smaller width of a layer from 160 to 64\. Choose a rank of at"
    with pytest.raises(ConfigError, match=message):
        convert(model, KANConfig(slots=("down",), edges="low_rank", rank=65))
    assert_same_state(model, before)
    convert(model, KANConfig(slots=("down",), edges="low_rank", rank=64))


BAD = {
    "an unknown layer": (KANConfig(layers=[7]), ConfigError, "There is no layer 7: choose from 0 to 2"),
    "an empty selection": (KANConfig(layers="5:"), ConfigError, "selects none of the 3 layers"),
    "groups that do not divide": (
        KANConfig(edges="group", groups=7), ConfigError, r"layers\.0\.mlp: groups=7 does not divide the 160",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_impossible_wishes_are_errors_and_leave_the_model_alone(case):
    config, error, message = BAD[case]
    model = make("llama")
    before = snapshot(model)
    with pytest.raises(error, match=message):
        convert(model, config)
    assert_same_state(model, before)


def test_a_slot_that_no_site_has_is_an_error():
    with pytest.raises(SlotError, match=r"gate and up are one fused layer.*Choose from: input, up, act, down"):
        convert(make("phi3"), KANConfig(slots=("gate",)))
    with pytest.raises(SlotError, match="has no slot 'gate': a feed-forward network of the kind 'plain' has none"):
        convert(make("gpt2"), KANConfig(slots=("gate",)))


def test_a_convolutional_network_is_refused_by_that_name():
    config = transformers.ResNetConfig(hidden_sizes=[8, 16], depths=[1, 1], embedding_size=8)
    with pytest.raises(NoSiteError, match="ResNetModel is a convolutional network"):
        convert(transformers.AutoModel.from_config(config), KANConfig())


NAMED = {
    "gpt_oss": (
        lambda: transformers.GptOssConfig(**TINY, num_key_value_heads=2, num_local_experts=4, pad_token_id=0),
        r"GptOssModel keeps its .* as stacks of experts, .* at layers\.0\.mlp\.experts, whose activation is written",
    ),
    "mamba": (
        lambda: transformers.MambaConfig(vocab_size=100, hidden_size=64, num_hidden_layers=2),
        r"MambaModel has state-space mixers \(MambaMixer, for instance at layers\.0\.mixer\), in which a convolution",
    ),
    "ibert": (
        lambda: transformers.IBertConfig(**TINY),
        r"IBertModel computes its linear layers by a class of its own, QuantLinear, for instance at encoder\.layer\.0",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_has_no_place_for_curves_is_called_what_it_is(name):
    make_config, message = NAMED[name]
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(make_config())
    with pytest.raises(NoSiteError, match=message):
        plan_conversion(model, KANConfig())


def test_the_channel_mixing_of_rwkv_takes_curves_but_on_its_activation():
    config = transformers.RwkvConfig(vocab_size=100, hidden_size=64, num_hidden_layers=2, context_length=16)
    model = transformers.AutoModel.from_config(config)
    with pytest.raises(SlotError, match=r"blocks\.0\.feed_forward has no slot 'act': its activation is called as a"):
        convert(model, KANConfig())
    ids = torch.arange(8).reshape(1, 8)
    with torch.no_grad():
        before = model.eval()(ids)[0]
        assert torch.equal(convert(model, KANConfig(slots=("input", "up", "down")))(ids)[0], before)


def test_converting_twice_and_reverting_a_plain_model_are_errors():
    model = make("llama")
    with pytest.raises(ConversionStateError, match="not converted"):
        revert(model)
    convert(model, KANConfig())
    state = snapshot(model)
    with pytest.raises(ConversionStateError, match=r"has curves already, for instance at layers\.0\.mlp\.act_fn"):
        convert(model, KANConfig())
    assert_same_state(model, state)


def test_a_quantised_model_is_refused():
    model = make("llama")
    model.config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(ConversionStateError, match="quantised with 'gptq'"):
        convert(model, KANConfig())


ADAPTERS = {
    "around the model": lambda model: peft.get_peft_model(model, peft.LoraConfig(target_modules=["up_proj"])),
    "on other layers": lambda model: peft.inject_adapter_in_model(peft.LoHaConfig(target_modules=["q_proj"]), model),
    "a prompt": lambda model: peft.get_peft_model(
        model, peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    ),
    "layers trained whole": lambda model: peft.inject_adapter_in_model(
        peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["up_proj"]), model
    ),
}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("case", ADAPTERS)
@pytest.mark.parametrize("act", [convert, plan_conversion, load_curves])
def test_a_model_with_adapters_is_refused(case, act, tmp_path):
    curves = save_curves(convert(tiny_llama()), tmp_path / "curves")
    model = ADAPTERS[case](tiny_llama())
    before = snapshot(model)
    with pytest.raises(ConversionStateError, match=r"has adapters.* Convert first, then add the adapter"):
        act(model, curves if act is load_curves else KANConfig())
    assert_same_state(model, before)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_what_has_no_adapters_any_more_is_converted():
    model = peft.get_peft_model(make("llama"), peft.LoraConfig(target_modules=["up_proj"])).merge_and_unload()
    assert is_converted(convert(model))


def test_weights_that_are_not_in_memory_cannot_be_proved():
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(MODELS["llama"]())
    with pytest.raises(ProofError, match="not in memory"):
        convert(model, KANConfig())
    assert is_converted(convert(model, KANConfig(), verify=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "weight"), [("llama", "layers.1.mlp.up_proj"), ("gpt2", "h.1.mlp.c_proj")])
def test_weights_that_are_not_finite_are_named_and_leave_the_model_alone(name, weight, dtype):
    model = make(name).to(dtype)
    with torch.no_grad():
        model.get_parameter(f"{weight}.weight")[3, 5] = float("nan")
    before = snapshot(model)
    with pytest.raises(ProofError, match=rf"1 of the \d+,\d+ values of {re.escape(weight)}\.weight is NaN or infinite"):
        convert(model, KANConfig())
    assert_same_state(model, before)
    assert is_converted(convert(model, KANConfig(), verify=False))


@pytest.mark.parametrize("failing", range(6))
def test_a_failure_half_way_leaves_the_model_as_it_was(monkeypatch, failing):
    model = make("llama")
    before, expected, types = snapshot(model), run(model), [type(m) for m in model.modules()]
    fill_slot, calls = convert_module.__globals__["fill_slot"], []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) > failing:
            raise KeyboardInterrupt
        return fill_slot(*arguments)

    monkeypatch.setitem(convert_module.__globals__, "fill_slot", fail)
    with pytest.raises(KeyboardInterrupt):
        convert(model, KANConfig(slots=("input", "act")))
    assert_same_state(model, before)
    assert [type(m) for m in model.modules()] == types
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(run(model), expected)
    assert not is_converted(model)


def test_a_failure_at_the_very_end_leaves_the_model_as_it_was(monkeypatch):
    model = make("llama")
    before, types = snapshot(model), [type(m) for m in model.modules()]

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(convert_module.__globals__, "attach_record", fail)
    with pytest.raises(KeyboardInterrupt):
        convert(model, KANConfig(slots=("input", "act")))
    assert_same_state(model, before)
    assert [type(m) for m in model.modules()] == types
    assert not any(module._forward_pre_hooks for module in model.modules())


class FrozenTable(dict):
    """A config as diffusers' models have it: whoever changes it gets an error."""

    def update(self, *args, **kwargs):
        raise TypeError("You cannot use update on a frozen table.")


def test_a_refusal_leaves_tables_alone_that_refuse_changes():
    model = tiny_llama()
    model.settings = FrozenTable(sample_size=8)
    with pytest.raises(ConfigError, match="layers"):
        convert(model, KANConfig(layers=(7,)))
    assert model.settings == {"sample_size": 8}
