"""Who takes part: one row per feed-forward network, all in the same transformer with as many parameters."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from activation_study.functions import PolyNorm

from kansformer import KANConfig
from kansformer.errors import ConfigError
from kansformer.training.build import build_model
from kansformer.training.recipe import Recipe

# A gated block of 3 x 128 x 344 and a plain one of 2 x 128 x 516 have exactly as many.
FFN_PARAMETERS = 132_096

# Llama, and Arcee, which is Llama with a plain feed-forward network.
GATED, PLAIN = "llama", "arcee"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A feed-forward network that takes part.

    Args:
        title: for people.
        family: `baseline`, `gate` (curves beside a gate's weights), `plain` (curves in an MLP) or `edges` (a curve per
            edge).
        model_type: of transformers, `llama` for gated blocks and `arcee` for plain ones.
        activation: `hidden_act`.
        kan: the recipe's section; None is no KAN.
        curves: the recipe's section.
        lr: learning rate; the best of those that were tried for it.
    """

    title: str
    family: str
    model_type: str = GATED
    activation: str = "silu"
    kan: dict[str, Any] | None = None
    curves: dict[str, Any] = field(default_factory=dict)
    lr: float = 2e-3


DEFAULT = "gate-up-act-group"
"""What `KANConfig.from_scratch` gives."""

SPLINE_GROUPS = {"edges": "group", "groups": 8, "grid_size": 8}
SPLINE_CHANNELS = {"edges": "channel", "grid_size": 8}
RATIONAL_GROUPS = {"edges": "group", "groups": 8, "basis": "rational", "order": 5}
NARROW = {"domain": [-2.0, 2.0], "extrapolation": "clamp"}
NARROWER = {"domain": [-1.67, 1.67], "extrapolation": "clamp"}


def _curves_in(
    slots: list[str], title: str, family: str, model_type: str = GATED, activation: str = "silu"
) -> dict[str, Variant]:
    """The same slots with splines per channel, splines per group, and rational curves."""
    key = f"{family}-{'-'.join(slots)}"
    kinds = {
        "channel": ("spline per channel", SPLINE_CHANNELS),
        "group": ("spline per group", SPLINE_GROUPS),
        "rational": ("rational per group", RATIONAL_GROUPS),
    }
    return {
        f"{key}-{kind}": Variant(
            title=f"{title}: {name}",
            family=family,
            model_type=model_type,
            activation=activation,
            kan={"slots": slots, **settings},
        )
        for kind, (name, settings) in kinds.items()
    }


VARIANTS: dict[str, Variant] = {
    "swiglu": Variant(title="SwiGLU", family="baseline"),
    "gelu": Variant(title="GELU MLP", family="baseline", model_type=PLAIN, activation="gelu"),
    "relu2": Variant(title="ReLU² MLP", family="baseline", model_type=PLAIN, activation="relu2"),
    "xielu": Variant(title="xIELU MLP", family="baseline", model_type=PLAIN, activation="xielu"),
    "polynorm": Variant(title="PolyNorm MLP", family="baseline", model_type=PLAIN, activation="polynorm"),
    **_curves_in(["input", "act"], "curve in gate and input", "gate"),
    **_curves_in(["act"], "curve in the gate", "gate"),
    **_curves_in(["up", "act"], "curve in gate and up", "gate"),
    **_curves_in(["act"], "curve in the MLP (GELU)", "plain", model_type=PLAIN, activation="gelu"),
    "edges-low-rank": Variant(
        title="low-rank per edge (Chebyshev 3, rank 8) on SwiGLU's gate and up",
        family="edges",
        kan={"slots": ["gate", "up"], "edges": "low_rank", "rank": 8, "basis": "chebyshev", "order": 3, **NARROW},
    ),
    "edges-low-rank-act": Variant(
        title="low-rank per edge (B-spline, G = 6, rank 4) on gate and up, and a curve in the gate",
        family="edges",
        kan={"slots": ["gate", "up", "act"], "edges": "low_rank", "rank": 4, "groups": 8, "grid_size": 6},
    ),
    "edges-spline": Variant(
        title="full per edge: B-spline, G = 2, order 2, on SwiGLU's gate and up",
        family="edges",
        kan={"slots": ["gate", "up"], "edges": "full", "grid_size": 2, "order": 2, "domain": [-2.0, 2.0]},
        curves={"spread": 0.3},
    ),
    "edges-chebyshev": Variant(
        title="full per edge: product of two Chebyshev 2 layers",
        family="edges",
        activation="linear",
        kan={"slots": ["gate", "up"], "edges": "full", "basis": "chebyshev", "order": 2, **NARROWER},
        curves={"spread": 0.5},
    ),
}


