"""The swap on whole models: equal to the bit, alive and reversible."""

import copy
import types

import accelerate.hooks
import pytest
import torch
import transformers
from numerics import relative_error
from tiny_models import MODELS, TINY, assert_same_state, make, randomize_curves, run, snapshot
from torch import nn

from kansformer import KANConfig, KANLinear, convert, is_converted, plan_conversion, refine_grid, revert
from kansformer.basis import BASES
from kansformer.errors import (
    CheckpointError,
    ConversionStateError,
    SlotError,
)

# Three matrix products in float32, one after the other, each within the 1.3e-6 of a single operation.
BLOCK_GRADIENT_BOUND = 4e-6
CONFIGS = {
    "act": KANConfig(),
    "input and act in groups": KANConfig(slots=("input", "act"), edges="group"),
    "low rank": KANConfig(slots=("up", "down"), edges="low_rank", rank=4),
    "full": KANConfig(slots=("up", "down"), edges="full", grid_size=2),
    "full, and act in groups": KANConfig(slots=("up", "act"), edges="full", grid_size=2),
    "channel everywhere": KANConfig(slots=("input", "up", "act", "down"), basis="chebyshev"),
    "rational": KANConfig(basis="rational", order=5),
}


@pytest.mark.parametrize("settings", CONFIGS)
@pytest.mark.parametrize("name", MODELS)
def test_exact_alive_and_reversible(name, settings):
    model, config = make(name), CONFIGS[settings]
    before, expected, types = snapshot(model), run(model), [type(m) for m in model.modules()]
    if name == "mixtral" and ("act" not in config.slots or config.edges == "full"):
        with pytest.raises(SlotError, match="stack of experts"):
            convert(model, config)
        assert_same_state(model, before)
        return
    if name == "mixtral":
        config = KANConfig(**{**config.to_dict(), "slots": ("act",)})
    assert convert(model, config) is model
    assert is_converted(model)
    assert torch.equal(run(model), expected)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())
    randomize_curves(model)
    bent = run(model)
    assert not torch.equal(bent, expected)
    assert torch.equal(run(copy.deepcopy(model)), bent)
    revert(model)
    assert not is_converted(model)
    assert_same_state(model, before)
    assert [type(m) for m in model.modules()] == types
    assert torch.equal(run(model), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_exact_in_every_dtype(dtype):
    model = make("llama", dtype)
    expected = run(model)
    convert(model, KANConfig(slots=("input", "up", "act", "down")))
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert torch.equal(run(model), expected)


def test_base_weights_stay_the_same_parameters():
    model = make("llama")
    before = dict(model.named_parameters())
    convert(model, KANConfig(slots=("up", "gate", "down"), edges="full"))
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert "layers.0.mlp.down_proj.coefficients" in after
    assert isinstance(model.layers[0].mlp.down_proj, torch.nn.Linear)


def test_the_plan_says_what_convert_does_and_changes_nothing():
    model = make("llama")
    before = snapshot(model)
    plan = plan_conversion(model, KANConfig())
    assert_same_state(model, before)
    assert len(plan.sites) == 3
    assert plan.parameters_before == sum(p.numel() for p in model.parameters())
    assert "layers.*.mlp" in str(plan)
    assert f"{plan.parameters_after:,}" in str(plan)
    convert(model, KANConfig())
    assert plan.parameters_after == sum(p.numel() for p in model.parameters())
    assert plan.bytes_after == sum(p.numel() * p.element_size() for p in model.parameters())


def test_the_default_preset_grows_a_model_little():
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(transformers.LlamaConfig(num_hidden_layers=2))
    plan = plan_conversion(model, KANConfig())
    assert plan.parameters_after <= 1.35 * plan.parameters_before


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [(None, [0, 1, 2]), ([0, -1], [0, 2]), (slice(1, None), [1, 2]), ("::2", [0, 2]), ("last-third", [2]), (1, [1])],
)
def test_layers_are_chosen_by_index_slice_or_name(layers, chosen):
    plan = plan_conversion(make("llama"), KANConfig(layers=layers))
    assert [site.layer for site in plan.sites] == chosen


def test_only_the_chosen_layers_change():
    model = convert(make("llama"), KANConfig(layers="last-third"))
    assert [name for name, _ in model.named_parameters() if "coefficients" in name] == [
        "layers.2.mlp.act_fn.coefficients"
    ]


def test_a_mixed_model_takes_the_curves_where_it_can_and_says_where_not():
    config = transformers.DeepseekV3Config(
        vocab_size=100, hidden_size=64, intermediate_size=160, moe_intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
        topk_group=1, first_k_dense_replace=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=8, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    expected = run(model)
    with pytest.warns(UserWarning, match="stack of experts"):
        convert(model, KANConfig(slots=("up", "down"), edges="low_rank", rank=2))
    assert torch.equal(run(model), expected)


def test_convert_leaves_the_random_state_and_the_modes_alone():
    model = make("llama").train()
    state = torch.get_rng_state()
    convert(model, KANConfig(slots=("up", "down"), edges="low_rank"))
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())


def test_a_shared_layer_stays_shared():
    model = make("llama")
    model.layers[1].mlp.down_proj = model.layers[0].mlp.down_proj
    expected = run(model)
    convert(model, KANConfig(slots=("down",), edges="full", layers=[0]))
    assert model.layers[1].mlp.down_proj is model.layers[0].mlp.down_proj
    assert torch.equal(run(model), expected)
    revert(model)
    assert model.layers[1].mlp.down_proj is model.layers[0].mlp.down_proj
    assert torch.equal(run(model), expected)


