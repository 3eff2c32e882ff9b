"""Sites are found by shape, in models whose classes the package has never heard of."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from tiny_models import TINY
from torch import nn

from kansformer.errors import SlotError
from kansformer.sites import find_sites

FAMILIES = {
    "llama": (transformers.LlamaConfig(**TINY), "gated", "layers.0.mlp", {"input", "up", "gate", "act", "down"}),
    "gpt2": (
        transformers.GPT2Config(vocab_size=100, n_embd=64, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0),
        "plain", "h.0.mlp", {"input", "up", "act", "down"},
    ),
    "bert": (transformers.BertConfig(**TINY), "split", "encoder.layer.0", {"input", "up", "act", "down"}),
    "fnet": (  # with a projection of its embeddings and a pooler, square both
        transformers.FNetConfig(**{name: n for name, n in TINY.items() if name != "num_attention_heads"}),
        "split", "encoder.layer.0", {"input", "up", "act", "down"},
    ),
    "phi3": (
        transformers.Phi3Config(**TINY, pad_token_id=0, eos_token_id=0, bos_token_id=0),
        "fused", "layers.0.mlp", {"input", "up", "act", "down"},
    ),
    "opt": (
        transformers.OPTConfig(
            vocab_size=100, hidden_size=64, word_embed_proj_dim=64, ffn_dim=160, num_hidden_layers=3,
            num_attention_heads=4,
        ),
        "plain", "decoder.layers.0", {"input", "up", "act", "down"},
    ),
    "mixtral": (
        transformers.MixtralConfig(**TINY, num_key_value_heads=2, num_local_experts=4),
        "experts", "layers.0.mlp.experts", {"act"},
    ),
    "falcon": (
        transformers.FalconConfig(
            vocab_size=100, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, bos_token_id=0, eos_token_id=0
        ),
        "plain", "h.0.mlp", {"input", "up", "act", "down"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_every_kind_of_site_is_found_with_its_slots(name):
    config, kind, path, slots = FAMILIES[name]
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    sites = find_sites(model)
    assert [site.layer for site in sites] == [0, 1, 2]
    assert sites[0].kind == kind
    assert sites[0].path == path
    assert set(sites[0].slots) == slots
    assert sites[0].width == 64
    for slot in sites[0].slots.values():
        assert slot.features == (64 if slot.name in ("input", "up", "gate") else sites[0].hidden)


def test_the_gate_is_the_layer_that_goes_through_the_activation():
    config = transformers.T5Config(
        vocab_size=100, d_model=64, d_ff=160, d_kv=16, num_heads=4, num_layers=2, feed_forward_proj="gated-gelu"
    )
    with torch.device("meta"):
        sites = find_sites(transformers.AutoModel.from_config(config))
    assert {site.stack for site in sites} == {"encoder.block", "decoder.block"}
    assert sites[0].slots["gate"].path.endswith("wi_0")
    assert sites[0].slots["up"].path.endswith("wi_1")


def test_nested_stacks_are_counted_through():
    config = transformers.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 2], num_heads=[2, 2])
    with torch.device("meta"):
        sites = find_sites(transformers.AutoModel.from_config(config))
    assert [site.layer for site in sites] == [0, 1, 2]


@pytest.mark.parametrize(
    "config",
    [
        transformers.ResNetConfig(hidden_sizes=[8, 16], depths=[1, 1], embedding_size=8),
        transformers.MambaConfig(vocab_size=100, hidden_size=64, num_hidden_layers=2),
    ],
    ids=["convolutions", "state space"],
)
def test_what_is_no_feed_forward_network_is_not_taken_for_one(config):
    with torch.device("meta"):
        assert find_sites(transformers.AutoModel.from_config(config)) == []


class Block(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.first, self.second = nn.Linear(6, 10), nn.Linear(10, 6)
        self.function = activation

    def forward(self, x):
        return self.second(self.function(self.first(x)))


@pytest.mark.parametrize("activation", [nn.ReLU(), F.gelu, torch.tanh], ids=["module", "function", "builtin"])
def test_a_class_of_ones_own_is_found_too(activation):
    (site,) = find_sites(Block(activation))
    assert (site.kind, site.width, site.hidden) == ("plain", 6, 10)
    assert site.slots["act"].path == "function"


def test_the_order_of_definition_does_not_matter_beside_a_gate():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj, self.down_proj = nn.Linear(6, 10), nn.Linear(10, 6)
            self.up_proj, self.act_fn = nn.Linear(6, 10), nn.SiLU()

    (site,) = find_sites(Gated())
    assert (site.kind, site.width, site.hidden) == ("gated", 6, 10)
    assert site.slots["gate"].path == "gate_proj"


def test_a_layer_with_two_networks_has_two_sites():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense, self.act_fn = nn.Linear(6, 10), nn.GELU()

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense, self.norm = nn.Linear(10, 6), nn.LayerNorm(6)

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.intermediate, self.output = First(), Last()
            self.intermediate_query, self.output_query = First(), Last()

    text, query = find_sites(Layer())
    assert (text.slots["up"].path, text.slots["down"].path) == ("intermediate.dense", "output.dense")
    assert (query.slots["up"].path, query.slots["down"].path) == ("intermediate_query.dense", "output_query.dense")


def test_an_activation_called_as_a_function_leaves_the_other_slots():
    class MLP(nn.Module):
        def __init__(self):
            super().__init__()
            self.w1, self.w3, self.w2 = nn.Linear(6, 10), nn.Linear(6, 10), nn.Linear(10, 6)

        def forward(self, x):
            return self.w2(F.silu(self.w1(x)) * self.w3(x))

    (site,) = find_sites(MLP())
    assert set(site.slots) == {"input", "up", "gate", "down"}
    with pytest.raises(SlotError, match="has no slot 'act': its activation is called as a function"):
        site.slot("act")


def test_networks_of_positions_inside_an_attention_are_left_alone():
    config = transformers.Swinv2Config(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 4])
    with torch.device("meta"):
        sites = find_sites(transformers.AutoModel.from_config(config))
    assert not any("continuous_position_bias" in slot.path for site in sites for slot in site.slots.values())
    assert len(sites) == 2


def test_attention_and_poolers_are_left_alone():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = nn.Linear(6, 8), nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(8, 6)

    class Pooler(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense, self.activation = nn.Linear(6, 6), nn.Tanh()

    assert find_sites(nn.Sequential(Attention(), Pooler())) == []
