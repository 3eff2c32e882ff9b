"""torch's fused inference path of `nn.TransformerEncoderLayer`, which reads weights and calls no layer.

In evaluation mode without gradients torch computes such a layer by one operator from the weights of `linear1` and
`linear2`, so that curves in them, or in the activation, would be skipped. It does so where the activation is ReLU or
GELU, which the layer notes in `activation_relu_or_gelu`; the encoder around it packs padded inputs into nested tensors.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from kansformer.nn.curves import curved_modules

SWITCHES = {
    nn.TransformerEncoderLayer: ("activation_relu_or_gelu", 0),
    nn.TransformerEncoder: ("use_nested_tensor", False),
}
"""Attribute that torch asks in the forward of each class, and the value that keeps its layers separate."""

BEFORE = "_fused_path_before_curves"
"""Attribute for the value that a converted layer or encoder had."""


def set_fused_paths(model: nn.Module) -> None:
    """Switch the fused path off in all layers and encoders that have curves, and put back what it was in all others."""
    for module in model.modules():
        for kind, (name, separate) in SWITCHES.items():
            if not isinstance(module, kind) or name not in vars(module):
                continue
            values = vars(module)
            if next(curved_modules(module), None) is not None:
                values.setdefault(BEFORE, values[name])
                values[name] = separate
            elif BEFORE in values:
                values[name] = values.pop(BEFORE)


@contextmanager
def without_fused_paths() -> Iterator[None]:
    """Context in which all layers of the process are computed one by one."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
