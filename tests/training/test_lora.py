"""LoRA beside curves: merged after the training, in checkpoints, and every kind of adapter."""

import contextlib

import peft
import pytest
import torch
from tiny_models import MODELS, tiny_llama
from tiny_run import DOWN, PRETRAINED, weights_of
from transformers import AutoModelForCausalLM, TrainingArguments

from kansformer import KANTrainer, convert, is_converted
from kansformer.training.build import merge_lora
from kansformer.training.run import train


def test_lora_on_a_layer_whose_curves_bend_its_input_is_merged(make, start, text, tmp_path, monkeypatch):
    recipe = make(
        model={"path": str(start)},
        data={"files": str(text), **PRETRAINED},
        kan={"groups": 4, "slots": ["down"]},
        trainable=["curves", "lora"],
        lora={"r": 2, "target_modules": ["q_proj", "down_proj"]},
    )
    logits = []

    @torch.no_grad()
    def merge(model):
        model.eval()
        tokens = torch.arange(12).reshape(2, 6)
        logits.append(model(input_ids=tokens).logits)
        merge_lora(model)
        logits.append(model(input_ids=tokens).logits)

    monkeypatch.setattr("kansformer.training.run.merge_lora", merge)
    train(recipe, tmp_path / "run")
    trained, merged = logits
    assert (merged - trained).norm() < 1e-5 * trained.norm()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert is_converted(loaded) and not torch.equal(weights_of(start)[DOWN], weights_of(tmp_path / "run")[DOWN])


@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # of PEFT 0.18
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]}),
        ("mixtral", {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}),
    ],
)
@torch.no_grad()
def test_every_kind_of_adapter_is_merged(family, settings):
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MODELS[family]()).eval()
    names, tokens = set(model.state_dict()), torch.arange(12).reshape(2, 6)
    plain = model(input_ids=tokens).logits
    inject_adapter_in_model(LoraConfig(r=2, **settings), model)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "delta" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    trained = model.eval()(input_ids=tokens).logits
    merge_lora(model)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(input_ids=tokens).logits, trained, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(trained, plain, atol=1e-3)


def test_checkpoints_of_lora_around_shared_curves(make, start, text, tmp_path):
    recipe = make(
        model={"path": str(start)},
        data={"files": str(text), **PRETRAINED},
        kan={"groups": 4, "slots": ["down"], "share": "model"},
        trainable=["curves", "lora"],
        lora={"r": 2, "target_modules": ["down_proj"]},
        training={"save_strategy": "steps", "save_steps": 2},
    )
    train(recipe, tmp_path / "run")
    assert is_converted(AutoModelForCausalLM.from_pretrained(tmp_path / "run"))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("modules_to_save", [None, ["act_fn"]])
def test_curves_that_a_checkpoint_of_an_adapter_would_lose_are_said(tmp_path, modules_to_save):
    model = convert(tiny_llama())
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], modules_to_save=modules_to_save))
    if modules_to_save is None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or name.endswith("coefficients"))
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", save_strategy="steps")
    expected = "Checkpoints of a PEFT model hold its adapters only, and not the trained curves"
    with pytest.warns(UserWarning, match=expected) if modules_to_save is None else contextlib.nullcontext():
        KANTrainer(model, arguments).create_optimizer()
