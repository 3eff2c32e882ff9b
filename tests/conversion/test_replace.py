"""Narrower feed-forward networks: counted, alive, started from the originals, and undone whole when anything fails."""

import copy

import pytest
import torch
import transformers
from tiny_models import SMALL

from kansformer import KANConfig, convert, is_converted, plan_conversion, revert
from kansformer.conversion import replace as replace_module
from kansformer.conversion import replace_feed_forwards
from kansformer.conversion.narrow import narrow_site
from kansformer.errors import ConfigError, ConversionStateError, DataError, NoSiteError, ProofError, SlotError
from kansformer.sites import find_sites

TINY = SMALL | dict(vocab_size=100, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4)
TOKENS = dict(pad_token_id=0, eos_token_id=0, bos_token_id=0)
MODELS = {
    "llama": lambda: transformers.LlamaConfig(**TINY),
    "llama with biases": lambda: transformers.LlamaConfig(**TINY, mlp_bias=True),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=100, n_embd=16, n_layer=3, n_head=4, n_inner=40, **TOKENS),
    "gptj": lambda: transformers.GPTJConfig(
        vocab_size=100, n_embd=16, n_layer=3, n_head=4, n_inner=40, rotary_dim=4, **TOKENS
    ),
}
FULL = KANConfig(edges="full", slots=("up", "down"), grid_size=2, layers="1:")


def make(name):
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(MODELS[name]()).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):  # zero in a new model, so that a lost one would not show
                parameter.normal_()
    return model


@torch.no_grad()
def run(model):
    return model(input_ids=torch.arange(3, 17).view(2, 7)).last_hidden_state


def state_of(model):
    return [type(module) for module in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}


def assert_untouched(model, before):
    types, state = state_of(model)
    assert types == before[0] and list(state) == list(before[1])
    assert all(torch.equal(value, before[1][key]) for key, value in state.items())
    assert not is_converted(model)


@pytest.mark.parametrize("hidden", [9, 16, 40])  # 16 is the model's own width
@pytest.mark.parametrize("name", MODELS)
def test_narrower_in_place_and_as_the_plan_says(name, hidden):
    model = make(name)
    before = state_of(model)
    plan = plan_conversion(model, FULL, hidden=hidden)
    assert_untouched(model, before)
    assert replace_feed_forwards(model, FULL, hidden=hidden) is model
    assert is_converted(model)
    assert plan.parameters_after == sum(p.numel() for p in model.parameters())
    assert {site.hidden for site in plan.sites} == {hidden} and len(plan.sites) == 2
    for site in plan.sites:
        layers = {slot: model.get_submodule(site.slots[slot].path) for slot in ("up", "down")}
        assert layers["up"].coefficients.shape == (16, 5, hidden)
        assert layers["down"].coefficients.shape == (hidden, 5, 16)
    model.train()(input_ids=torch.arange(3, 17).view(2, 7)).last_hidden_state.square().mean().backward()
    assert all(p.grad is not None for site in plan.sites for p in model.get_submodule(site.path).parameters())


@pytest.mark.parametrize("name", MODELS)
def test_with_all_channels_it_computes_what_the_original_does(name):
    model = make(name)
    expected = run(model)
    assert torch.equal(run(replace_feed_forwards(model, FULL, hidden=40)), expected)


@pytest.mark.parametrize("name", MODELS)
def test_the_largest_channels_stay(name):
    """The others' weights are tiny here, so that nothing is lost with them."""
    model = make(name)
    kept = torch.tensor([3, 7, 8, 21, 39])
    others = torch.ones(40, dtype=torch.bool).index_fill(0, kept, False)
    with torch.no_grad():
        for site in find_sites(model):
            layer = model.get_submodule(site.slots["down"].path)
            weight = layer.weight if name == "gpt2" else layer.weight.T
            weight[others] *= 1e-9
    expected = run(model)
    replace_feed_forwards(model, FULL, hidden=5)
    torch.testing.assert_close(run(model), expected, rtol=1e-5, atol=1e-5)


