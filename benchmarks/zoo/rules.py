"""Sizes of the small models, by the name of the configuration's field."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = 64
INNER = 160
EXPERT_INNER = 104
HEADS = 4
KEY_VALUE_HEADS = 2
HEAD_DIM = HIDDEN // HEADS
ROPE_DIM = 8
VOCABULARY = 336
EXPERTS = 4
POSITIONS = 512
STAGE_WIDTHS = (64, 112, 128, 192, 224, 256, 288, 320)

# First match wins. A number is an upper bound: a default below it stays.
BOUNDS: list[tuple[str, int]] = [
    (
        r"(moe|expert|experts)_(intermediate|ffn|ffn_hidden)_?(size|dim)|shared_expert_intermediate_size|\w*expert\w*_dim"
        r"|moe_hidden_size|\w*expert\w*_size",
        EXPERT_INNER,
    ),
    (
        r"(\w+_)?(intermediate_size|intermediate_dim|ffn_dim|ffn_hidden_size|mlp_dim|linear_units|dim_feedforward|d_ff|d_inner"
        r"|feedforward_dim|feed_forward_size|n_inner)(_\w+)?",
        INNER,
    ),
    (r"num_key_value_heads|\w*num_key_value_(attention_)?heads|num_kv_heads|n_head_kv|kv_n_heads", KEY_VALUE_HEADS),
    (r"linear_num_key_heads", 2),
    (r"(\w+_)?(mamba_n_heads|mamba_num_heads)", 8),
    (r"n_mamba_heads", 2),
    (
        r"(\w+_)?(num_attention_heads|attention_heads|n_heads?|num_heads|self_attn_heads|num_query_groups"
        r"|linear_num_value_heads|num_\w+_heads|encoder_layerdrop_heads|\w+_heads)",
        HEADS,
    ),
    (r"qk_rope_head_dim", ROPE_DIM),
    (
        r"(\w+_)?(head_dim|d_kv|d_head|attention_head_size|attention_head_dim|dim_head|head_size|headdim|kv_channels"
        r"|key_head_dim|value_head_dim|v_head_dim|qk_nope_head_dim)",
        HEAD_DIM,
    ),
    (r"q_lora_rank|\w*_rank", 24),
    (r"ssm_state_size|state_size|mamba_d_state", 16),
    (r"rotary_dim", 8),
    (r"(\w+_)?vocab_size(_\w+)?|num_embeddings", VOCABULARY),
    (r"(\w+_)?codebook_size", 256),
    (r"num_experts_per_tok|moe_top_?k|moe_k|top_k|num_experts_per_token|moe_num_active\w*|num_selected_experts", 2),
    (r"n_group|topk_group|num_expert_groups?|n_shared_experts|num_shared_experts", 1),
    (
        r"(\w+_)?(num_experts|n_routed_experts|num_local_experts|expert_num|moe_num_experts|num_routed_experts|n_experts)",
        EXPERTS,
    ),
    (r"max_position_embeddings|n_positions|max_seq_len|max_sequence_length|\w+_max_position_embeddings", POSITIONS),
    (
        r"(\w+_)?(d_model|n_embd|embed_dim|emb_dim|hidden_size|hidden_dim|embedding_size|embedding_dim|projection_dim|dim"
        r"|projection_size|latents|output_dim|out_hidden_size|proj_dim|width|hidden_channels|d_latents|descriptor_dim"
        r"|out_dim|embed_size|class_embed_dim|units|output_channels|vector_quantization_hidden_dimension)(_\w+)?",
        HIDDEN,
    ),
]
PERIODS = {
    "first_k_dense_replace": 1,
    "num_kv_shared_layers": 0,
    "decoder_sparse_step": 1,
    "encoder_sparse_step": 2,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "sliding_window_pattern": 2,
    "_sliding_window_pattern": 2,
    "full_attention_interval": 2,
    "cross_attention_frequency": 2,
    "num_query_tokens": 5,
    "num_dense_layers": 1,
    "layer_group_size": 2,
    "num_queries": 10,
    "upsample_groups": HIDDEN,
    "max_source_positions": 50,
    "num_pos_feats": HIDDEN // 2,
    "mm_tokens_per_image": 4,
    "qk_head_dim": HEAD_DIM + ROPE_DIM,
}
IMAGE_SIZE = re.compile(r"(\w+_)?(image_size|img_size)$|^pretrain_image_size$")
WIDTHS_PER_STAGE = re.compile(
    r"^(hidden_sizes|embed_dims|dims|embed_dim|neck_hidden_sizes|embed_dim_per_stage|backbone_channel_list)$"
)
HEADS_PER_STAGE = re.compile(r"heads?(_per_stage)?$")
DEPTHS_PER_STAGE = re.compile(r"^(depths|blocks_per_stage|stage_num_blocks|block_sizes|num_block_repeats)$")
TOKEN_ID = re.compile(r"(_token_ids?|_token_index|_id|_idx|_index|_tokens?)$")
# Fields whose default None leaves a part of the model undefined.
WHERE_NONE = {
    "head_dim": HEAD_DIM,
    "num_key_value_heads": HEADS,
    "num_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "top_k_experts": 2,
    "moe_intermediate_size": EXPERT_INNER,
    "n_group": 1,
    "topk_group": 1,
    "vocab_size": VOCABULARY,
}
SLIDING_WINDOW = 8
# Widths that follow from the data (mel bins, pixels of a patch) and not from the model's size.
SET_BY_DATA = {
    "model_in_dim",
    "input_dim",
    "patch_dim",
    "video_patch_dim",
    "patch_embed_hidden_size",
    "feature_projection_input_dim",
}
_BOUNDS = [(re.compile(pattern + "$"), bound) for pattern, bound in BOUNDS]


class TokenIds:
    """Ids beyond the small vocabulary, moved to its end: the same id always to the same place."""

    def __init__(self) -> None:
        self.moved: dict[int, int] = {}

    def move(self, token: int) -> int:
        if token < VOCABULARY:
            return token
        return self.moved.setdefault(token, VOCABULARY - 1 - len(self.moved))


def shrink_field(name: str, value: Any, fields: dict[str, Any], token_ids: TokenIds, ignored: set[str]) -> Any:
    """The field's value in the small model; unchanged where no rule knows it.

    `ignored` are the rotary parameters that the configuration takes beyond the common ones.
    """
    if value is None:
        if name == "sliding_window" and "sliding_attention" in (fields.get("layer_types") or ()):
            return SLIDING_WINDOW
        return WHERE_NONE.get(name)
    if name in PERIODS and type(value) is int:
        return min(value, PERIODS[name])
    if isinstance(value, dict) and name.startswith("rope"):
        return _rope(value, fields, ignored)
    if isinstance(value, (list, tuple)) and value and all(type(item) is int for item in value):
        return _shrink_list(name, value, token_ids)
    if name == "backbone_feature_sizes":
        return [[16 // 2**level] * 2 for level in range(len(value))]
    if type(value) is not int or name in SET_BY_DATA:
        return value
    if IMAGE_SIZE.match(name):
        return image_size(value, fields)
    if TOKEN_ID.search(name):
        return token_ids.move(value)
    if name.endswith("num_key_value_heads") and value == fields.get(name.replace("key_value", "attention")):
        return min(value, HEADS)
    for pattern, bound in _BOUNDS:
        if pattern.match(name):
            return min(value, bound)
    return value


def image_size(value: int, fields: dict[str, Any]) -> int:
    """Four patches a side for plain patches of 8 and more; 64 pixels for pyramids, which halve it several times."""
    patch = fields.get("patch_size")
    patch = patch if type(patch) is int else 4
    return min(value, 4 * patch if patch >= 8 else 64)


def _shrink_list(name: str, value: list | tuple, token_ids: TokenIds) -> list | tuple:
    if TOKEN_ID.search(name):
        return type(value)(token_ids.move(item) for item in value)
    if IMAGE_SIZE.match(name):
        return type(value)(min(item, 64) for item in value)
    if WIDTHS_PER_STAGE.match(name):
        ranks = sorted(set(value))
        return type(value)(min(item, STAGE_WIDTHS[ranks.index(item)]) for item in value)
    if name == "decoder_in_channels":
        return type(value)(HIDDEN for _ in value)
    if HEADS_PER_STAGE.search(name):
        return type(value)(4 if item >= 4 else 2 if item >= 2 else 1 for item in value)
    if DEPTHS_PER_STAGE.match(name):
        return type(value)(1 for _ in value)
    return value


def _rope(parameters: dict[str, Any], fields: dict[str, Any], ignored: set[str]) -> dict[str, Any]:
    """Sections of multi-axis rotary embeddings must add up to half of what is rotated in a head."""
    new = dict(parameters)
    if "mrope_section" in ignored and "rope_theta" in new:
        new.setdefault("mrope_section", [0, 0, 0])
    for name, value in list(new.items()):
        if isinstance(value, dict):
            new[name] = _rope(value, fields, ignored)
        elif name == "mrope_section" and value:
            share = parameters.get("partial_rotary_factor") or fields.get("partial_rotary_factor") or 1
            rotated = ROPE_DIM if "qk_rope_head_dim" in fields else int(HEAD_DIM * share)
            new[name] = _split(rotated // 2, len(value))
        elif name in ("short_factor", "long_factor") and isinstance(value, list):
            new[name] = value[: HEAD_DIM // 2]
    return new


def _split(total: int, parts: int) -> list[int]:
    return [total // parts + (1 if part >= parts - total % parts else 0) for part in range(parts)]
