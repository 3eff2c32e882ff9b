"""Tiny models of transformers with random weights and curves, and what a test keeps of one to compare it with later."""

import torch
import transformers

SMALL = dict(vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)


def tiny_config(**changes):
    """A LlamaConfig of a few thousand parameters."""
    return transformers.LlamaConfig(**SMALL | changes)


def tiny_llama(**changes):
    """A Llama with random weights, the same one each time."""
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(tiny_config(**changes))


def tiny_bert(**changes):
    """A masked language model with random weights, the same one each time."""
    torch.manual_seed(0)
    return transformers.BertForMaskedLM(transformers.BertConfig(**SMALL | changes))


@torch.no_grad()
def randomize_curves(model, std=0.2, *, domain=1.0):
    """Give every curve of a model random coefficients, the same ones each time, and return the model.

    Args:
        model: a converted model, or a block with curves.
        std: standard deviation of the coefficients.
        domain: scales all domains, as a grid update moves them.
    """
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith(("coefficients", "mix", "denominator")):
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    for name, buffer in model.named_buffers():
        if name.endswith("domain"):
            buffer.mul_(domain)
    return model


TINY = dict(vocab_size=100, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4)
MODELS = {
    "llama": lambda: transformers.LlamaConfig(**TINY),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=100, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    ),
    "bert": lambda: transformers.BertConfig(**TINY),
    "phi3": lambda: transformers.Phi3Config(**TINY, pad_token_id=0, eos_token_id=0, bos_token_id=0),
    "opt": lambda: transformers.OPTConfig(
        vocab_size=100, hidden_size=64, word_embed_proj_dim=64, ffn_dim=160, num_hidden_layers=2, num_attention_heads=4
    ),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=100, hidden_size=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    ),
    "falcon": lambda: transformers.FalconConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, bos_token_id=0, eos_token_id=0
    ),
    "mixtral": lambda: transformers.MixtralConfig(**TINY, num_key_value_heads=2, num_local_experts=4),
}


def make(name, dtype=torch.float32):
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(MODELS[name](), dtype=dtype).eval()


def run(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 17).view(2, 7)).last_hidden_state


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_state(model, before):
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.allclose(after[name], before[name], rtol=0, atol=0, equal_nan=True) for name in before)
