"""Tensor parallelism in two processes over gloo: the same function as in one process, or a sentence at load."""

import os
import sys
from pathlib import Path

import pytest
import torch
from numerics import relative_error
from programs import Program
from safetensors.torch import load_file
from tiny_models import randomize_curves
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedModel

from kansformer import KANConfig, convert
from kansformer.conversion.transformers_patches import PLANS_STEP

pytest.importorskip("transformers.distributed.tensor_parallel", reason="needs a transformers with tp_plan")
IS_POSSIBLE = hasattr(PreTrainedModel, PLANS_STEP)
if_possible = pytest.mark.skipif(not IS_POSSIBLE, reason="curves are split with transformers 5.24 or newer")
TOKENS = torch.arange(12).reshape(2, 6)
EVERYWHERE = ("input", "up", "gate", "act", "down")
CONFIGS = {
    "act": KANConfig(),
    "some layers": KANConfig(layers=0, slots=("act",)),
    "channel": KANConfig(slots=EVERYWHERE, basis="rational"),
    "group": KANConfig(slots=EVERYWHERE, edges="group", groups=4),
    "low rank": KANConfig(slots=("up", "down"), edges="low_rank", rank=2),
    "groups that do not divide": KANConfig(edges="group", groups=3),
    "full": KANConfig(slots=("gate", "down"), edges="full"),
}

WHOLE = ("groups that do not divide",)
SPLIT = {
    "act": ("0.mlp.act_fn.coefficients", "1.mlp.up_proj"),
    "channel": ("act_fn.denominator", "down_proj.coefficients"),
    "group": ("act_fn.coefficients", "down_proj.weight"),
    "low rank": ("up_proj.mix", "down_proj.coefficients"),
    "full": ("gate_proj.coefficients", "down_proj.coefficients"),
    "groups that do not divide": ("mlp",),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder of the checkpoints, and of what two processes made of them."""
    from hub.conftest import make_model

    folder = tmp_path_factory.mktemp("parallel")
    for name, config in CONFIGS.items():
        randomize_curves(convert(make_model("llama"), config), domain=0.75).save_pretrained(folder / name)
    make_model("llama").save_pretrained(folder / "plain")
    small = dict(vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(0)
    experts = MixtralForCausalLM(MixtralConfig(**small, num_key_value_heads=2, num_local_experts=2))
    convert(experts.eval(), KANConfig()).save_pretrained(folder / "experts")
    job = Path(__file__).parent / "tensor_parallel_job.py"
    names = [*CONFIGS, "plain", "experts"]
    command = [sys.executable, str(job), str(folder / "out"), *(str(folder / name) for name in names)]
    log = folder / "log"
    assert Program(command, log, os.environ | {"OMP_NUM_THREADS": "1"}).wait(300) == 0, log.read_text()[-5000:]
    return folder


@pytest.mark.slow
@if_possible
@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_compute_and_save_what_one_does(name, results):
    model = AutoModelForCausalLM.from_pretrained(results / name)
    logits = model(TOKENS).logits
    logits.square().mean().backward()
    for rank in range(2):
        found, gradients, split, messages = torch.load(results / f"out/{name}-{rank}.pt")
        assert relative_error(found, logits) < 1e-5
        for key, gradient in gradients.items():
            assert relative_error(gradient, model.get_parameter(key).grad) < 1e-4, key
        assert any("self_attn" in key for key in split)
        in_part = any("are not split" in message for message in messages)
        assert in_part is (name in WHOLE)
        assert all(any(part in key for key in split) is not in_part for part in SPLIT.get(name, ()))
    before, after = (load_file(folder / "model.safetensors") for folder in (results / name, results / "out" / name))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(results / "out" / name)(TOKENS).logits, logits)


@pytest.mark.slow
@if_possible
@pytest.mark.parametrize(("name", "sentence"), [("plain", "cannot be converted"), ("experts", "'moe_tp_experts'")])
def test_what_tensor_parallelism_cannot_follow_is_refused_at_load(name, sentence, results):
    for rank in range(2):
        assert sentence in torch.load(results / f"out/{name}-{rank}.pt")


@pytest.mark.skipif(IS_POSSIBLE, reason="needs a transformers below 5.24")
@pytest.mark.parametrize("name", [*CONFIGS, "plain", "experts"])
def test_other_versions_of_transformers_are_refused_at_load(name, results):
    for rank in range(2):
        assert "tp_plan needs transformers 5.24" in torch.load(results / f"out/{name}-{rank}.pt")