def test_an_activation_keeps_the_names_of_its_own_parameters():
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.ApertusConfig(**TINY)).eval()
    names, expected = list(model.state_dict()), run(model)
    convert(model, KANConfig())
    assert set(names) <= set(model.state_dict())
    assert torch.equal(run(model), expected)
    revert(model)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("settings", CONFIGS)
def test_every_curve_gets_a_gradient_in_training(settings):
    model = convert(make("llama"), CONFIGS[settings]).train()
    randomize_curves(model)
    model(input_ids=torch.arange(3, 17).view(2, 7)).last_hidden_state.square().mean().backward()
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in ("coefficients", "mix", "denominator"):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


PLACES = [
    *[(slot, edges) for slot in ("input", "up", "gate", "act", "down") for edges in ("channel", "group")],
    *[(slot, edges) for slot in ("up", "gate", "down") for edges in ("full", "low_rank")],
]


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("slot", "edges"), PLACES, ids=lambda value: value)
def test_gradients_of_every_parameter_against_float64(slot, edges, basis):
    config = KANConfig(basis=basis, slots=(slot,), edges=edges, rank=3, grid_size=4)
    block = convert(make("llama"), config).layers[0].mlp
    randomize_curves(block)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(20)  # from the initial 0.02 to where hidden units reach the domain's ends
    exact = copy.deepcopy(block).double()
    generator = torch.Generator().manual_seed(2)
    x, weights = torch.randn(2, 2, 9, 64, generator=generator).unbind()
    for module, dtype in ((block, torch.float32), (exact, torch.float64)):
        (module(x.to(dtype)) * weights.to(dtype)).sum().backward()
    for (name, parameter), reference in zip(block.named_parameters(), exact.parameters(), strict=True):
        assert reference.grad.any(), name
        assert relative_error(parameter.grad, reference.grad) < BLOCK_GRADIENT_BOUND, name


def test_generation_is_unchanged():
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(MODELS["llama"]()).eval()
    prompt = torch.arange(3, 10).view(1, 7)
    expected = model.generate(prompt, max_new_tokens=16, do_sample=False, pad_token_id=0)
    convert(model, KANConfig(slots=("input", "act", "down")))
    assert torch.equal(model.generate(prompt, max_new_tokens=16, do_sample=False, pad_token_id=0), expected)


@pytest.mark.parametrize("name", ["opt", "llama", "bert"])
def test_every_slot_at_once_is_saved_and_loaded_as_it_computes(name, tmp_path):
    # OPT's first layer is both the host of the input curve and itself replaced
    slots = ("input", "up", "gate", "act", "down") if name == "llama" else ("input", "up", "act", "down")
    model = convert(make(name), KANConfig(slots=slots))
    randomize_curves(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(transformers.AutoModel.from_pretrained(tmp_path).eval()), run(model))


def test_converting_the_base_of_a_model_with_a_head_converts_both(tmp_path):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(MODELS["llama"]()).eval()
    convert(model.model, KANConfig())
    randomize_curves(model)
    assert is_converted(model)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.arange(3, 17).view(2, 7)
    assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_models_that_share_a_config_object_stay_apart(tmp_path):
    config = MODELS["llama"]()
    first, second = transformers.LlamaForCausalLM(config), transformers.LlamaForCausalLM(config)
    convert(first, KANConfig())
    assert not is_converted(second)
    third = transformers.LlamaForCausalLM(first.config)
    assert not is_converted(third)
    convert(third, KANConfig(basis="fourier"))
    revert(third)
    assert is_converted(first)
    assert first.config.quantization_config.config.basis == "bspline"


def test_a_part_that_was_changed_alone_is_not_saved(tmp_path):
    model = convert(make("llama"), KANConfig())
    refine_grid(model.layers[0], 10)
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.act_fn has channel curves.*refine_grid\(model"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_whose_config_is_a_dictionary():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = {"d": 6}
            self.up, self.act, self.down = torch.nn.Linear(6, 10), torch.nn.ReLU(), torch.nn.Linear(10, 6)

        def forward(self, x):
            return self.down(self.act(self.up(x)))

    model = Model()
    convert(model, KANConfig())
    assert is_converted(model)
    revert(model)
    assert isinstance(model.act, torch.nn.ReLU)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down, self.act = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4), nn.SiLU()

    def forward(self, x):
        return self.down(self.act(self.gate(x)) * self.up(x))


def test_a_warning_names_what_has_no_such_slot():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 4)), Gated())
    with pytest.warns(UserWarning, match="No curves in 1 site, for instance in 0: .* has no slot 'gate'") as told:
        convert(model, KANConfig(slots=("gate",)))
    assert told[0].filename == __file__


def test_layers_with_a_forward_of_their_own_are_reverted():
    model = convert(make("llama"), KANConfig(slots=("down",)))
    layer = next(module for module in model.modules() if isinstance(module, KANLinear))
    layer.forward = types.MethodType(KANLinear.forward, layer)  # as kernelize sets it
    revert(model)
    assert not any("forward" in vars(module) for module in model.modules() if type(module) is nn.Linear)


def test_a_dispatched_model_is_not_reverted():
    model = convert(make("llama"))
    accelerate.hooks.add_hook_to_module(model.get_submodule("layers.0.mlp"), accelerate.hooks.ModelHook())
    with pytest.raises(ConversionStateError, match="accelerate moves the weights of .*cannot be exchanged"):
        revert(model)
