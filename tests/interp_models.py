"""Kinds of curves and small models that reading is tested on."""

import transformers
from tiny_models import tiny_config

from kansformer import KANConfig

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
