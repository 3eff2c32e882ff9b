"""The input and output of a network can be seen and replaced, wherever its layers live."""

import pytest
import torch
import transformers
from tiny_models import tiny_bert, tiny_llama

from kansformer.errors import SlotError
from kansformer.sites import find_sites
from kansformer.sites.intercept import intercept, site_of_layer

TOKENS = torch.arange(10).reshape(2, 5)


def tiny_opt():
    config = transformers.OPTConfig(
        vocab_size=24, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16
    )
    return transformers.OPTForCausalLM(config)


@pytest.mark.parametrize("make", [tiny_llama, tiny_bert, tiny_opt])
@torch.no_grad()
def test_a_network_is_seen_and_replaced(make):
    model = make().eval()
    site, seen = site_of_layer(model, 1), []
    before = model(TOKENS).logits
    with intercept(model, site, lambda x, y: seen.append((x, y))):
        assert torch.equal(model(TOKENS).logits, before)
    ((x, y),) = seen
    assert x.shape == y.shape and x.numel() == TOKENS.numel() * 16
    if make is tiny_llama:
        assert torch.equal(model.get_submodule(site.path)(x), y)
    with intercept(model, site, lambda x, y: torch.zeros_like(y)):
        assert not torch.equal(model(TOKENS).logits, before)
    assert torch.equal(model(TOKENS).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_layer_without_one_dense_network_is_refused():
    with pytest.raises(SlotError, match="Layer 2 has no feed-forward network. Choose from 0 to 1"):
        site_of_layer(tiny_llama(), 2)
    with pytest.raises(SlotError, match="None was found in the model; revert it first"):
        site_of_layer(torch.nn.Linear(2, 2), 0)
    mixtral = transformers.MixtralConfig(
        vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(mixtral)
    assert len(find_sites(model)) == 1
    with pytest.raises(SlotError, match="Layer 0 is .*experts: the input and output of one dense network are needed"):
        site_of_layer(model, 0)
