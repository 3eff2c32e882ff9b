"""PEFT: LoRA beside curves, saved, loaded and merged; and curves as an adapter of their own."""

import peft
import pytest
import torch

from kansformer import KANLinear, LearnedActivation, load_curves, optimizer_groups, revert, save_curves
from kansformer.conversion import find_curve_slots
from kansformer.interp import EdgeRef, edit_curve

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

CASES = {
    "activations": (dict(slots=("act",)), ["q_proj", "up_proj"], ["act_fn"]),
    "input": (dict(slots=("input",)), ["up_proj"], ["input_curve"]),
    "input and activations": (dict(slots=("input", "act")), ["down_proj"], ["input_curve", "act_fn"]),
    "layers with curves, trained whole": (dict(slots=("up",), edges="full"), ["q_proj"], ["up_proj"]),
}


def train(model, tokens):
    optimizer = torch.optim.AdamW(optimizer_groups(model, lr=1e-3))
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    model.eval()


def logits(model, tokens):
    with torch.no_grad():
        return model(input_ids=tokens).logits


@pytest.mark.parametrize("case", CASES)
def test_lora_with_curves_as_modules_to_save(case, make_straight, tokens, tmp_path):
    fields, targets, curves = CASES[case]
    config = peft.LoraConfig(target_modules=targets, modules_to_save=curves, r=2)
    model = peft.get_peft_model(make_straight(**fields), config)
    before = logits(model, tokens)
    train(model, tokens)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.rpartition(".")[2] for name in trained} >= {"coefficients", "weight"}
    expected = logits(model, tokens)
    assert not torch.equal(expected, before)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(make_straight(**fields), tmp_path).eval()
    assert torch.equal(logits(loaded, tokens), expected)
    merged = loaded.merge_and_unload()  # the products go into the weights; curves have no weights to go into
    assert not [name for name, _ in merged.named_modules() if "lora" in name or "modules_to_save" in name]
    torch.testing.assert_close(logits(merged, tokens), expected, rtol=1e-4, atol=1e-6)
    merged.save_pretrained(tmp_path / "whole")
    again = type(merged).from_pretrained(tmp_path / "whole")
    assert torch.equal(logits(again, tokens), logits(merged, tokens))
    assert any(isinstance(module, (LearnedActivation, KANLinear)) for module in again.modules())


@torch.no_grad()
def test_copies_of_curves_for_an_adapter_are_read_in_place_of_the_original(make_bent, tokens):
    plain = [(slot.site, slot.name) for slot in find_curve_slots(make_bent(slots=("act",)))]
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["act_fn"], r=2)
    model = peft.get_peft_model(make_bent(slots=("act",)), config).eval()
    slots = find_curve_slots(model)
    assert [(slot.site.removeprefix("base_model.model."), slot.name) for slot in slots] == plain
    assert all(slot.path.endswith("act_fn.modules_to_save.default") for slot in slots)
    before = logits(model, tokens)
    edit = edit_curve(model, EdgeRef(slots[0].site, "act", 1, 1), torch.sin)
    assert not torch.equal(logits(model, tokens), before)
    edit.undo()
    assert torch.equal(logits(model, tokens), before)
    with model.disable_adapter():
        assert find_curve_slots(model)[0].path.endswith("act_fn.original_module")
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["mlp"], r=2)
    around = peft.get_peft_model(make_bent(slots=("act",)), config)
    assert [(s.site.removeprefix("base_model.model."), s.name) for s in find_curve_slots(around)] == plain


@pytest.mark.parametrize("edges", ["channel", "low_rank", "full"])
def test_lora_on_layers_with_curves_keeps_the_curves(edges, make_bent, tokens, tmp_path):
    fields = dict(slots=("up", "down"), edges=edges, rank=2)
    model = peft.get_peft_model(make_bent(**fields), peft.LoraConfig(target_modules=["up_proj", "down_proj"], r=2))
    assert torch.equal(logits(model, tokens), logits(make_bent(**fields), tokens))
    assert not any(p.requires_grad for name, p in model.named_parameters() if name.endswith("coefficients"))
    train(model, tokens)
    expected = logits(model, tokens)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(make_bent(**fields), tmp_path).eval()
    assert torch.equal(logits(loaded, tokens), expected)
    merged = loaded.merge_and_unload()
    assert isinstance(merged.model.layers[0].mlp.up_proj, KANLinear)
    torch.testing.assert_close(logits(merged, tokens), expected, rtol=1e-4, atol=1e-6)


def test_curves_and_lora_on_the_same_layers_are_saved_apart(make_plain, make_straight, tokens, tmp_path):
    model = make_straight(slots=("up", "down"))
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["up_proj", "down_proj"], r=2))
    for name, parameter in model.named_parameters():
        if name.endswith("coefficients"):
            parameter.requires_grad_(True)
    train(model, tokens)
    expected = logits(model, tokens)
    model.save_pretrained(tmp_path / "lora")
    save_curves(model.unload(), tmp_path / "curves")
    loaded = load_curves(make_plain(), tmp_path / "curves")
    loaded = peft.PeftModel.from_pretrained(loaded, tmp_path / "lora").eval()
    assert torch.equal(logits(loaded, tokens), expected)


def test_curves_alone_are_an_adapter(make_plain, make_straight, tokens, tmp_path):
    model = make_straight(slots=("input", "act")).requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("coefficients"))
    train(model, tokens)
    save_curves(model, tmp_path / "curves")
    loaded = load_curves(make_plain(), tmp_path / "curves")
    assert torch.equal(logits(loaded, tokens), logits(model, tokens))
    assert torch.equal(logits(revert(loaded), tokens), logits(make_plain(), tokens))
