"""Which of a model's layers a small copy keeps: one of every kind, at least two."""

from __future__ import annotations

import re
from typing import Any

MIN_LAYERS = 2
MAX_LAYERS = 4
COUNT = re.compile(
    r"^(num_hidden_layers|n_layers?|num_layers|depth|layers|\w+_layers|\w+_num_hidden_layers|\w*num_layers"
    r"|\w*_depth|num_blocks|num_layers_\w+)$"
)
# Integers that end in "layers" but count or name something else.
NOT_A_COUNT = {
    "num_feat_extract_layers",
    "num_nextn_predict_layers",
    "num_adapter_layers",
    "max_window_layers",
    "num_kv_shared_layers",
    "num_hidden_layers_per_stack",
    "min_depth",
    "max_depth",
}
NOT_INDICES = {"encode_proj_layers"}
INDICES = re.compile(r"(_indexes|_indices|_idxs|_layer_ids|_layers|_blocks|_idx)$|^out_indices$")


def is_count(name: str, value: Any) -> bool:
    return type(value) is int and COUNT.match(name) is not None and name not in NOT_A_COUNT


def kept_layers(fields: dict[str, Any]) -> dict[int, list[int]]:
    """For every layer count among the fields: the layers to keep, one of each kind that per-layer lists tell apart."""
    counts = {value for name, value in fields.items() if is_count(name, value) and value > MIN_LAYERS}
    return {count: _representatives(count, fields) for count in counts}


def cut(name: str, value: Any, kept: dict[int, list[int]]) -> Any:
    """A field after leaving layers out: counts, lists with one entry per layer, lists of layer numbers."""
    if is_count(name, value) and value in kept:
        return len(kept[value])
    if not isinstance(value, (list, tuple)) or not value:
        return value
    if len(value) in kept and len(value) > MIN_LAYERS and not _are_indices(name, value):
        return type(value)(value[layer] for layer in kept[len(value)])
    if _are_indices(name, value) and kept:
        depth = max(kept)
        new = sorted({kept[depth].index(layer) for layer in value if layer in kept[depth]})
        return type(value)(new or [len(kept[depth]) - 1])
    return value


def _representatives(count: int, fields: dict[str, Any]) -> list[int]:
    per_layer = [
        value
        for name, value in fields.items()
        if isinstance(value, (list, tuple)) and len(value) == count and not _are_indices(name, value)
    ]
    members = [
        set(value) for name, value in fields.items() if isinstance(value, (list, tuple)) and _are_indices(name, value)
    ]
    first_of_kind: dict[str, int] = {}
    for layer in range(count):
        kind = str([value[layer] for value in per_layer] + [layer in numbers for numbers in members])
        first_of_kind.setdefault(kind, layer)
    kept = sorted(first_of_kind.values())[:MAX_LAYERS]
    rest = [layer for layer in reversed(range(count)) if layer not in kept]
    return sorted(kept + rest[: max(0, MIN_LAYERS - len(kept))])


def _are_indices(name: str, value: list | tuple) -> bool:
    """Strictly rising layer numbers, such as the layers with global attention."""
    return (
        INDICES.search(name) is not None
        and name not in NOT_INDICES
        and len(value) > 0
        and all(type(item) is int for item in value)
        and list(value) == sorted(set(value))
    )
