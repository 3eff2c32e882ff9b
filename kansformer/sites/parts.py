"""Recognising the parts of a feed-forward network: linear layers, activations, stacks of expert weights."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import activation as torch_activations

# Known by name: importing these parts of transformers takes most of a second, and a model has imported them already.
TRANSFORMERS_ACTIVATIONS = "transformers.activations"
CONV1D = ("transformers.pytorch_utils", "Conv1D")

# Modules of torch.nn.modules.activation that are not a function of one number.
NOT_POINTWISE = (nn.MultiheadAttention, nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d, nn.GLU)

FUNCTIONS = {
    F.gelu, F.relu, F.silu, F.mish, F.elu, F.leaky_relu, F.relu6, F.hardswish, F.hardtanh, F.softplus, F.tanh,
    F.sigmoid, torch.relu, torch.tanh, torch.sigmoid,
}  # fmt: skip

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear layer, else None.

    A subclass with a forward of its own counts when it belongs to a model of transformers (Falcon writes its product
    out); quantised layers and layers with curves do something else with their weight.
    """
    if isinstance(module, nn.Linear) and module.weight.ndim == 2 and module.weight.is_floating_point():
        kind = type(module)
        if kind.forward is nn.Linear.forward or kind.__module__.startswith("transformers.models."):
            return module.in_features, module.out_features
    return (int(module.nx), int(module.nf)) if is_conv1d(module) else None  # type: ignore[arg-type]


def is_conv1d(module: nn.Module) -> bool:
    """Whether this is exactly transformers' transposed linear layer (GPT-2)."""
    return (type(module).__module__, type(module).__name__) == CONV1D


def is_activation(value: object) -> bool:
    """Whether this is a fixed function of one number: a module of torch or transformers, or a plain function."""
    if isinstance(value, nn.Module):
        kind = type(value)
        if isinstance(value, NOT_POINTWISE):
            return False
        return kind.__module__ in (torch_activations.__name__, TRANSFORMERS_ACTIVATIONS) or (
            kind.__name__.lower().endswith(("activation", "gelu", "swish")) and not any(value.children())
        )
    return callable(value) and (
        any(value is f for f in FUNCTIONS) or getattr(value, "__module__", None) == TRANSFORMERS_ACTIVATIONS
    )


def activations_of(module: nn.Module) -> dict[str, object]:
    """Activations that a module holds directly, by attribute name."""
    children = {name: child for name, child in module.named_children() if is_activation(child)}
    plain = {name: value for name, value in vars(module).items() if not name.startswith("_") and is_activation(value)}
    return children | plain


def linears_of(module: nn.Module) -> dict[str, tuple[int, int]]:
    """(in, out) of the linear layers that a module holds directly, or in a wrapper of one layer (Gemma 4), by path."""
    result = {}
    for name, child in module.named_children():
        inner = dict(child.named_children())
        if (shape := linear_shape(child)) is not None:
            result[name] = shape
        elif len(inner) == 1 and not isinstance(child, CONTAINERS) and not activations_of(child):
            ((inner_name, layer),) = inner.items()
            if (shape := linear_shape(layer)) is not None:
                result[f"{name}.{inner_name}"] = shape
    return result


def stacks_of(module: nn.Module) -> dict[str, tuple[int, int]]:
    """The two inner sizes of 3-D expert weights that a module, or a child made of one weight, holds, by name."""
    stacks = {name: (p.shape[1], p.shape[2]) for name, p in module.named_parameters(recurse=False) if p.ndim == 3}
    for name, child in module.named_children():
        own = list(child.parameters())
        if len(own) == 1 and own[0].ndim == 3 and not isinstance(child, CONVOLUTIONS):
            stacks[name] = (own[0].shape[1], own[0].shape[2])
    return stacks