def recipe_of(variant: Variant, *, text: str, steps: int, seed: int, lr: float | None = None) -> Recipe:
    """nanoGPT's CPU setting with this network, at the number of parameters that all have.

    Args:
        text: file of tinyshakespeare.
        steps: optimizer steps of 12 blocks of 64 characters.
        seed: of weights and data; runs with one seed read the same blocks in the same order.
        lr: learning rate; None takes the variant's own.
    """
    values: dict[str, Any] = {
        "task": "causal-lm",
        "model": {
            "config": {
                "model_type": variant.model_type,
                "vocab_size": 65,
                "hidden_size": 128,
                "intermediate_size": 8,
                "hidden_act": variant.activation,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "max_position_embeddings": 65,
                "tie_word_embeddings": True,
                "initializer_range": 0.06,
                "bos_token_id": None,
                "eos_token_id": None,
            },
        },
        "kan": variant.kan,
        "curves": variant.curves or None,
        "data": {"files": text, "tokenizer": "characters", "block": 65},
        "training": {
            "max_steps": steps,
            "per_device_train_batch_size": 12,
            "per_device_eval_batch_size": 128,
            "learning_rate": variant.lr if lr is None else lr,
            "weight_decay": 0.1,
            "adam_beta2": 0.99,
            "warmup_steps": 100,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
            "logging_steps": 50,
        },
        "seed": seed,
    }
    values["model"]["config"]["intermediate_size"] = equal_width(values)
    return Recipe.from_dict(values)


def equal_width(values: dict[str, Any]) -> int:
    """The hidden width at which the block has `FFN_PARAMETERS`, as closely as its groups allow.

    Raises:
        ConfigError: no width comes within 1 %.
    """
    step = 1
    if values["kan"]:
        config = KANConfig.from_dict(values["kan"])
        step = config.groups if any(config.curve_spec(slot).edges == "group" for slot in config.slots) else 1
    register_activations()
    one, other = 20 * step, 24 * step  # not 128, the width of the model: a square layer is not a feed-forward network
    low, high = count_ffn(values, one), count_ffn(values, other)
    width = one + (FFN_PARAMETERS - low) * (other - one) / (high - low)
    nearest = max(step, round(width / step) * step)
    off = count_ffn(values, nearest) / FFN_PARAMETERS - 1
    if abs(off) > 0.01:
        raise ConfigError(f"With groups of {step}, width {nearest} misses {FFN_PARAMETERS:,} parameters by {off:.1%}.")
    return nearest


def count_ffn(values: dict[str, Any], width: int) -> int:
    """Parameters of one block's feed-forward network at a hidden width."""
    values = copy.deepcopy(values)
    values["model"]["config"] |= {"intermediate_size": width, "num_hidden_layers": 1}
    with torch.random.fork_rng(devices=[]):
        model = build_model(Recipe.from_dict(values), vocabulary=65)
    return sum(parameter.numel() for parameter in model.model.layers[0].mlp.parameters())


def register_activations() -> None:
    """Make PolyNorm known to transformers under its name."""
    from transformers.activations import ACT2FN

    ACT2FN["polynorm"] = PolyNorm