def test_inputs_show_which_channels_matter():
    """Half of the channels have large weights but listen to an input that is always 0."""
    model = make("llama")
    mute = torch.arange(40) % 2 == 0
    with torch.no_grad():
        for layer in model.layers:
            layer.post_attention_layernorm.weight[0] = 0
            layer.mlp.up_proj.weight[mute] = 0
            layer.mlp.up_proj.weight[mute, 0] = 10
    expected, tokens = run(model), torch.arange(3, 17).view(2, 7)
    blind = replace_feed_forwards(copy.deepcopy(model), FULL, hidden=20)
    model.train()
    replace_feed_forwards(model, FULL, hidden=20, inputs=[tokens, {"input_ids": tokens}])
    assert model.training and not model.layers[1].mlp.down_proj._forward_pre_hooks
    error, blind_error = ((run(m.eval()) - expected).norm() for m in (model, blind))
    assert error < 1e-5 < 1e-2 < blind_error


def test_the_original_weights_are_not_shared():
    model = make("llama with biases")
    originals = list(model.layers[1].mlp.parameters())
    replace_feed_forwards(model, FULL, hidden=40)
    assert len(originals) == 6 and not {id(p) for p in originals} & {id(p) for p in model.parameters()}


def test_a_random_start_depends_on_the_seed_only():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = make("llama"), make("llama"), make("llama")
    torch.set_rng_state(state)
    for model, seed in ((first, 0), (again, 0), (other, 1)):
        replace_feed_forwards(model, FULL, hidden=9, start="random", seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(run(first), run(again)) and not torch.equal(run(first), run(other))
    weight = first.layers[1].mlp.down_proj.weight
    assert 0.8 / 3 < weight.abs().max() <= 1 / 3


def test_flags_hooks_and_modes_stay():
    model = make("llama").train()
    layer = model.layers[2].mlp.down_proj
    layer.weight.requires_grad_(False)
    calls = []
    layer.register_forward_hook(lambda module, args, output: calls.append(args[0].shape))
    replace_feed_forwards(model, FULL, hidden=9)
    new = model.layers[2].mlp.down_proj
    calls.clear()
    run(model)
    assert not new.weight.requires_grad and new.coefficients.requires_grad and new.training
    assert calls == [(2, 7, 9)]


def test_it_is_not_reverted_nor_converted_again():
    model = replace_feed_forwards(make("llama"), FULL, hidden=9)
    with pytest.raises(
        ConversionStateError, match=r"2 sites were replaced .* layers\.1\.mlp by one with 9 hidden chan"
    ):
        revert(model)
    with pytest.raises(ConversionStateError, match="has curves already"):
        replace_feed_forwards(model, FULL, hidden=9)
    assert is_converted(model)


OTHERS = {
    "fused": (
        transformers.Phi3Config(**TINY, **TOKENS),
        r"layers\.1\.mlp is a feed-forward network of the kind 'fused'",
    ),
    "split": (transformers.BertConfig(**TINY), r"encoder\.layer\.1 is a feed-forward network of the kind 'split'"),
    "experts": (
        transformers.MixtralConfig(**TINY, num_key_value_heads=2, num_local_experts=2),
        "is a feed-forward network of the kind 'experts', which",
    ),
    "a linear layer of its own": (
        transformers.FalconConfig(vocab_size=100, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, **TOKENS),
        r"is a transformers\.models\.falcon\.modeling_falcon\.FalconLinear, whose forward may depend",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_kinds_are_refused_with_the_reason(case):
    config, match = OTHERS[case]
    model = transformers.AutoModel.from_config(config)
    before = state_of(model)
    with pytest.raises(SlotError, match=match):
        replace_feed_forwards(model, KANConfig(layers="1:"), hidden=9)
    assert_untouched(model, before)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        (
            dict(hidden=0),
            ConfigError,
            r"hidden of layers\.1\.mlp must be a whole number from 1 to 40, got 0",
        ),
        (dict(hidden=41), ConfigError, "got 41"),
        (dict(hidden=True), ConfigError, "got True"),
        (dict(hidden=8.0), ConfigError, r"got 8\.0"),
        (dict(hidden=9, start="zero"), ConfigError, "Unknown start 'zero'. Choose one of: channels, random"),
        (dict(hidden=9, start="random", inputs=torch.ones(1, 2).long()), ConfigError, "Leave one out"),
        (dict(hidden=9, inputs=[]), DataError, r"No input reached layers\.1\.mlp"),
        (dict(hidden=9, config=KANConfig(layers=7)), ConfigError, "There is no layer 7"),
        (dict(hidden=9, config=KANConfig(edges="group", groups=2)), ConfigError, "groups=2 does not divide the 9"),
    ],
)
def test_impossible_wishes_are_errors_and_leave_the_model_alone(settings, error, match):
    model = make("llama")
    before = state_of(model)
    with pytest.raises(error, match=match):
        replace_feed_forwards(model, **{"config": FULL, **settings})
    assert_untouched(model, before)


def test_groups_need_to_divide_the_new_width_only():
    replace_feed_forwards(make("llama"), KANConfig(edges="group", groups=3), hidden=9)


def test_a_model_without_feed_forward_networks():
    with pytest.raises(NoSiteError, match="has no feed-forward network"):
        replace_feed_forwards(torch.nn.Sequential(torch.nn.Linear(3, 3)), FULL, hidden=2)


def test_a_shared_layer_is_refused():
    model = make("llama")
    model.layers[1].mlp.down_proj = model.layers[0].mlp.down_proj
    before = state_of(model)
    with pytest.raises(SlotError, match=r"layers\.1\.mlp\.down_proj is shared with other parts"):
        replace_feed_forwards(model, FULL, hidden=9)
    assert_untouched(model, before)


@pytest.mark.parametrize("failing", range(10))
def test_a_failure_half_way_leaves_the_model_as_it_was(monkeypatch, failing):
    """Two layers: three linear layers narrowed and two slots filled in each."""
    model, calls = make("llama"), []
    before, expected = state_of(model), run(model)
    for function in (narrow_site, convert):
        fill_slot = function.__globals__["fill_slot"]

        def fail(root, slot, module, fill_slot=fill_slot):
            if root is model:
                calls.append(slot)
                if len(calls) > failing:
                    raise KeyboardInterrupt
            return fill_slot(root, slot, module)

        monkeypatch.setitem(function.__globals__, "fill_slot", fail)
    with pytest.raises(KeyboardInterrupt):
        replace_feed_forwards(model, FULL, hidden=9)
    assert len(calls) == failing + 1
    assert_untouched(model, before)
    assert torch.equal(run(model), expected)


def test_a_failure_at_the_very_end_leaves_the_model_as_it_was(monkeypatch):
    model = make("llama")
    before = state_of(model)

    def fail(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(replace_module, "execute_plan", fail)
    with pytest.raises(KeyboardInterrupt):
        replace_feed_forwards(model, FULL, hidden=9)
    assert_untouched(model, before)


class Halves(torch.nn.Module):
    """A forward that knows its hidden width."""

    def __init__(self):
        super().__init__()
        self.up, self.act, self.down = torch.nn.Linear(6, 10), torch.nn.ReLU(), torch.nn.Linear(10, 6)

    def forward(self, x):
        return self.down(self.act(self.up(x)) * torch.arange(10.0))


def test_a_block_that_depends_on_its_width_is_refused():
    model = torch.nn.ModuleDict({"ffn": Halves()})
    before = state_of(model)
    with pytest.raises(ProofError, match="ffn does not run with a narrower hidden layer: .*size"):
        replace_feed_forwards(model, KANConfig(), hidden=4)
    assert_untouched(model, before)
