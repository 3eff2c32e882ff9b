"""Taking curves out of some slots: the same outputs where they were straight, and a checkpoint that loads."""

import pytest
import torch
from tiny_models import assert_same_state, make, run, snapshot

from kansformer import KANConfig, convert, is_converted
from kansformer.conversion.convert import drop_slots
from kansformer.conversion.record import record_of
from kansformer.errors import ConversionStateError, SlotError
from kansformer.nn.curves import curved_modules

CONFIGS = {
    "channel": KANConfig(slots=("input", "up", "act", "down")),
    "full, and act in groups": KANConfig(slots=("up", "act"), edges="full", grid_size=2),
}


@pytest.mark.parametrize("settings", CONFIGS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "opt"])
def test_slots_are_dropped_one_by_one(name, settings, tmp_path):
    model = make(name)
    before, expected = snapshot(model), run(model)
    convert(model, CONFIGS[settings])
    while True:
        paths = [path for path, _ in curved_modules(model)]
        drop_slots(model, paths[:1])
        assert torch.equal(run(model), expected)
        if len(paths) == 1:
            break
        assert [path for path, _ in curved_modules(model)] == paths[1:]
        assert set(record_of(model).config.slots) == {slot.name for slot in record_of(model).slots}
    assert not is_converted(model)
    assert_same_state(model, before)


@pytest.mark.parametrize("dropped", ["act", "up_proj"])
def test_what_is_left_is_saved_and_loaded(dropped, tmp_path):
    model = convert(make("llama"), CONFIGS["full, and act in groups"])
    for _, module in curved_modules(model):
        torch.nn.init.normal_(module.coefficients, std=0.1)
    drop_slots(model, [path for path, _ in curved_modules(model) if dropped in path])
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(run(loaded), run(model))
    assert len(list(curved_modules(loaded))) == 3


def test_a_shared_layer_is_dropped_everywhere():
    model = make("llama")
    model.layers[1].mlp.up_proj = model.layers[0].mlp.up_proj
    expected = run(model)
    convert(model, KANConfig(slots=("up",), edges="full", grid_size=2))
    drop_slots(model, ["layers.0.mlp.up_proj"])
    assert [slot.path for slot in record_of(model).slots] == ["layers.2.mlp.up_proj"]
    assert torch.equal(run(model), expected) and model.layers[1].mlp.up_proj is model.layers[0].mlp.up_proj


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_are_refused():
    import peft

    model = peft.get_peft_model(convert(make("llama")), peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ConversionStateError, match="has adapters around its layers. Merge them first"):
        drop_slots(model, ["base_model.model.layers.0.mlp.act_fn"])


def test_bad_input():
    model = make("llama")
    with pytest.raises(ConversionStateError, match="not a converted one"):
        drop_slots(model, ["layers.0.mlp.act_fn"])
    convert(model)
    with pytest.raises(SlotError, match=r"'layers.9' is not a slot of this model. Choose from 3, such as layers.0"):
        drop_slots(model, ["layers.0.mlp.act_fn", "layers.9"])
    assert len(list(curved_modules(model))) == 3
