"""Kinds of curves and small models that reading is tested on, some of their edges, and an edit."""

from contextlib import contextmanager

import transformers
from tiny_models import tiny_config

from kansformer import KANConfig
from kansformer.conversion import find_curve_slots

CONFIGS = {
    "act": KANConfig(),
    "input and act in groups": KANConfig(slots=("input", "act"), edges="group", basis="chebyshev"),
    "low rank": KANConfig(slots=("up", "down"), edges="low_rank", rank=2, grid_size=3),
    "full": KANConfig(slots=("up", "act", "down"), edges="full", grid_size=2, layers=-1),
    "channel": KANConfig(slots=("up", "down"), edges="channel", basis="rational", order=5),
}
FAMILIES = {
    "llama": lambda: tiny_config(vocab_size=50),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    ),
}
SITES = ["model.layers.0.mlp", "model.layers.1.mlp"]


def edges_of(model, sites=SITES):
    """Every second one of some layers."""
    return [ref for slot in find_curve_slots(model) if slot.site in sites for ref in slot.edges()][::2]


@contextmanager
def halved(module, change=lambda output: output / 2):
    """The module with half its output, or a function of it."""
    handle = module.register_forward_hook(lambda module, args, output: change(output))
    try:
        yield
    finally:
        handle.remove()
