"""See that weights were loaded in their shapes: before 5.21 transformers takes any where a quantizer is at work."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers.utils.loading_report import LoadStateDictInfo

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(model: nn.Module) -> Shapes:
    """Of all weights and saved buffers."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def report_other_shapes(model: Any, wanted: Shapes, loading_info: "LoadStateDictInfo") -> None:
    """Name weights of other shapes to transformers, whose report is an error where sizes must match.

    Where they need not, such weights are made anew, as transformers does by itself from 5.21 on.
    """
    found = shapes_of(model)
    mismatched: set[Any] = loading_info.mismatched_keys
    other = [name for name in found if name in wanted and found[name] != wanted[name]]
    for name in other:
        mismatched.add((name, found[name], wanted[name]))
        path, _, last = name.rpartition(".")
        module = model.get_submodule(path)
        old = getattr(module, last)
        new = torch.empty(wanted[name], dtype=old.dtype, device=old.device)
        setattr(module, last, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
    if other:
        model._initialize_missing_keys(True)
        model.tie_weights()
